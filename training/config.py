"""The one home of every default of a training run: what a YAML of ``training/configs`` may hold.

config = read_config(Path("student.yaml"), {"optimiser.steps": 200})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stfm_ros.config import from_mapping, option
from stfm_ros.errors import ConfigError
from stfm_ros.model.presets import PRESETS
from stfm_training.recordings.config import RecordingConfig

SOURCES = ("homographies", "rendered", "recorded")
#: of ``teacher.start``: what the student begins from, with a channel more
TEACHER_OF_STUDENT = "student"


@dataclass(frozen=True)
class ModelConfig:
    """The network that is trained."""

    preset: str = option("medium", "Size of the network.", choices=tuple(PRESETS))
    start: str = option("", "Weights to begin from: a .safetensors file or a shipped name; empty begins anew.")
    train: str = option(
        "all",
        "What is trained: all of it, or only what feeds the fine stage, so that the coarse stage stays as it began.",
        choices=("all", "fine"),
    )


@dataclass(frozen=True)
class TeacherConfig:
    """The frozen RGB-D network that a student learns from."""

    weights: str = option(
        "",
        "A teacher's .safetensors file; empty trains a student from ground truth alone (`stfm train`), or trains a "
        "teacher first (`stfm distill`).",
    )
    start: str = option(
        TEACHER_OF_STUDENT,
        "What a teacher that `stfm distill` trains begins from: a shipped name, an exported folder or a .safetensors "
        "file, RGB-D or RGB; student is what the student begins from.",
    )
    steps: int = option(
        0, "Steps of a teacher that `stfm distill` trains; 0 takes optimiser.steps.", minimum=0, maximum=10**8
    )


@dataclass(frozen=True)
class DataConfig:
    """How pairs of the mix become batches."""

    root: str = option(".", "Folder that relative paths of the mix start from.")
    cache: str = option("recordings", "Folder where bags are kept prepared, for this and later runs.")
    width: int = option(320, "Of the training images; a multiple of 32.", unit="px", minimum=64, maximum=4096)
    height: int = option(256, "Of the training images; a multiple of 32.", unit="px", minimum=64, maximum=4096)
    pairs: int = option(4, "Pairs of a step, over all processes.", minimum=1, maximum=4096)
    blank: float = option(
        0.2, "Teachers: share of the pairs with depth that lose their colours; without it depth is hardly used.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    ramp_steps: int = option(1500, "Steps over which the difficulty rises from 0.3 to 1.", minimum=0, maximum=10**7)
    mixed: float = option(
        0.0, "Share of the pairs whose difficulty is drawn between 0.3 and what it has risen to.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class SourceConfig:
    """One line of the mix."""

    source: str = option("", "Where pairs come from.", choices=SOURCES)
    path: str = option(
        "",
        "homographies, rendered: a folder of photographs (as scenes or as textures; empty for rendered: procedural "
        "textures alone), or a bag that another line has as recorded, for its images. recorded: a bag, a bag that was "
        "prepared, or a folder in the layout of `stfm import-rgbd`.",
    )
    weight: float = option(1.0, "How often it is drawn, relative to the others.", minimum=0.0, maximum=1e6)
    precise: bool = option(True, "Whether its truth is good to a pixel; false teaches the coarse stage only.")
    recording: RecordingConfig = field(default_factory=RecordingConfig)
    licence: str = option("", "Terms of the data, for the model card.")


@dataclass(frozen=True)
class LossConfig:
    """Weights and forms of the losses (``stfm_training.losses``)."""

    coarse: float = option(1.0, "l0, of the coarse cross-entropy L_c.", minimum=0.0, maximum=1e3)
    fine: float = option(1.0, "l1, of the fine loss L_f.", minimum=0.0, maximum=1e3)
    subpixel: float = option(1.0, "Of the loss of the last look L_s.", minimum=0.0, maximum=1e3)
    divergence: float = option(0.25, "l2, of the mutual query divergence L_MQD.", minimum=0.0, maximum=1e3)
    attentive: float = option(1.0, "l3, of the attentive loss L_att.", minimum=0.0, maximum=1e3)
    temperature: float = option(2.0, "T of L_MQD.", minimum=0.1, maximum=100.0)
    gamma: float = option(2.0, "Focal exponent of L_c and L_MQD.", minimum=0.0, maximum=10.0)
    negatives: float = option(0.5, "Weight of unmatched cells in L_c.", minimum=0.0, maximum=10.0)
    variant: str = option(
        "patent", "Reading of L_MQD and L_att: the patent's, or that of the method's public code, for comparison.",
        choices=("patent", "public_code"),
    )  # fmt: skip
    fine_matches: int = option(192, "Fine windows of a pair at the most.", minimum=8, maximum=4096)
    fine_jitter_px: float = option(
        2.0, "Disturbance of the true point before it is rounded to a fine window.", unit="px", minimum=0.0, maximum=8.0
    )
    student_share: float = option(
        0.5, "Share of fine windows placed where the network itself matched, if near the truth.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW and its one-cycle schedule."""

    steps: int = option(6000, "Steps of the whole run.", minimum=1, maximum=10**8)
    lr: float = option(1e-3, "Highest learning rate.", minimum=1e-8, maximum=1.0)
    warm_up: float = option(0.05, "Share of the steps over which the learning rate rises.", minimum=0.0, maximum=0.9)
    final_lr: float = option(0.01, "Learning rate at the end, as a share of the highest.", minimum=0.0, maximum=1.0)
    weight_decay: float = option(0.03, "Of matrices and kernels.", minimum=0.0, maximum=1.0)
    clip: float = option(1.0, "Largest norm of the gradient.", minimum=1e-6, maximum=1e6)
    ema: float = option(0.999, "Of the moving average of the weights, which is what is kept.", minimum=0.0, maximum=1.0)


@dataclass(frozen=True)
class RunConfig:
    """Everything else of a run."""

    seed: int = option(0, "Of weights and data.", minimum=0, maximum=2**31)
    precision: str = option(
        "auto",
        "Of convolutions and attention; losses are float32. auto is bf16 where the GPU, or else the CPU, multiplies "
        "bfloat16 itself: a CPU that does not takes many times longer with it than with fp32.",
        choices=("auto", "bf16", "fp32"),
    )
    workers: int = option(1, "Processes that make pairs, for each training process.", minimum=0, maximum=256)
    checkpoint_every: int = option(250, "Steps between checkpoints.", minimum=1, maximum=10**7)
    validate_every: int = option(500, "Steps between validations; 0 never.", minimum=0, maximum=10**7)
    log_every: int = option(25, "Steps between lines of the log.", minimum=1, maximum=10**6)
    max_minutes: float = option(0.0, "Stop after this time, with a checkpoint to go on from; 0 never.", unit="min",
                                minimum=0.0, maximum=1e6)  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """One training run."""

    mix: tuple[SourceConfig, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_mapping(self) -> dict[str, Any]:
        """Nested plain values, as :func:`stfm_ros.config.from_mapping` takes them."""
        values = asdict(self)
        values["mix"] = list(values["mix"])
        return values

    def to_yaml(self) -> str:
        """For a file; the mix holds a source a line, with what is not as usual."""
        values = self.to_mapping()
        usual = flat(asdict(SourceConfig()))
        lines = ["mix:"]
        for source in values.pop("mix"):
            line = {name: value for name, value in flat(source).items() if value != usual[name]}
            text = yaml.safe_dump(line, default_flow_style=True, sort_keys=False, width=10**6)
            lines.append(f"  - {text.strip()}")
        return "\n".join(lines) + "\n" + yaml.safe_dump(values, sort_keys=False)


def read_config(path: Path, changes: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a YAML file; ``changes`` by dotted name win over it.

    Raises:
        ConfigError: the file cannot be read, or lists every fault in it.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(f"{path} cannot be read as YAML: {fault}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} holds {type(values).__name__}: expected sections such as model, mix, optimiser")
    return checked({**flat(values), **(changes or {})})


def checked(values: Mapping[str, Any]) -> TrainingConfig:
    """A config from nested or dotted values.

    Raises:
        ConfigError: lists every fault.
    """
    config = from_mapping(TrainingConfig, values)
    faults = [
        f"mix[{i}].source: {line.source!r} is not one of {', '.join(SOURCES)}"
        for i, line in enumerate(config.mix) if line.source not in SOURCES
    ]  # fmt: skip
    faults += [
        f"mix[{i}].path: {line.source} needs a path"
        for i, line in enumerate(config.mix) if line.source in ("homographies", "recorded") and not line.path
    ]  # fmt: skip
    if not any(line.weight > 0 for line in config.mix):
        faults.append("mix: no source with a weight above 0; name at least one, see training/configs")
    faults += [
        f"data.{name}: {size} is no multiple of 32"
        for name, size in (("width", config.data.width), ("height", config.data.height)) if size % 32
    ]  # fmt: skip
    if faults:
        raise ConfigError("\n".join(["the configuration has faults:"] + [f"  {fault}" for fault in faults]))
    return config


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
