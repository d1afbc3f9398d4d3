"""What a run shows while it goes on: a progress bar, log.jsonl, TensorBoard scalars and match pictures, weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stfm_ros.model.weights import save_weights
from stfm_ros.types import ByteArray, Matches
from stfm_ros.visualise import draw_matches
from stfm_training.batches import Batch
from stfm_training.module import TrainingModule
from stfm_training.objective import network_input

SHOWN_CONFIDENCE = 0.2
RIGHT_PX = 4.0


class Log(Callback):
    """A line of log.jsonl and the scalars every ``run.log_every`` steps; validation lines as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begin = self.since = time.monotonic()
        self.waited = 0.0
        self.asked = self.begin
        self.steps = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Time runs from here: what was read before does not count as waiting."""
        self.begin = self.since = self.asked = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, index: int) -> None:
        """The batch is there."""
        self.waited += time.monotonic() - self.asked

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        """After each step."""
        assert isinstance(module, TrainingModule)
        run, step = module.config.run, trainer.global_step
        self.steps += 1
        now = self.asked = time.monotonic()
        if step % run.log_every == 0:
            seconds = now - self.since
            line: dict[str, float] = {"step": step, **module.figures}
            line["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
            line["pairs_s"] = self.steps * module.config.data.pairs / seconds
            line["waiting"] = self.waited / seconds
            self._write(trainer, line)
            self.since, self.waited, self.steps = now, 0.0, 0
        if run.max_minutes and now - self.begin > 60 * run.max_minutes:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """After each validation, which does not count as waiting."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        if figures:
            self._write(trainer, {"step": trainer.global_step, **figures})
        self.asked = time.monotonic()

    def _write(self, trainer: L.Trainer, line: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: round(value, 6) for name, value in line.items()}) + "\n")
        for logger in trainer.loggers:
            logger.log_metrics({name: value for name, value in line.items() if name != "step"}, trainer.global_step)


class Bar(Callback):
    """Progress on a terminal."""

    def __init__(self, title: str) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.title = title

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """From the step at which the run begins, or goes on."""
        if trainer.is_global_zero:
            self.progress.start()
        self.task = self.progress.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        """One on."""
        assert isinstance(module, TrainingModule)
        figures = module.figures
        text = f"{self.title}  loss {figures['loss']:.3f}  right {figures['coarse_accuracy']:.0%}"
        self.progress.update(self.task, completed=trainer.global_step, description=text)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """The terminal as it was."""
        self.progress.stop()


class Weights(Callback):
    """The moving average as a file to use, as often as a checkpoint is written, and at the end."""

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path = path
        self.about = about

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        """With a checkpoint."""
        assert isinstance(module, TrainingModule)
        if trainer.global_step % module.config.run.checkpoint_every == 0:
            self._write(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """At the end."""
        assert isinstance(module, TrainingModule)
        self._write(trainer, module)

    def _write(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if trainer.is_global_zero:
            save_weights(module.average, self.path, {**self.about, "step": str(trainer.global_step)})


class Pictures(Callback):
    """Matches of the first held-out pairs on TensorBoard, green where they are right."""

    COUNT = 3

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        index: int,
        dataloader: int = 0,
    ) -> None:
        """Of the first batch."""
        assert isinstance(module, TrainingModule)
        if index or not trainer.is_global_zero or not trainer.loggers:
            return
        board: Any = trainer.loggers[0]
        for number in range(min(self.COUNT, len(batch.image0))):
            picture = match_picture(module, batch, number)
            board.experiment.add_image(f"held out/{number}", picture, trainer.global_step, dataformats="HWC")


@torch.no_grad()
def match_picture(module: TrainingModule, batch: Batch, number: int) -> ByteArray:
    """(H, W, 3) uint8: one pair of a batch as the moving average matches it."""
    network = module.average
    image = network_input(network, batch)
    image0, image1 = image[number, None], image[number + len(batch.image0), None]
    cells = image0.shape[2] // 8 * (image0.shape[3] // 8)
    rows = [row[0].float().cpu().numpy() for row in network(image0, image1, min(512, cells))]
    kept = rows[2] >= SHOWN_CONFIDENCE
    matches = Matches(*(row[kept] for row in rows))
    cell = (matches.keypoints0 / 8).round().astype(int) @ np.array([1, image0.shape[3] // 8])
    truth = batch.points1[number].cpu().numpy()[cell]
    right = (batch.cells[number].cpu().numpy()[cell] >= 0) & (
        np.linalg.norm(matches.keypoints1 - truth, axis=1) < RIGHT_PX
    )
    views = [view[number].permute(1, 2, 0).cpu().numpy() for view in (batch.image0, batch.image1)]
    return draw_matches(views[0], views[1], matches, right, f"step {module.global_step}")
