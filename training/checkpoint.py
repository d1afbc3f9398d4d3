"""The whole state of a run as safetensors: nothing in it is executed when it is read.

Tensors are stored under numbers; everything else (loops, schedules, the config) is JSON in the header, in which a
tensor is a reference. A checkpoint appears under its name only once it is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stfm_ros.errors import TrainingError, WeightsError

SUFFIX = ".safetensors"


class SafeCheckpoints(CheckpointIO):
    """Lightning's checkpoints in this form."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write the state of a run."""
        write_state(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the state of a run."""
        state: dict[str, Any] = read_state(Path(path))
        return state

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete one that a newer one has replaced."""
        Path(path).unlink(missing_ok=True)


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write nested dicts, lists and tuples of tensors and plain values.

    Raises:
        TrainingError: the place cannot be written; what was there before stays.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(state, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(tensors, str(temporary), {"format": "stfm-state", "state": text})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as fault:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"checkpoint {path} cannot be written ({fault}); earlier ones are kept: make room, then give the same "
            "command again to go on"
        ) from fault


def read_state(path: Path) -> Any:
    """What :func:`write_state` wrote.

    Raises:
        WeightsError: the file is missing, damaged, or no checkpoint of a run.
    """
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as fault:
        raise WeightsError(
            f"checkpoint {path} cannot be read ({fault}); delete it to go on from an earlier one"
        ) from fault
    if about.get("format") != "stfm-state":
        raise WeightsError(f"{path} is no checkpoint of a training run; to begin from weights, set model.start")
    return _unpack(json.loads(about["state"]), tensors)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} {value!r}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def newest(folder: Path) -> Path | None:
    """The latest checkpoint of a run, by its step."""
    found = sorted(folder.glob(f"step=*{SUFFIX}"), key=lambda path: int(path.stem.partition("=")[2]))
    return found[-1] if found else None
