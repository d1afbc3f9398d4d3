"""What each loss is worth: teacher, vanilla and distilled students of one size on the same pairs.

    python -m stfm_training.ablation train --photos PHOTOS --out ablation --seeds 0,1,2
    python -m stfm_training.ablation evaluate --out ablation --bags office.mcap,kitchen.mcap

For each seed: a teacher (RGB-D); then all students in lockstep, from the same initial weights and on the same batches,
so that rendering and the teacher's part are paid once; then a vanilla student again with as many more steps as fit
into the time that the distilled one took. The pairs are rendered once and drawn anew with other photometric changes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.weights import load_network, save_weights
from stfm_training.batches import Batch, Batches
from stfm_training.config import LossConfig, OptimiserConfig
from stfm_training.objective import Objective
from stfm_training.optimiser import make_optimiser, update_average
from stfm_training.render import photographs
from stfm_training.sources.pair import Pair, Source
from stfm_training.sources.rendered import Rendered

PLAIN = LossConfig(divergence=0.0, attentive=0.0, fine_matches=32)
DISTILLED = LossConfig(fine_matches=32)
#: name -> losses of a student
STUDENTS: dict[str, LossConfig] = {
    "vanilla": PLAIN,
    "divergence alone": replace(DISTILLED, attentive=0.0),
    "attentive alone": replace(DISTILLED, divergence=0.0),
    "distilled": DISTILLED,
    "public code": LossConfig(
        coarse=0.5, fine=0.5, divergence=0.5, attentive=0.5, variant="public_code", fine_matches=32
    ),
}
VALIDATION_SEED = 10**6


@dataclass(frozen=True)
class Setup:
    """Sizes of the experiment."""

    preset: str = "tiny"
    height: int = 96
    width: int = 128
    pairs: int = 8
    pool: int = 4000
    teacher_steps: int = 800
    student_steps: int = 400
    blank: float = 0.2  #: share of the teacher's pairs without colours
    lr: float = 2e-3
    hardest: float = 0.6  #: difficulty of the last pairs, and of those that are measured on
    ramp: float = 0.5  #: share of the steps over which the difficulty rises


class Pool:
    """Pairs that were made before, in order of difficulty; one up to the difficulty asked for is drawn."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        return self.pairs[int(rng.integers(max(int(len(self.pairs) * difficulty), 1)))]


def make_pool(source: Source, setup: Setup, seed: int = 0) -> Pool:
    """Pairs of rising difficulty; a function of the seed."""
    pairs = []
    for index in track(range(setup.pool), "rendering", console=Console(stderr=True)):
        rng = np.random.default_rng([seed, index])
        pairs.append(source.pair(rng, setup.hardest * index / setup.pool, setup.height, setup.width))
    return Pool(pairs)


class Run:
    """One network under training."""

    def __init__(
        self, setup: Setup, loss: LossConfig, steps: int, seed: int, channels: int = 3, teacher: StfmNet | None = None
    ) -> None:
        torch.manual_seed(seed)
        network = StfmNet(preset(setup.preset, channels))
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = StfmNet(preset(setup.preset, channels)).eval()
        self.average.load_state_dict(network.state_dict())
        self.objective = Objective(network, loss, teacher).train()
        self.config = OptimiserConfig(steps=steps, lr=setup.lr)
        self.optimiser, self.schedule = make_optimiser(network, self.config)
        self.seconds: list[float] = []

    def step(self, batch: Batch) -> None:
        """One optimiser step."""
        begin = time.perf_counter()
        losses, _ = self.objective(batch)
        self.optimiser.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimiser.step()
        self.schedule.step()
        self.seconds.append(time.perf_counter() - begin)
        update_average(self.average, self.network, self.config.ema, len(self.seconds))


@torch.no_grad()
def validate(network: StfmNet, batches: Sequence[Batch]) -> dict[str, float]:
    """Mean figures on held-back batches."""
    objective = Objective(network, PLAIN).eval()
    rows = [objective(batch)[1] for batch in batches]
    return {name: float(torch.stack([row[name] for row in rows]).nanmean()) for name in rows[0]}


def stream(pool: Pool, setup: Setup, steps: int, seed: int, blank: float = 0.0) -> Iterator[Batch]:
    """The batches of a run."""
    ramp_steps = int(setup.ramp * steps)
    batches = Batches([(pool, 1.0)], setup.height, setup.width, setup.pairs, seed, ramp_steps, blank=blank)
    return (batches[step] for step in range(steps))


def train(
    runs: Mapping[str, Run],
    batches: Iterator[Batch],
    steps: int,
    title: str,
    held_back: Sequence[Batch],
    every: int = 200,
) -> dict[str, list[dict[str, float]]]:
    """Move all runs along the same batches; returns the validation curves."""
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for step, batch in enumerate(track(batches, title, total=steps, console=Console(stderr=True)), start=1):
        for run in runs.values():
            run.step(batch)
        if step % every == 0 or step == steps:
            for name, run in runs.items():
                curves[name].append({"step": step, **validate(run.average, held_back)})
    return curves


def train_seed(setup: Setup, pool: Pool, held_back: Sequence[Batch], seed: int, out: Path) -> None:
    """All networks of one seed; each is written as soon as it is there."""
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, object] = {"setup": vars(setup), "seed": seed}
    teacher = Run(setup, PLAIN, setup.teacher_steps, seed, channels=4)
    batches = stream(pool, setup, setup.teacher_steps, seed + 1000, setup.blank)
    curves = train({"teacher": teacher}, batches, setup.teacher_steps, f"teacher {seed}", held_back)
    save_weights(teacher.average, out / "teacher.safetensors")
    frozen, _ = load_network(out / "teacher.safetensors")
    steps = setup.student_steps
    students = {
        name: Run(setup, loss, steps, seed, teacher=None if loss is PLAIN else frozen)
        for name, loss in STUDENTS.items()
    }  # fmt: skip
    curves |= train(students, stream(pool, setup, steps, seed), steps, f"students {seed}", held_back)
    for name, run in students.items():
        save_weights(run.average, out / f"{name}.safetensors")
    record["step_s"] = {name: float(np.median(run.seconds)) for name, run in students.items()}
    longer = round(steps * np.median(students["distilled"].seconds) / np.median(students["vanilla"].seconds))
    run = Run(setup, PLAIN, longer, seed)
    curves |= train(
        {"vanilla, equal time": run}, stream(pool, setup, longer, seed), longer, f"longer {seed}", held_back
    )
    save_weights(run.average, out / "vanilla, equal time.safetensors")
    record |= {"equal_time_steps": longer, "curves": curves}
    (out / "training.json").write_text(json.dumps(record))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="textures of the scenes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    setup = Setup()
    for name in ("teacher_steps", "student_steps", "pool"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(setup, name))
    options = parser.parse_args()
    setup = replace(
        setup, teacher_steps=options.teacher_steps, student_steps=options.student_steps, pool=options.pool
    )  # fmt: skip
    cv2.setNumThreads(1)
    photos = photographs(options.photos)
    training = [photo for i, photo in enumerate(photos) if i % 16]
    pool = make_pool(Rendered(training), setup)
    unseen = make_pool(Rendered(photos[::16]), replace(setup, pool=128), VALIDATION_SEED)
    held_back = list(stream(unseen, setup, 16, VALIDATION_SEED))
    for seed in map(int, options.seeds.split(",")):
        train_seed(setup, pool, held_back, seed, options.out / f"seed{seed}")


if __name__ == "__main__":
    main()
