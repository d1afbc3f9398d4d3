"""A run as Lightning sees it: what is optimised, averaged, validated and stored."""

from __future__ import annotations

import copy
from typing import Any

import cv2
import lightning as L
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Subset

from stfm_ros import machine
from stfm_ros.errors import TrainingError
from stfm_ros.model.network import StfmNet
from stfm_training.batches import Batch, Batches, Steps
from stfm_training.config import TrainingConfig
from stfm_training.mix import Mix
from stfm_training.objective import Objective
from stfm_training.optimiser import make_optimiser, update_average
from stfm_training.ranks import process_mean, synchronise_norms, world_size

VALIDATION_SEED = 2**31 + 1  #: outside of what a config's seed may be
VALIDATION_BATCHES = 8


class TrainingModule(L.LightningModule):
    """Teacher or student under training.

    Attributes:
        objective: the network that the optimiser moves, and its teacher.
        validation: the same with its moving average, which is what is kept.
        figures: named numbers of the last step, over all processes.
        stored: what a checkpoint tells of the run.
    """

    def __init__(
        self, config: TrainingConfig, network: StfmNet, teacher: StfmNet | None, mix: Mix, held_out: Mix
    ) -> None:
        super().__init__()
        self.config = config
        self.mix = mix
        self.held_out = held_out
        bf16 = in_bfloat16(config.run.precision)
        self.objective = Objective(network, config.loss, teacher, bf16)
        average = copy.deepcopy(network).eval().requires_grad_(False)
        self.validation = Objective(average, config.loss, None, bf16)
        self.figures: dict[str, float] = {}
        self.stored: dict[str, Any] = {}
        self._hold_still()

    @property
    def network(self) -> StfmNet:
        """What the optimiser moves."""
        return self.objective.network

    @property
    def average(self) -> StfmNet:
        """Its moving average."""
        return self.validation.network

    def train(self, mode: bool = True) -> TrainingModule:
        """What is not trained keeps its statistics."""
        super().train(mode)
        self._hold_still()
        return self

    def _hold_still(self) -> None:
        if self.config.model.train == "fine":
            for part in coarse_parts(self.network):
                part.requires_grad_(False).eval()

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Loss of this process's part of a batch."""
        losses, figures = self.objective(batch)
        loss = torch.stack(list(losses.values())).sum()
        names = ["loss", *losses, *figures]
        values = process_mean(torch.stack([loss, *losses.values(), *figures.values()]).float())
        self.figures = dict(zip(names, values.tolist()))
        if not values[0].isfinite():
            terms = ", ".join(f"{name} {self.figures[name]:.3g}" for name in losses)
            raise TrainingError(f"the loss is not finite ({terms}) {self._place(batch)}")
        return loss

    def _place(self, batch: Batch | None = None) -> str:
        step = self.global_step if batch is None else int(batch.step)
        return (
            f"in step {step} of seed {self.config.run.seed} (batch [{self.config.run.seed}, {step}]); the checkpoints "
            "of earlier steps are kept: lower optimiser.lr, or look at that batch, and give the same command again"
        )

    def configure_gradient_clipping(self, *_args: Any, **_options: Any) -> None:
        """Clip by norm, over the weights that are trained."""
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.clip))
        if norm != norm or norm == float("inf"):
            raise TrainingError(f"the gradient is not finite {self._place()}")
        self.figures["gradient"] = norm

    def configure_optimizers(self) -> Any:
        """AdamW, one cycle over the global step."""
        optimiser, schedule = make_optimiser(self.network, self.config.optimiser)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """A step, and the moving average after it; a checkpoint is written later, and holds both."""
        super().optimizer_step(*args, **options)
        update_average(self.average, self.network, self.config.optimiser.ema, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the run was, to compare with when it goes on."""
        checkpoint["stfm"] = self.stored

    @torch.no_grad()
    def validation_step(self, batch: Batch, _index: int) -> None:
        """Figures of the moving average on pairs that are not trained on."""
        _, figures = self.validation(batch)
        self.log_dict({f"val_{name}": value for name, value in figures.items()}, batch_size=1, sync_dist=True)

    def setup(self, stage: str) -> None:
        """With several processes, batch normalisation sees all of them."""
        if world_size() > 1:
            synchronise_norms(self.network)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the step on that comes next."""
        config, data = self.config, self.config.data
        blank = data.blank if self.network.config.in_channels == 4 else 0.0
        batches = self._batches(self.mix, config.run.seed, data.ramp_steps, blank, data.mixed)
        return self._loader(batches, Steps(self.global_step), config.run.workers)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The same few batches each time; none where nothing is held out."""
        if not self.held_out:
            return []
        batches = self._batches(self.held_out, VALIDATION_SEED, 0)
        return self._loader(Subset(batches, range(VALIDATION_BATCHES)), None, 0)

    def _batches(self, mix: Mix, seed: int, ramp_steps: int, blank: float = 0.0, mixed: float = 0.0) -> Batches:
        data = self.config.data
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        return Batches(mix, data.height, data.width, data.pairs, seed, ramp_steps, rank, world_size(), blank, mixed)

    def _loader(self, batches: Any, sampler: Steps | None, workers: int) -> DataLoader[Batch]:
        # CUDA in a worker (rendering on the GPU) needs processes of their own from the start
        context = "spawn" if workers and torch.cuda.is_available() else None
        return DataLoader(
            batches, batch_size=None, sampler=sampler, num_workers=workers, multiprocessing_context=context,
            prefetch_factor=6 if workers else None, pin_memory=torch.cuda.is_available(), worker_init_fn=one_thread,
        )  # fmt: skip


def coarse_parts(network: StfmNet) -> tuple[nn.Module, ...]:
    """All that a coarse match depends on; what is left feeds the fine stage alone."""
    trunk = network.backbone
    return trunk.stem, trunk.stage2, trunk.stage4, trunk.stage8, trunk.lateral8, network.transformer, network.head


def in_bfloat16(precision: str) -> bool:
    """Whether ``run.precision`` means bfloat16 here: auto goes by the GPU that a run would take, or else by the CPU."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return machine.multiplies_bfloat16()


def one_thread(_worker: int) -> None:
    """Each of the processes that make pairs keeps to one core."""
    cv2.setNumThreads(1)
