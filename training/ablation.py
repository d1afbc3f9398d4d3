"""What each loss is worth: teacher, vanilla and distilled students of one size on the same pairs.

    python -m stfm_training.ablation train --photos PHOTOS --out ablation --seeds 0,1,2
    python -m stfm_training.ablation evaluate --photos PHOTOS --out ablation --bag office.mcap --bag kitchen.mcap

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
from stfm_ros.pairs import Pair as AnyPair
from stfm_ros.pairs import Sampling, sample_pairs
from stfm_ros.posed_bag import PosedBag
from stfm_training.batches import Batch, Batches
from stfm_training.config import LossConfig, OptimiserConfig
from stfm_training.evaluation import evaluate_networks, rendered_pairs
from stfm_training.objective import Objective
from stfm_training.optimiser import make_optimiser, update_average
from stfm_training.render import photographs
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Pair, Source
from stfm_training.sources.rendered import Rendered

#: the method's own losses: L_s, which is ours, is left out of every student and of the teacher
DISTILLED = LossConfig(subpixel=0.0, fine_matches=32)
PLAIN = replace(DISTILLED, divergence=0.0, attentive=0.0)
#: name -> losses of a student
STUDENTS: dict[str, LossConfig] = {
    "vanilla": PLAIN,
    "divergence alone": replace(DISTILLED, attentive=0.0),
    "attentive alone": replace(DISTILLED, divergence=0.0),
    "distilled": DISTILLED,
    "public code": replace(DISTILLED, coarse=0.5, fine=0.5, divergence=0.5, attentive=0.5, variant="public_code"),
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
        self.objective = Objective(network, loss, teacher, bf16=False).train()
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
    objective = Objective(network, PLAIN, bf16=False).eval()
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


def evaluate(
    seeds: Mapping[int, Mapping[str, Path]], pairs: Sequence[AnyPair], height: int, width: int
) -> dict[str, list[dict[str, float]]]:
    """Figures of each network by name, one entry a seed: AUC at 5, 10, 20 degrees, share of matches below 1e-4."""
    found: dict[str, list[dict[str, float]]] = {}
    for weights in seeds.values():
        for name, score in evaluate_networks(weights, pairs, height, width).items():
            precision = next(iter(score.precision.values()))
            found.setdefault(name, []).append({**score.auc, "precision": precision})
    return found


def table(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Mean and standard deviation over the seeds, in %, as Markdown."""
    lines = ["| | AUC@5 | AUC@10 | AUC@20 | < 1e-4 |", "|---|---|---|---|---|"]
    for name, seeds in found.items():
        cells = []
        for key in seeds[0]:
            values = [100 * one[key] for one in seeds]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def train_main(options: argparse.Namespace) -> None:
    """``train``: networks of every seed."""
    setup = replace(
        Setup(), teacher_steps=options.teacher_steps, student_steps=options.student_steps, pool=options.pool
    )  # fmt: skip
    photos = photographs(options.photos)
    training = [photo for i, photo in enumerate(photos) if i % Homographies.HOLD_OUT]
    pool = make_pool(Rendered(training, plain=True), setup)
    held_out = Rendered(photos[:: Homographies.HOLD_OUT], plain=True)
    unseen = make_pool(held_out, replace(setup, pool=128), VALIDATION_SEED)
    held_back = list(stream(unseen, setup, 16, VALIDATION_SEED))
    for seed in map(int, options.seeds.split(",")):
        train_seed(setup, pool, held_back, seed, options.out / f"seed{seed}")


def evaluate_main(options: argparse.Namespace) -> None:
    """``evaluate``: all networks on unseen scenes at the size of training, and on bags at twice that."""
    setup = Setup()
    seeds = {
        int(folder.name.removeprefix("seed")): {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
        for folder in sorted(options.out.glob("seed*"))
    }
    photos = photographs(options.photos)[:: Homographies.HOLD_OUT]
    scenes = rendered_pairs(options.pairs, photos, setup.height, setup.width, difficulty=setup.hardest)
    results = {"rendered": evaluate(seeds, scenes, setup.height, setup.width)}
    for bag in options.bag:
        with PosedBag(bag) as recording:
            pairs = sample_pairs(recording, Sampling(count=options.pairs))
            results[bag.name] = evaluate(seeds, pairs, 2 * setup.height, 2 * setup.width)
    for name, found in results.items():
        print(f"\n{name}, {options.pairs} pairs\n\n{table(found)}")
    (options.out / "evaluation.json").write_text(json.dumps(results))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    setup = Setup()
    training = commands.add_parser("train", help="networks of every seed")
    training.add_argument("--seeds", default="0,1,2")
    for name in ("teacher_steps", "student_steps", "pool"):
        training.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(setup, name))
    measuring = commands.add_parser("evaluate", help="pose and precision of all of them")
    measuring.add_argument("--bag", type=Path, action="append", default=[], help="with depth and poses")
    measuring.add_argument("--pairs", type=int, default=100)
    for command, execute in ((training, train_main), (measuring, evaluate_main)):
        command.add_argument("--photos", type=Path, required=True, help="textures of the scenes")
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(execute=execute)
    cv2.setNumThreads(1)
    options = parser.parse_args()
    options.execute(options)


if __name__ == "__main__":
    main()
