"""What moves the weights: AdamW on a one-cycle schedule, and the moving average that is kept."""

from __future__ import annotations

import torch
from torch import nn

from stfm_training.config import OptimiserConfig


def make_optimiser(
    network: nn.Module, config: OptimiserConfig
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """AdamW with decay on matrices and kernels alone, and its schedule over the global step."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.lr)
    start = 25.0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        config.lr,
        total_steps=config.steps + 1,  # torch counts the state before the first step
        pct_start=config.warm_up,
        cycle_momentum=False,
        div_factor=start,
        final_div_factor=1 / max(start * config.final_lr, 1e-9),
    )
    return optimiser, schedule


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move ``average`` towards ``network`` after a step (the first is 1); it follows faster in the beginning."""
    rate = 1 - min(decay, step / (step + 10))
    for target, source in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if target.dtype.is_floating_point:
            target.lerp_(source, rate)
        else:
            target.copy_(source)
