"""Muon in float32, for processors that have no bfloat16 of their own.

The update of a matrix is its momentum made orthogonal by a Newton-Schulz iteration (Jordan et al.
2024, "Muon: An optimizer for hidden layers in neural networks"). `torch.optim.Muon` iterates in
bfloat16 whatever the parameters are; where a processor has to emulate it, that took 3 s a step for
nano's 28 matrices, and 0.2 s in float32. Matrices only, and only what this recipe needs of it.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# A quintic whose slope at zero is as steep as can be (Jordan et al. 2024): the singular values end
# between 0.7 and 1.2, which serves as well as 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix of the same shape, with all singular values drawn near 1; zero stays zero."""
    wide = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    a, b, c = _COEFFICIENTS
    found: Tensor = wide / wide.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(_ITERATIONS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if matrix.size(0) > matrix.size(1) else found


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, its steps as large as AdamW's (Liu et al. 2025, section 2.2)."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; a closure is not taken."""
        if closure is not None:
            raise TypeError("Muon takes no closure")
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    update = orthogonalised(self._ahead(matrix, matrix.grad, group["momentum"]))
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)

    def _ahead(self, matrix: nn.Parameter, gradient: Tensor, momentum: float) -> Tensor:
        """The gradient, led on by the momentum that it joins (Nesterov)."""
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)
