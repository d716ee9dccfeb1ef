"""What is minimised on an example: one file an objective, each with its paper."""
