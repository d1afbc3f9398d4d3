"""Supervised training of the student.

    python -m stfm_training.supervised --data DIR --out DIR
    torchrun --nproc-per-node 2 -m stfm_training.supervised --data DIR --out DIR   # a process a core or GPU

One step: a batch from (seed, step) -> features and coarse transformer -> L_c on all cells, L_f on
windows at true matches -> AdamW. The learning rate warms up, holds, and decays over the last part,
so that a run can be prolonged from any checkpoint taken before the decay.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from stfm_ros.model.network import StfmNet, grid_points
from stfm_ros.model.presets import PRESETS, preset
from stfm_ros.model.weights import save_weights
from stfm_training.batches import Batch, Batches, Size
from stfm_training.losses import FineLoss, FocalCoarseLoss
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Source
from stfm_training.sources.recorded import Recorded
from stfm_training.sources.rendered import Rendered


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    data: str
    out: str
    preset: str = "medium"
    steps: int = 6000
    warmup: int = 200
    decay: float = 0.25
    lr: float = 1e-3
    weight_decay: float = 0.03
    clip: float = 1.0
    ema: float = 0.999
    ramp_steps: int = 1500
    pairs: int = 4
    large: float = 0.0
    fine_matches: int = 192
    fine_jitter_px: float = 2.0
    homography: float = 0.4
    rendered: float = 0.35
    recorded: float = 0.25
    workers: int = 1
    seed: int = 0
    checkpoint_every: int = 250
    max_minutes: float = 1e9


def build_sources(config: TrainConfig) -> list[tuple[Source, float]]:
    """The mix of pairs; only data whose terms allow shipping what is trained on them."""
    data = Path(config.data)
    homographies = Homographies(data / "photos" / "open")
    sources: list[tuple[Source, float]] = [(homographies, config.homography)]
    if config.rendered:
        sources.append((Rendered(homographies.photos), config.rendered))
    if config.recorded:
        sources.append((Recorded(data / "rgbd" / "hololens_office"), config.recorded * 0.5))
        sources.append((Recorded(data / "rgbd" / "icl_livingroom1"), config.recorded * 0.35))
        sources.append((Recorded(data / "rgbd" / "tum_fr1_rpy", precise=False), config.recorded * 0.15))
    return sources


def learning_rate(step: int, config: TrainConfig) -> float:
    """Factor on ``lr``: linear warm-up, hold, cosine decay to 1 % over the last ``decay`` of the steps."""
    start = config.steps * (1 - config.decay)
    tail = max((step - start) / max(config.steps - start, 1), 0.0)
    return min((step + 1) / config.warmup, 1.0) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0))))


class Supervised(torch.nn.Module):
    """L_c + L_f of one batch, with what is worth logging."""

    def __init__(self, network: StfmNet, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.coarse = FocalCoarseLoss()
        self.fine = FineLoss(network.config.window)
        self.matches = config.fine_matches
        self.jitter = config.fine_jitter_px

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Loss and named figures."""
        net = self.network
        device_type = batch.image0.device.type
        pairs, width = len(batch.image0), batch.image0.shape[3] // 8
        images = torch.cat([batch.image0, batch.image1]).to(memory_format=torch.channels_last)
        with torch.autocast(device_type, torch.bfloat16):
            coarse, fine = net.features(images.float() / 255)
            feat_c0, feat_c1 = net.transformer(*coarse.chunk(2))
        with torch.autocast(device_type, enabled=False):
            similarity = net.head(feat_c0.float(), feat_c1.float())
            loss_c = self.coarse(similarity, batch.cells, batch.unmatched0, batch.unmatched1)
        b_ids, i_ids, j_ids, target = self.fine_targets(batch, width)
        fine0, fine1 = fine.float().chunk(2)
        with torch.autocast(device_type, torch.bfloat16):
            window0 = net.fine.windows(fine0, feat_c0, b_ids, i_ids, width)
            window1 = net.fine.windows(fine1, feat_c1, b_ids, j_ids, width)
            expectation, variance, log_heatmap = net.fine(window0, window1)
        loss_f = self.fine(expectation, variance, log_heatmap, target, batch.precise[b_ids].float())
        with torch.no_grad():
            at_b, at_i = torch.nonzero(batch.cells >= 0, as_tuple=True)
            right = similarity.argmax(2)[at_b, at_i] == batch.cells[at_b, at_i]
            inside = (target.abs().amax(1) <= net.config.window // 2) & batch.precise[b_ids]
            error = 2 * (expectation - target).norm(dim=1)[inside]
            figures = {
                "loss_c": float(loss_c),
                "loss_f": float(loss_f),
                "coarse_accuracy": float(right.float().mean()),
                "fine_px": float(error.median()) if len(error) else float("nan"),
                "pairs": pairs,
            }
        return loss_c + loss_f, figures

    def fine_targets(self, batch: Batch, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Coarse matches for the fine stage: true points, disturbed by up to ``jitter`` px, rounded.

        Windows that the border cuts (first row and column) are left out, as when matching.
        """
        height = batch.image0.shape[2] // 8
        b_ids, i_ids = torch.nonzero(batch.cells >= 0, as_tuple=True)
        points = batch.points1[b_ids, i_ids]
        noise = (torch.rand_like(points) * 2 - 1) * self.jitter
        cell = ((points + noise) / 8).round()
        whole = (i_ids % width > 0) & (i_ids >= width) & (cell >= 1).all(1)
        whole &= (cell[:, 0] < width) & (cell[:, 1] < height)
        order = torch.randperm(int(whole.sum()))[: self.matches * len(batch.image0)]
        b_ids, i_ids, points, cell = (x[whole][order] for x in (b_ids, i_ids, points, cell))
        j_ids = (cell[:, 1] * width + cell[:, 0]).long()
        return b_ids, i_ids, j_ids, (points - grid_points(j_ids, width)) / 2


class Trainer:
    """The loop: steps, exponential moving average, checkpoints written whole or not at all."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        torch.manual_seed(config.seed)
        network = StfmNet(preset(config.preset)).to(self.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network
        self.model: torch.nn.Module = Supervised(network, config).train()
        self.average = copy.deepcopy(network).eval()
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.lr,
        )
        self.step = 0

    def run(self, sources: list[tuple[Source, float]]) -> None:
        """Train to ``config.steps``, from the newest checkpoint in the output folder if there is one."""
        config = self.config
        self.resume()
        torch.manual_seed(config.seed + 1 + self.rank + 1000 * self.step)
        if distributed.is_initialized():
            self.model = DistributedDataParallel(self.model)
        sizes = [Size(256, 320, config.pairs, 1 - config.large)]
        if config.large:
            sizes.append(Size(448, 576, max(config.pairs // 3, 1), config.large))
        batches = Batches(sources, sizes, config.seed, config.ramp_steps, config.steps, self.rank)
        rest = Subset(batches, range(self.step, config.steps))
        loader = DataLoader(
            rest, batch_size=None, num_workers=config.workers, prefetch_factor=6 if config.workers else None
        )
        begin = time.monotonic()
        waited, since, seen = 0.0, begin, 0
        with Progress(disable=self.rank > 0) as progress, open(self.out / f"log{self.rank or ''}.jsonl", "a") as log:
            bar = progress.add_task("training", total=config.steps, completed=self.step)
            asked = time.monotonic()
            for batch in loader:
                waited += time.monotonic() - asked
                figures = self.train_step(batch.to(self.device))
                seen += int(figures["pairs"])
                progress.update(bar, completed=self.step, description=f"loss {figures['loss_c']:.3f}")
                if self.step % 25 == 0:
                    now = time.monotonic()
                    figures |= {"step": self.step, "pairs_s": seen / (now - since), "waiting": waited / (now - since)}
                    log.write(json.dumps(figures) + "\n")
                    log.flush()
                    waited, since, seen = 0.0, now, 0
                if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    self.save()
                if time.monotonic() - begin > config.max_minutes * 60:
                    break
                asked = time.monotonic()
        self.save()

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * learning_rate(self.step, self.config)
        figures: dict[str, float]
        loss, figures = self.model(batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {self.step} is {float(loss)}; the last checkpoint is kept")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        figures["gradient"] = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        self.optimiser.step()
        self.step += 1
        with torch.no_grad():
            rate = min(self.config.ema, self.step / (self.step + 10))
            for target, source in zip(
                self.average.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                if target.dtype.is_floating_point:
                    target.lerp_(source, 1 - rate)
                else:
                    target.copy_(source)
        return figures

    def save(self) -> None:
        """Weights (the moving average), and the whole state to go on from."""
        if self.rank > 0:
            return
        about = {"config": json.dumps(dataclasses.asdict(self.config)), "step": str(self.step)}
        save_weights(self.average, self.out / "weights.safetensors", about)
        state: dict[str, Tensor] = {}
        for name, module in (("model", self.network), ("average", self.average)):
            state |= {f"{name}/{key}": value.contiguous() for key, value in module.state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser/{index}/{key}": value.contiguous() for key, value in moments.items()}
        temporary = self.out / "state.safetensors.part"
        save_file({key: value.clone() for key, value in state.items()}, str(temporary), {"step": str(self.step)})
        os.replace(temporary, self.out / "state.safetensors")

    def resume(self) -> None:
        """Go on from the output folder's checkpoint, if there is one."""
        path = self.out / "state.safetensors"
        if not path.is_file():
            return
        state = load_file(str(path), device=str(self.device))
        for name, module in (("model", self.network), ("average", self.average)):
            prefix = name + "/"
            module.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimiser/"):
                _, index, name = key.split("/")
                moments.setdefault(int(index), {})[name] = value
        current = self.optimiser.state_dict()
        self.optimiser.load_state_dict({"state": moments, "param_groups": current["param_groups"]})
        self.step = int(max(float(m["step"]) for m in moments.values()))


def main() -> None:
    """Command line: every field of :class:`TrainConfig` is an option."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(TrainConfig):
        required = field.default is dataclasses.MISSING
        kind = str if required else type(field.default)
        choices = list(PRESETS) if field.name == "preset" else None
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            required=required,
            default=None if required else field.default,
            choices=choices,
        )
    config = TrainConfig(**vars(parser.parse_args()))
    cv2.setNumThreads(1)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(max(len(os.sched_getaffinity(0)) // processes, 1))
    if processes > 1:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    Trainer(config).run(build_sources(config))


if __name__ == "__main__":
    main()
