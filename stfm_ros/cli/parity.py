"""``stfm parity``: whether runtimes and precisions of a model agree on recorded pairs, and what each is worth."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stfm_ros.cli.command import Command, Outcome, Screen, UsageError, table
from stfm_ros.cli.options import at_least

if TYPE_CHECKING:
    from stfm_ros.matcher import Matcher
    from stfm_ros.pairs import PosedImages
    from stfm_ros.parity import Parity
    from stfm_ros.runtimes.store import Model

TOPICS = ("image", "camera-info", "pose", "depth")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="BAG_OR_FOLDER", help="bags with true poses, or RGB-D folders"
    )
    parser.add_argument("--model", default="default", metavar="NAME", help="a shipped name or an exported folder")
    parser.add_argument(
        "--ways", default="", metavar="LIST",
        help="runtime:precision, comma-separated; the first is what the others are compared with (default: onnxruntime "
        "in every precision of the model)",
    )  # fmt: skip
    parser.add_argument("--pairs", type=at_least(1), default=50, metavar="N", help="pairs of an input (default 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed draws other pairs (default 0)")
    for topic in TOPICS:
        parser.add_argument(f"--{topic}-topic", default="", metavar="TOPIC", help="found where there is only one")
    parser.add_argument("--threads", type=at_least(0), default=0, metavar="N", help="of a runtime; 0 is its own choice")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.pairs import Sampling, sample_pairs
    from stfm_ros.parity import compare
    from stfm_ros.runtimes.store import find_model

    model = find_model(options.model)
    ways = ways_of(options.ways, model)
    solver = "poselib" if importlib.util.find_spec("poselib") else "opencv"
    sampling = Sampling(count=options.pairs, seed=options.seed)
    inputs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sources = [_open(path, options, stack) for path in options.inputs]
        matchers = {way: _matcher(options.model, way, options.threads) for way in ways}
        for path, source in zip(options.inputs, sources, strict=True):
            pairs = sample_pairs(source, sampling)
            with screen.progress(f"matching {path.name}") as step:
                found = compare({way: matcher.match for way, matcher in matchers.items()}, pairs, solver, step)
            show(path, len(pairs), found, screen)
            rows = [{"way": way, **asdict(one.deviation), **_without_deviation(one)} for way, one in found.items()]
            inputs.append({"input": path, "pairs": len(pairs), "sampling": sampling.describe(), "ways": rows})
    first = next(iter(matchers.values()))
    return Outcome({"model": first.model_name, "weights_hash": first.weights_hash, "solver": solver, "inputs": inputs})


def ways_of(text: str, model: Model) -> list[str]:
    """The ``runtime:precision`` of a list.

    Raises:
        UsageError: one is no such thing, or is named twice.
    """
    ways = [way for way in text.replace(" ", "").split(",") if way]
    ways = ways or [f"onnxruntime:{precision}" for precision in model.precisions]
    wrong = [way for way in ways if len(way.split(":")) != 2 or not all(way.split(":"))]
    if wrong or len(set(ways)) < len(ways) or not ways:
        raise UsageError(
            f"--ways {text!r}: expected runtime:precision, comma-separated, each once, "
            "e.g. onnxruntime:fp32,openvino:fp32"
        )
    return ways


def _open(path: Path, options: argparse.Namespace, stack: ExitStack) -> PosedImages:
    from stfm_ros.posed_bag import PosedBag
    from stfm_ros.rgbd import RgbdFolder

    if (path / "intrinsics.yaml").is_file():
        return RgbdFolder(path)
    topics = [str(getattr(options, f"{topic.replace('-', '_')}_topic")) for topic in TOPICS]
    return stack.enter_context(PosedBag(path, *topics))


def _matcher(model: str, way: str, threads: int) -> Matcher:
    from stfm_ros.config import MatcherConfig
    from stfm_ros.matcher import Matcher

    runtime, precision = way.split(":")
    matcher = Matcher.from_pretrained(MatcherConfig(model=model, runtime=runtime, precision=precision, threads=threads))
    if matcher.takes_depth:
        raise UsageError(f"--model {model} is an RGB-D model: parity is measured of RGB models")
    return matcher


def _without_deviation(parity: Parity) -> dict[str, Any]:
    return {key: value for key, value in asdict(parity).items() if key != "deviation"}


def show(path: Path, pairs: int, found: Mapping[str, Parity], screen: Screen) -> None:
    """One table for each input."""
    first = next(iter(found))
    screen.show(f"\n{path}: {pairs} pairs; common matches, px and degrees against {first}; AUC in %, [95 % interval]")
    names = next(iter(found.values())).auc
    rows = table("", "matches", "common %", "p50 px", "p99 px", "deg", *(f"AUC@{name}" for name in names), "ms")
    for way, one in found.items():
        change = one.deviation
        areas = [
            f"{100 * area:.1f} [{100 * low:.0f}-{100 * high:.0f}]"
            for area, (low, high) in zip(one.auc.values(), one.auc_95.values(), strict=True)
        ]
        rows.add_row(
            way,
            str(change.found),
            f"{100 * change.common:.1f}",
            f"{change.p50_px:.3f}",
            f"{change.p99_px:.3f}",
            f"{one.rotation_deg:.3f}",
            *areas,
            f"{one.median_ms:.0f}",
        )
    screen.show(rows)


COMMAND = Command(
    name="parity",
    summary="compare runtimes and precisions of a model on recorded pairs",
    description=(
        "Run a model in several ways (runtime and precision) on the same pairs with true poses. Told are the share of "
        "common matches (same coarse cell in image 0, within 8 px in image 1), the distance between them, the median "
        "angle between the rotations that the robot's estimator finds, and what each way is worth by itself: AUC of "
        "the pose error at 5, 10 and 20 degrees, as stfm eval has it."
    ),
    example="stfm parity office.mcap --model models/office --ways onnxruntime:fp32,onnxruntime:fp16,openvino:fp32",
    negative="",
    fields={
        "model": "its name",
        "weights_hash": "first 12 hex digits of the SHA-256 over its weights",
        "solver": "of the pose error",
        "inputs": "one object for each input:",
        "inputs[].input": "what was read",
        "inputs[].pairs": "number of pairs",
        "inputs[].sampling": "how they were drawn; see stfm_ros.pairs.Sampling",
        "inputs[].ways": "one object for each way, in the order given:",
        "inputs[].ways[].way": "runtime:precision",
        "inputs[].ways[].common": "share of the matches that this way and the first both have, 0 to 1",
        "inputs[].ways[].p50_px": "median distance of common matches in image 1",
        "inputs[].ways[].p99_px": "its 99th percentile",
        "inputs[].ways[].confidence": "99th percentile of the absolute difference in confidence",
        "inputs[].ways[].expected": "matches of the first way, all pairs together",
        "inputs[].ways[].found": "matches of this way",
        "inputs[].ways[].rotation_deg": "median angle between the rotations of both ways; null where no pair has both",
        "inputs[].ways[].auc": "of the pose error, 0 to 1, by threshold in degrees",
        "inputs[].ways[].auc_95": "its 95 % interval over the choice of pairs",
        "inputs[].ways[].median_ms": "of a pair, both images encoded",
    },
    arguments=arguments,
    execute=execute,
)
