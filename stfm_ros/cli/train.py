"""``stfm train teacher|student``: a training run from a YAML file (``stfm_training.run``)."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stfm_ros.cli.command import Command, Outcome, Screen
from stfm_ros.cli.options import add_setting, given_options
from stfm_ros.config import settings
from stfm_ros.errors import TrainingNotAvailable

if TYPE_CHECKING:
    from stfm_training.config import TrainingConfig

TRAINING_TITLE = "settings of the run"
CONFIGS = "training/configs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", choices=("teacher", "student"), help="the RGB-D network, or the RGB one")
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help=f"YAML of the run; {CONFIGS} has some to begin with"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the run; one that holds this run goes on"
    )
    add_training_settings(parser)


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    require_training()
    from stfm_training.config import TrainingConfig, read_config
    from stfm_training.mix import Opened
    from stfm_training.run import CHECKPOINTS, train

    config = read_config(options.config, given_options(options, settings(TrainingConfig)))
    with screen.stages() as progress:
        opened = Opened(config, progress)
    weights = train(options.role, config, options.out, opened)
    if int(os.environ.get("RANK", 0)) == 0:
        screen.show(f"{weights}\nuse it: stfm match A.jpg B.jpg --model {weights}")
    return Outcome({"weights": weights, "checkpoints": options.out / CHECKPOINTS, "config": config.to_mapping()})


def add_training_settings(parser: argparse.ArgumentParser, but: tuple[str, ...] = ()) -> None:
    """An option for each setting of :class:`stfm_training.config.TrainingConfig` but some."""
    config = training_config()
    if config is None:
        return
    group = parser.add_argument_group(TRAINING_TITLE, "as in the YAML; options win over it")
    for setting in settings(config):
        if setting.name not in but:
            add_setting(group, setting)


def training_config() -> type[TrainingConfig] | None:
    """The config class; None where the training is not installed, as on a robot."""
    try:
        from stfm_training.config import TrainingConfig
    except ImportError:
        return None
    return TrainingConfig


def require_training(part: str = "stfm_training.run") -> None:
    """Import a part of the training, all of it unless told.

    Raises:
        TrainingNotAvailable: a module that it needs is missing.
    """
    try:
        importlib.import_module(part)
    except ImportError as fault:
        raise TrainingNotAvailable(
            f"training needs a module that is not installed ({fault.name}): pip install '.[train]' in a checkout, on "
            "the machine that trains"
        ) from fault


COMMAND = Command(
    name="train",
    summary="train a teacher (RGB-D) or a student (RGB)",
    description=(
        "Train a network on the mix of data that a YAML file names. A student learns from ground truth, and from the "
        "teacher that teacher.weights names. The folder gets checkpoints, log.jsonl, TensorBoard scalars and match "
        "pictures, and weights.safetensors. The same command again goes on where a run was stopped, to the same "
        "result. Several GPUs or machines: `torchrun --nproc-per-node 4 -m stfm_ros.cli train ...`."
    ),
    example="stfm train student --config training/configs/student.yaml --data.root DATA --out runs/student",
    negative="",
    fields={
        "weights": "the weights, as .safetensors",
        "checkpoints": "folder of the whole states, to go on from",
        "config": "the whole config of the run",
    },
    arguments=arguments,
    execute=execute,
)
