"""``stfm export``: weights become the graphs that engines run (``stfm_training.export``)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stfm_ros.cli.command import Command, Outcome, Screen, UsageError, table
from stfm_ros.cli.options import at_least
from stfm_ros.cli.train import require_training

if TYPE_CHECKING:
    from stfm_ros.parity import Deviation
    from stfm_ros.runtimes.store import Model

#: of a model that is no export itself
HEIGHT, WIDTH, K = 480, 640, 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="a shipped name (default), an exported folder, or a .safetensors file"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--name", help="of the model, as in messages (default: as before, or the name of the file)")
    kept = "default: as before, else"
    parser.add_argument("--height", type=at_least(1), metavar="PX", help=f"of the network's input ({kept} {HEIGHT})")
    parser.add_argument("--width", type=at_least(1), metavar="PX", help=f"of the network's input ({kept} {WIDTH})")
    parser.add_argument("--k", type=at_least(1), metavar="N", help=f"most matches of a pair ({kept} {K})")
    parser.add_argument(
        "--precisions", default="fp32,fp16", metavar="LIST", help="fp32, or fp32,fp16 (default); int8: stfm quantize"
    )
    parser.add_argument(
        "--sigma-scale", type=float, metavar="X", help="what sigma is multiplied with (default: as before, else 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.runtimes.store import find_model

    model = find_model(options.weights)
    out: Path = options.out
    if out.exists() and not options.overwrite:
        raise UsageError(f"{out} is there already; choose another name, or give --overwrite")
    require_training("stfm_training.export")  # without Lightning, which takes seconds to import
    from stfm_training.export import export

    before = model.spec
    with screen.stages() as progress:
        export(
            model.weights,
            out,
            options.name or (before.name if before else model.path.stem),
            options.height or (before.height if before else HEIGHT),
            options.width or (before.width if before else WIDTH),
            options.k or (before.k if before else K),
            options.sigma_scale or (before.sigma_scale if before else 1.0),
            [name for name in options.precisions.replace(" ", "").split(",") if name],
            progress,
        )
        made = find_model(str(out))
        deviations = measure(made, progress)
    show(made, deviations, screen)
    return Outcome(record_of(made, deviations))


def measure(model: Model, progress: Any) -> dict[str, Deviation]:
    """What each precision of an export deviates on its reference pair, in ONNX Runtime."""
    from stfm_ros.config import MatcherConfig
    from stfm_ros.parity import check_reference
    from stfm_ros.runtimes import load_runtime

    found = {}
    for done, precision in enumerate(model.precisions):
        progress("comparing with the reference", done, len(model.precisions))
        runtime, _, _ = load_runtime(model, MatcherConfig(runtime="onnxruntime", precision=precision))
        found[precision] = check_reference(runtime, model)
    progress("comparing with the reference", len(model.precisions), len(model.precisions))
    return found


def show(model: Model, deviations: dict[str, Deviation], screen: Screen) -> None:
    """The table of an export's precisions."""
    from stfm_ros.runtimes.store import FEATURES, PAIR

    assert model.spec is not None
    spec = model.spec
    screen.show(
        f"{model.path}: {spec.name} ({spec.weights_hash}), preset {spec.preset}, {spec.channels} channels, "
        f"{spec.width}x{spec.height}, {spec.k} matches at the most"
    )
    rows = table("precision", "MB", "matches", "common %", "p50 px", "p99 px", "confidence")
    for precision, one in deviations.items():
        size = sum(model.graph(graph, precision).stat().st_size for graph in (FEATURES, PAIR))
        rows.add_row(
            precision,
            f"{size / 1e6:.1f}",
            str(one.found),
            f"{100 * one.common:.1f}",
            f"{one.p50_px:.3f}",
            f"{one.p99_px:.3f}",
            f"{one.confidence:.3f}",
        )
    screen.show(rows)
    screen.show("(one pair of images, in ONNX Runtime, against the float32 graphs; on recorded pairs: stfm parity)")


def record_of(model: Model, deviations: dict[str, Deviation]) -> dict[str, Any]:
    """For ``--json``."""
    from dataclasses import asdict

    assert model.spec is not None
    return {
        "model": model.path,
        "spec": asdict(model.spec),
        "deviations": [{"precision": precision, **asdict(one)} for precision, one in deviations.items()],
    }


#: of the record of every command that makes graphs
EXPORT_FIELDS = {
    "model": "the folder",
    "spec": "name, preset, height, width, k, weights_hash, sigma_scale, files (SHA-256), made_with, channels",
    "deviations": "one object for each precision: ONNX Runtime on the reference pair, against the float32 graphs:",
    "deviations[].precision": "fp32, fp16 or int8",
    "deviations[].common": "share of the matches that both have (same cell, within 8 px), 0 to 1",
    "deviations[].p50_px": "median distance of common matches in image 1",
    "deviations[].p99_px": "its 99th percentile",
    "deviations[].confidence": "99th percentile of the absolute difference in confidence",
    "deviations[].expected": "matches of the float32 graphs",
    "deviations[].found": "matches of this precision",
}

COMMAND = Command(
    name="export",
    summary="turn weights into the graphs that engines run",
    description=(
        "Write weights as two static ONNX graphs (what one image contributes; what a pair gives), in float32 and in "
        "half precision, with a reference pair of images and what the float32 graphs made of them, so that any runtime "
        "on any machine can be checked. The float32 graphs are compared with torch, and refused where they differ. "
        "Half precision is in the graph's own types: what needs float32 (similarity, softmax, coordinates) keeps it."
    ),
    example="stfm export runs/student/weights.safetensors --out models/office",
    negative="",
    fields=EXPORT_FIELDS,
    arguments=arguments,
    execute=execute,
)
