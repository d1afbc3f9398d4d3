"""One process or many: the same loss, gradient and normalisation for the same global batch.

DistributedDataParallel averages the gradients of the processes. A loss that is a mean over matches is
therefore written as the sum over this process's matches, divided by the mean number a process has: the
average of that is the mean over all matches, however unevenly they are spread.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


def world_size() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_mean(value: Tensor) -> Tensor:
    """The mean of a detached tensor over the processes."""
    value = value.detach().clone()
    if world_size() > 1:
        distributed.all_reduce(value)
        value /= world_size()
    return value


def mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of this process's values (m,) by weights (m,), such that the mean over processes is the global mean.

    Nothing at all gives 0.
    """
    if weights is None:
        weights = torch.ones_like(values)
    return (values * weights).sum() / process_mean(weights.sum()).clamp(min=1.0 / world_size())


def mean_value(values: Tensor, weights: Tensor) -> Tensor:
    """The global weighted mean itself, the same in each process; for normalising, so without a gradient."""
    return process_mean(mean(values.detach(), weights)).clamp(min=1e-6)


class _SumOverProcesses(torch.autograd.Function):
    """The sum is the same in each process, and so is its gradient: the sum of what each of them makes of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # type: ignore[override]
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient


class ProcessNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, on any device (torch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, normalised."""
        if not (self.training and world_size() > 1):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        values = x.float()
        sums = torch.cat(
            [values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), values.new_full((1,), x[:, 0].numel())]
        )
        sums = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        n = sums[-1]
        average, square = (sums[:-1] / n).chunk(2)
        variance = square - average.square()
        with torch.no_grad():
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - average * scale
        normalised: Tensor = values * scale[:, None, None] + shift[:, None, None]
        return normalised.to(x.dtype)


def synchronise_norms(network: nn.Module) -> None:
    """Let every batch normalisation see all processes; the names of the weights stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = ProcessNorm
