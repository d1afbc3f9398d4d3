"""``stfm quantize``: int8 graphs for an export, calibrated on a bag (``stfm_training.quantise``)."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from stfm_ros.cli.command import Command, Outcome, Screen, UsageError
from stfm_ros.cli.export import EXPORT_FIELDS, measure, record_of, show
from stfm_ros.cli.options import at_least
from stfm_ros.errors import TrainingNotAvailable


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="an exported folder")
    parser.add_argument(
        "--bag", type=Path, required=True, metavar="BAG", help="images like those that the robot will see"
    )
    parser.add_argument(
        "--frames",
        type=at_least(8),
        default=64,
        metavar="N",
        help="images to look at, evenly over the bag (default 64)",
    )
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="found where there is only one")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.runtimes.store import find_model, shipped

    if options.model in shipped():
        raise UsageError(
            f"{options.model} is part of the package: make a folder of your own first, "
            f"stfm export {options.model} --out DIR"
        )
    if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("stfm_training") is None:
        raise TrainingNotAvailable(
            "quantising needs the training package and the Python module onnx: pip install '.[train]' in a checkout, "
            "or pip install onnx there (torch is not needed)"
        )
    from stfm_training.quantise import quantise

    with screen.stages() as progress:
        made = quantise(
            find_model(options.model), options.bag, options.frames, options.image_topic,
            lambda done, total: progress("calibrating", done, total),
        )  # fmt: skip
        deviations = measure(made, progress)
    show(made, deviations, screen)
    return Outcome(record_of(made, deviations))


COMMAND = Command(
    name="quantize",
    summary="add int8 graphs to an export, calibrated on a bag",
    description=(
        "Add int8 graphs (Q/DQ nodes, symmetric) to an exported folder, for TensorRT and OpenVINO; the ranges of the "
        "values are those of frames of a bag. Needs the Python module onnx, not torch. The table shows one pair; what "
        "int8 costs on your recordings is told by stfm parity."
    ),
    example="stfm quantize models/office --bag office.mcap && stfm parity office.mcap --model models/office",
    negative="",
    fields=EXPORT_FIELDS,
    arguments=arguments,
    execute=execute,
)
