"""Muon: momentum whose matrices are made orthogonal before they are applied.

Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/. Matrices of one shape are handled as one
stack, in f32, since a CPU without AMX multiplies f32 faster than bf16.
"""

from collections import defaultdict

import torch

# The quintic of the post: five rounds bring singular values to about 0.7 .. 1.2.
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5


def orthogonalize(stack):
    """Newton-Schulz iteration. stack: [matrices, rows, columns] -> the same shape."""
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For the weight matrices of linear layers, [rows, columns] each."""

    def __init__(self, matrices, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for matrix in group["params"]:
                by_shape[matrix.shape].append(matrix)
            for (rows, columns), matrices in by_shape.items():
                updates = []
                for matrix in matrices:
                    state = self.state[matrix]
                    if not state:
                        state["momentum"] = torch.zeros_like(matrix)
                    state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                    updates.append(matrix.grad.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, rows / columns) ** 0.5
                for matrix, update in zip(matrices, orthogonalize(torch.stack(updates))):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * scale)
