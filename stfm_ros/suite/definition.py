"""What the benchmark measures on: the data sets of stfm_ros/data/suite.yaml, whose first lines say what is what."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped, unused-ignore]

FILE = Path(__file__).resolve().parent.parent / "data" / "suite.yaml"

#: of images, the methods of the summary are ranked on: places that no weights were trained on
MEASURE, TRAIN = "measure", "train"


@dataclass(frozen=True)
class Dataset:
    """One data set of the benchmark; fields as in suite.yaml, zero and empty where they do not apply."""

    name: str
    path: str
    kind: str
    use: str
    licence: str
    about: str
    size: str = ""
    pairs: int = 0
    seed: int = 0
    bins: int = 1
    overlap: tuple[float, float] = (0.0, 1.0)
    gap: float = 0.0
    exact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "overlap", tuple(self.overlap))


@dataclass(frozen=True)
class Suite:
    """The benchmark: ``hash`` is that of the file, ``draws`` and ``seed`` are of the bootstrap."""

    version: int
    hash: str
    draws: int
    seed: int
    datasets: Mapping[str, Dataset]


def read_suite(path: Path = FILE) -> Suite:
    """The benchmark of this package, or of another file in its layout."""
    data = path.read_bytes()
    values = yaml.safe_load(data)
    datasets = {name: Dataset(name, **fields) for name, fields in values["datasets"].items()}
    digest = hashlib.sha256(data).hexdigest()[:12]
    return Suite(values["version"], digest, values["bootstrap"]["draws"], values["bootstrap"]["seed"], datasets)
