"""What a training run left behind (``config.yaml``, ``log.jsonl``, ``weights.safetensors``), and the code's commit."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from stfm_ros.errors import WeightsError
from stfm_ros.plots import Series

CONFIG, LOG, WEIGHTS = "config.yaml", "log.jsonl", "weights.safetensors"


@dataclass(frozen=True)
class WeightsFile:
    """The header of a file of weights."""

    preset: str
    channels: int
    hash: str
    parameters: int
    about: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> WeightsFile:
        """Raises: WeightsError: there is no such file, or it is damaged."""
        try:
            with safe_open(str(path), "np") as file:
                header = file.metadata() or {}
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a dict
            channels, about = int(header["in_channels"]), json.loads(header.get("about", "{}"))
            return cls(header["preset"], channels, header["hash"], sum(map(math.prod, shapes)), about)
        except (OSError, SafetensorError, KeyError, ValueError) as fault:
            raise WeightsError(
                f"{path} holds no weights of this package ({fault}); finish the training first"
            ) from None


@dataclass(frozen=True)
class RunFolder:
    """What a training run left: its config as given, the lines of its log, its weights."""

    config: str
    log: tuple[Mapping[str, float], ...]
    weights: WeightsFile

    @classmethod
    def read(cls, folder: Path) -> RunFolder:
        """Read a run folder; a missing config or log leaves its part of the report out.

        Raises:
            WeightsError: there are no weights to report on.
        """
        weights = WeightsFile.read(folder / WEIGHTS)
        config = (folder / CONFIG).read_text(encoding="utf-8") if (folder / CONFIG).is_file() else ""
        return cls(config, read_log(folder / LOG), weights)

    def curve(self, name: str) -> Series:
        """A named number of the log over steps."""
        rows = [(line["step"], line[name]) for line in self.log if isinstance(line.get(name), int | float)]
        x, y = np.array(rows, np.float64).reshape(-1, 2).T
        return Series(name, x, y)


def read_log(path: Path) -> tuple[Mapping[str, float], ...]:
    """The lines of a log in order of steps; of a step that was done twice (a resumed run) the later one counts.

    A line that was cut off (a killed run) is left out.
    """
    lines: dict[int, dict[str, float]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            lines.setdefault(int(line["step"]), {}).update(line)
        except (ValueError, KeyError, TypeError):
            continue
    return tuple(lines[step] for step in sorted(lines))


def commit() -> str:
    """``git describe`` of the checkout that this code is of; ``none`` where it is installed."""
    folder = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--tags", "--abbrev=12"]
        inside = ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name]
        if subprocess.run(inside, capture_output=True, timeout=10).returncode:
            return "none"  # installed below somebody else's checkout
        return subprocess.run(command, capture_output=True, timeout=10, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "none"
