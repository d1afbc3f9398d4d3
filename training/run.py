"""A training run: its folder, what it begins from, and the trainer.

OUT/config.yaml          as it was given
OUT/log.jsonl            a line of figures every run.log_every steps, and after each validation
OUT/tensorboard/         the same, and match pictures
OUT/checkpoints/         the whole state, to go on from: the same command again does
OUT/weights.safetensors  the moving average of the weights: what is used
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import cv2
import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from stfm_ros import __version__
from stfm_ros.errors import ConfigError, WeightsError
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.weights import load_network
from stfm_ros.runtimes.store import find_model
from stfm_training.callbacks import Bar, Log, Pictures, Weights
from stfm_training.checkpoint import SUFFIX, SafeCheckpoints, newest, read_state
from stfm_training.config import TrainingConfig, flat
from stfm_training.mix import Opened
from stfm_training.module import TrainingModule

ROLES = {"teacher": 4, "student": 3}  #: and the channels of their images
CONFIG, WEIGHTS, LOG, CHECKPOINTS = "config.yaml", "weights.safetensors", "log.jsonl", "checkpoints"

#: what may differ from the run that is gone on with: nothing that changes its result
FREE = (
    "run.workers", "run.checkpoint_every", "run.validate_every", "run.log_every", "run.max_minutes", "data.root",
    "data.cache",
)  # fmt: skip


def train(role: str, config: TrainingConfig, out: Path, opened: Opened | None = None) -> Path:
    """Train a network, or go on where the folder's newest checkpoint is.

    Args:
        role: ``teacher`` (RGB-D) or ``student`` (RGB; distilled where the config names a teacher).
        out: the folder of the run.
        opened: the config's data, where they are read already.

    Returns:
        The weights.

    Raises:
        ConfigError: the folder holds a run of another config.
        WeightsError: weights to begin from, or the teacher's, do not fit.
        TrainingError: loss or gradient are not finite, or the disk is full; checkpoints stay.
    """
    checkpoint = newest(out / CHECKPOINTS)
    if checkpoint is not None:
        check_same_run(role, config, checkpoint)
    network, teacher = make_networks(role, config)
    opened = opened or Opened(config)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(f"# stfm train {role} --config {CONFIG} --out OUT\n{config.to_yaml()}", encoding="utf-8")
    module = TrainingModule(config, network, teacher, opened.train, opened.held_out)
    module.stored = {"role": role, "config": config.to_mapping()}
    trainer = make_trainer(role, config, out, bool(opened.held_out))
    if checkpoint is None and config.model.start and opened.held_out and config.run.validate_every:
        trainer.validate(module, verbose=False)  # where the curves begin
    trainer.fit(module, ckpt_path=checkpoint)
    last = out / CHECKPOINTS / f"step={trainer.global_step}{SUFFIX}"
    if not last.exists():
        trainer.save_checkpoint(last)
    return out / WEIGHTS


def make_trainer(role: str, config: TrainingConfig, out: Path, validates: bool) -> L.Trainer:
    """Lightning's trainer; under torchrun it takes the processes from there."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training")  # teacher and moving average
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty")  # it is gone on with
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning with a newer torch
    processes = int(os.environ.get("WORLD_SIZE", 1))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if config.data.pairs < processes:
        raise ConfigError(f"data.pairs is {config.data.pairs}: expected at least one for each of {processes} processes")
    cv2.setNumThreads(1)
    torch.set_num_threads(max(len(os.sched_getaffinity(0)) // here, 1))
    run = config.run
    checkpoints = ModelCheckpoint(
        out / CHECKPOINTS, "{step}", monitor="step", mode="max", save_top_k=2, every_n_train_steps=run.checkpoint_every
    )
    checkpoints.FILE_EXTENSION = SUFFIX
    return L.Trainer(
        accelerator="auto",
        devices=here if processes > 1 else 1,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        plugins=[SafeCheckpoints()],
        logger=TensorBoardLogger(out, name="", version="tensorboard"),
        callbacks=[
            Log(out / LOG),
            Bar(role),
            Weights(out / WEIGHTS, {"role": role, "stfm_ros": __version__}),
            Pictures(),
            checkpoints,
        ],
        max_steps=config.optimiser.steps,
        max_epochs=-1,
        val_check_interval=run.validate_every or None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates and run.validate_every else 0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def make_networks(role: str, config: TrainingConfig) -> tuple[StfmNet, StfmNet | None]:
    """The network to train, as it begins, and its teacher if it has one.

    Raises:
        WeightsError: weights do not fit the role or the preset.
    """
    torch.manual_seed(config.run.seed)
    channels = ROLES[role]
    network = StfmNet(preset(config.model.preset, channels))
    if config.model.start:
        start, _ = load_network(find_model(config.model.start).weights, config.model.preset)
        network = start if start.config.in_channels == channels else with_depth(start)
        if network.config.in_channels != channels:
            raise WeightsError(
                f"model.start {config.model.start} is an RGB-D network: a student begins from an RGB one; name it as "
                "teacher.weights to learn from it"
            )
        network.requires_grad_(True)
    teacher = None
    if role == "student" and config.teacher.weights:
        teacher, _ = load_network(Path(config.teacher.weights))
        if teacher.config.in_channels != ROLES["teacher"]:
            raise WeightsError(
                f"teacher.weights {config.teacher.weights} is an RGB network: expected one of `stfm train teacher`"
            )
    return network.to(memory_format=torch.channels_last), teacher  # type: ignore[call-overload]


def with_depth(student: StfmNet) -> StfmNet:
    """A teacher that begins as its student: the same weights, and none yet for depth. A teacher comes back as it is."""
    teacher = StfmNet(preset(student.config.preset, ROLES["teacher"]))
    state = teacher.state_dict()
    for name, value in student.state_dict().items():
        if state[name].shape == value.shape:
            state[name] = value
        else:  # a kernel on the image
            state[name] = torch.zeros_like(state[name])
            state[name][:, : value.shape[1]] = value
    teacher.load_state_dict(state)
    return teacher


def check_same_run(role: str, config: TrainingConfig, checkpoint: Path) -> None:
    """Going on with another config would give a result that neither describes.

    Raises:
        ConfigError: lists what differs.
    """
    stored = read_state(checkpoint).get("stfm", {})
    before, now = flat(stored.get("config", {})), flat(config.to_mapping())
    names = sorted({*before, *now} - set(FREE))
    pairs = [(name, before.get(name), now.get(name)) for name in names]
    differing = [f"  {name}: {then!r} there, {new!r} now" for name, then, new in pairs if then != new]
    if stored.get("role") != role:
        differing.insert(0, f"  {stored.get('role')} there, {role} now")
    if differing:
        folder = checkpoint.parent.parent
        raise ConfigError(
            "\n".join(
                [f"{folder} holds a run of another config:", *differing, "  choose another --out, or give it the same"]
            )
        )
