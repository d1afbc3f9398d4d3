"""Models on disk: a shipped name, an exported folder, or bare weights.

<folder>/spec.json            EngineSpec
<folder>/features.onnx        image -> coarse, fine
<folder>/pair.onnx            features of two images -> K rows
<folder>/*_fp16.onnx          the same in half precision, where it is safe; inputs and outputs of each precision fit
<folder>/*_int8.onnx          likewise with Q/DQ nodes (optional: ``stfm quantize``)
<folder>/reference.npz        two images and what the float32 graphs made of them (stfm_ros.parity)
<folder>/weights.safetensors  what the graphs were exported from (optional; for torch)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from stfm_ros.errors import WeightsError
from stfm_ros.types import EngineSpec

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
FEATURES, PAIR, SPEC, SAFETENSORS = "features", "pair", "spec.json", "weights.safetensors"
REFERENCE = "reference.npz"
PRECISIONS = ("fp32", "fp16", "int8")  #: of graphs; each is a pair of files


def graph_file(graph: str, precision: str) -> str:
    """Name of the file of a graph, :data:`FEATURES` or :data:`PAIR`."""
    return f"{graph}.onnx" if precision == "fp32" else f"{graph}_{precision}.onnx"


@dataclass(frozen=True)
class Model:
    """A model that was found; ``spec`` is None for bare weights, which only torch can run."""

    path: Path
    spec: EngineSpec | None

    @property
    def precisions(self) -> tuple[str, ...]:
        """Of the exported graphs."""
        files = self.spec.files if self.spec else {}
        return tuple(p for p in PRECISIONS if {graph_file(FEATURES, p), graph_file(PAIR, p)} <= files.keys())

    @property
    def has_graphs(self) -> bool:
        """Whether the exported graphs are there."""
        return self.spec is not None

    def graph(self, graph: str, precision: str = "fp32") -> Path:
        """The file of :data:`FEATURES` or :data:`PAIR`; see :meth:`file`."""
        return self.file(graph_file(graph, precision))

    def file(self, name: str) -> Path:
        """A file of the export, checked against the SHA-256 in its spec.

        Raises:
            WeightsError: it is missing or damaged.
        """
        path = self.path / name
        if self.spec is None or not path.is_file():
            raise WeightsError(f"{self.path} holds no {name}; export the weights to a folder first (stfm export)")
        expected = self.spec.files.get(name)
        found = sha256(path)
        if expected != found:
            raise WeightsError(
                f"{path} has SHA-256 {found[:12]}, {SPEC} says {str(expected)[:12]}: export or fetch it again"
            )
        return path

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.path if self.path.is_file() else self.path / SAFETENSORS


def find_model(name: str) -> Model:
    """The model called ``name``, or at the path ``name``.

    Raises:
        WeightsError: there is none; lists the shipped names.
    """
    path = WEIGHTS / name if (WEIGHTS / name / SPEC).is_file() else Path(name).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        return Model(path, None)
    if (path / SPEC).is_file():
        return Model(path, read_spec(path / SPEC))
    raise WeightsError(
        f"there is no model {name!r}: not a shipped name ({', '.join(shipped()) or 'none'}), not a folder with "
        f"{SPEC}, not a .safetensors file"
    )


def shipped() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{SPEC}"))


def read_spec(path: Path) -> EngineSpec:
    """Read a spec.

    Raises:
        WeightsError: it is not JSON or lacks a field.
    """
    try:
        return EngineSpec(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path} is not a model's spec ({error}); export the weights again") from error


def write_spec(spec: EngineSpec, path: Path) -> None:
    """Write a spec as JSON; a crash never leaves half of it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(dataclasses.asdict(spec), indent=2) + "\n")
    os.replace(temporary, path)


def seal(folder: Path, spec: EngineSpec) -> Model:
    """Write the spec of an export with the SHA-256 of every file of it that is there."""
    names = [graph_file(graph, precision) for precision in PRECISIONS for graph in (FEATURES, PAIR)]
    there = [name for name in (*names, REFERENCE, SAFETENSORS) if (folder / name).is_file()]
    spec = dataclasses.replace(spec, files={name: sha256(folder / name) for name in there})
    write_spec(spec, folder / SPEC)
    return Model(folder, spec)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
