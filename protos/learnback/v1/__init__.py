"""Version 1 of the contract. The `.proto` files beside the generated code are its reference."""
