"""What each loss is worth: teacher, vanilla and distilled students of one size on the same pairs.

    python -m stfm_training.ablation train --photos PHOTOS --out ablation --seeds 0,1,2
    python -m stfm_training.ablation evaluate --photos PHOTOS --out ablation --bag office.mcap --bag kitchen.mcap

For each seed: a teacher (RGB-D); then all students in lockstep, from the same initial weights and on the same batches,
so that rendering is paid once; then a vanilla student again with as many more steps as fit into the time that the
distilled one took. The pairs are rendered once and drawn anew with other photometric changes. A seed that is there
already is not trained again.

A student of a size that is shipped, from a teacher that is there already:

    python -m stfm_training.ablation train --photos PHOTOS --out small --preset small --height 192 --width 256 \\
        --pairs 4 --pool 2000 --fine-matches 64 --subpixel 1 --students vanilla,distilled --teacher teacher.safetensors
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
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

VALIDATION_SEED = 10**6
#: in the folder of a seed: what is written last
DONE = "training.json"
EQUAL_TIME = "vanilla, equal time"


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
    fine_matches: int = 32  #: fine windows of a pair
    subpixel: float = 0.0  #: of L_s, which is ours and not the method's: left out of all networks alike

    @property
    def plain(self) -> LossConfig:
        """The losses of a teacher and of a vanilla student."""
        return LossConfig(subpixel=self.subpixel, fine_matches=self.fine_matches, divergence=0.0, attentive=0.0)

    @property
    def distilled(self) -> LossConfig:
        """The losses of a student."""
        return LossConfig(subpixel=self.subpixel, fine_matches=self.fine_matches)


def students(setup: Setup) -> dict[str, LossConfig]:
    """The losses of each student by name."""
    distilled = setup.distilled
    return {
        "vanilla": setup.plain,
        "divergence alone": replace(distilled, attentive=0.0),
        "attentive alone": replace(distilled, divergence=0.0),
        "distilled": distilled,
        "public code": replace(distilled, coarse=0.5, fine=0.5, divergence=0.5, attentive=0.5, variant="public_code"),
    }


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
def validate(network: StfmNet, batches: Sequence[Batch], loss: LossConfig) -> dict[str, float]:
    """Mean figures on held-back batches."""
    objective = Objective(network, loss, bf16=False).eval()
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
    loss: LossConfig,
    every: int = 200,
) -> dict[str, list[dict[str, float]]]:
    """Move all runs along the same batches; returns the validation curves, measured as ``loss`` has it."""
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for step, batch in enumerate(track(batches, title, total=steps, console=Console(stderr=True)), start=1):
        for run in runs.values():
            run.step(batch)
        if step % every == 0 or step == steps:
            for name, run in runs.items():
                curves[name].append({"step": step, **validate(run.average, held_back, loss)})
    return curves


def train_seed(
    setup: Setup,
    pool: Pool,
    held_back: Sequence[Batch],
    seed: int,
    out: Path,
    names: Sequence[str],
    teacher: Path | None = None,
    equal_time: bool = True,
) -> None:
    """All networks of one seed; each is written as soon as it is there.

    Args:
        names: of :func:`students`, vanilla and distilled among them.
        teacher: weights of one that is there already; else one is trained.
        equal_time: whether a vanilla student is trained again, for as long as the distilled one took.
    """
    out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[dict[str, float]]] = {}
    if teacher is None:
        run = Run(setup, setup.plain, setup.teacher_steps, seed, channels=4)
        batches = stream(pool, setup, setup.teacher_steps, seed + 1000, setup.blank)
        curves = train({"teacher": run}, batches, setup.teacher_steps, f"teacher {seed}", held_back, setup.plain)
        teacher = out / "teacher.safetensors"
        save_weights(run.average, teacher)
    frozen, _ = load_network(teacher)
    curves["teacher at the end"] = [validate(frozen, held_back, setup.plain)]
    steps = setup.student_steps
    known = students(setup)
    runs = {name: Run(setup, known[name], steps, seed, teacher=frozen) for name in names}
    curves |= train(runs, stream(pool, setup, steps, seed), steps, f"students {seed}", held_back, setup.plain)
    for name, run in runs.items():
        save_weights(run.average, out / f"{name}.safetensors")
    step_s = {name: float(np.median(run.seconds)) for name, run in runs.items()}
    longer = round(steps * step_s["distilled"] / step_s["vanilla"])
    if equal_time:
        run = Run(setup, setup.plain, longer, seed)
        batches = stream(pool, setup, longer, seed)
        curves |= train({EQUAL_TIME: run}, batches, longer, f"longer {seed}", held_back, setup.plain)
        save_weights(run.average, out / f"{EQUAL_TIME}.safetensors")
    record = {"setup": asdict(setup), "seed": seed, "step_s": step_s, "equal_time_steps": longer, "curves": curves}
    (out / DONE).write_text(json.dumps(record))


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
    setup = Setup(**{field.name: getattr(options, field.name) for field in fields(Setup)})
    photos = photographs(options.photos)
    training = [photo for i, photo in enumerate(photos) if i % Homographies.HOLD_OUT]
    pool = make_pool(Rendered(training, plain=True), setup)
    held_out = Rendered(photos[:: Homographies.HOLD_OUT], plain=True)
    unseen = make_pool(held_out, replace(setup, pool=128), VALIDATION_SEED)
    held_back = list(stream(unseen, setup, 16, VALIDATION_SEED))
    for seed in map(int, options.seeds.split(",")):
        out = options.out / f"seed{seed}"
        if not (out / DONE).exists():
            train_seed(setup, pool, held_back, seed, out, options.students, options.teacher, options.equal_time)


def evaluate_main(options: argparse.Namespace) -> None:
    """``evaluate``: all networks on unseen scenes at the size of training, and on bags at twice that."""
    seeds = {
        int(folder.name.removeprefix("seed")): {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
        for folder in sorted(options.out.glob("seed*"))
    }
    setups = {Setup(**json.loads(path.read_text())["setup"]) for path in options.out.glob(f"seed*/{DONE}")}
    if len(setups) != 1:
        raise SystemExit(
            f"{options.out}/seed*/{DONE}: expected one setup for all seeds, got {len(setups)}; train first"
        )
    (setup,) = setups
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


def student_names(text: str) -> list[str]:
    """Those that ``--students`` lists; vanilla and distilled are what the others are told by."""
    names, known = text.split(","), students(Setup())
    if not {"vanilla", "distilled"} <= set(names) <= set(known):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected vanilla, distilled and perhaps more of {', '.join(known)}"
        )
    return names


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    setup = Setup()
    training = commands.add_parser("train", help="networks of every seed")
    training.add_argument("--seeds", default="0,1,2")
    everybody = ",".join(students(setup))
    training.add_argument("--students", type=student_names, default=everybody, help="vanilla and distilled among them")
    training.add_argument("--teacher", type=Path, help="weights of one that is there already, of any size")
    training.add_argument("--equal-time", action=argparse.BooleanOptionalAction, default=True, help=EQUAL_TIME)
    for name, value in asdict(setup).items():
        training.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
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
