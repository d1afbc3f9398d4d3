"""Every method on every view, kept on disk row by row, so that a run that was stopped goes on where it was.

    OUT/rows/DATASET/METHOD.jsonl    first line: the key, all that the rows depend on; then a row a line

Rows of another key (other weights, data, settings, code, libraries or processor) are thrown away and made anew.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stfm_ros import evaluate, pairs, solvers
from stfm_ros.errors import ConfigError
from stfm_ros.machine import about_machine, versions
from stfm_ros.suite import measures, readers
from stfm_ros.suite.definition import Dataset
from stfm_ros.suite.entrants import Entrant
from stfm_ros.suite.measures import Row, measure
from stfm_ros.suite.readers import Reader

LIBRARIES = ("numpy", "opencv-python-headless", "opencv-python", "onnxruntime", "openvino", "torch", "poselib")


@dataclass(frozen=True)
class Opened:
    """A data set that takes part: what suite.yaml says, its reader, and :func:`stfm_ros.suite.readers.fingerprint`."""

    dataset: Dataset
    reader: Reader
    data: str


def in_order(count: int, most: int = 0) -> list[int]:
    """The first ``most`` numbers (0: all) below ``count``, in an order whose every beginning is spread evenly.

    Numbers are sorted by their bits read backwards: 0, 4, 2, 6, 1, 5, 3, 7. So fewer views are a part of more views,
    and a run that was stopped is a fair sample.
    """
    bits = max(count - 1, 1).bit_length()
    order = sorted(range(count), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))
    return order[:most] if most else order


def run(
    opened: Opened,
    entrants: Sequence[Entrant],
    folder: Path,
    most: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[Row, ...]]:
    """The rows of each entrant on one data set, in order of the views. What is kept already is not done again.

    All entrants see a view one after the other, so that what else the machine does meets them alike.

    Args:
        folder: where rows are kept.
        most: measure on so many views, spread evenly; 0 is all.
        progress: called with views done and views in all.

    Raises:
        ConfigError: the folder cannot be written.
        DatasetError, ImageError: a view cannot be read.
    """
    entrants = [one for one in entrants if opened.reader.measure in one.measures]
    shelves = {one.name: Shelf(_file(folder, opened.dataset, one), key(opened, one)) for one in entrants}
    numbers = in_order(len(opened.reader.names), most)
    warm: set[str] = set()
    for done, number in enumerate(numbers, start=1):
        name = opened.reader.names[number]
        pending = [one for one in entrants if name not in shelves[one.name].rows]
        if pending:
            view = opened.reader.view(number)
        for one in pending:
            if one.name not in warm:  # what is made at the first call of a size is no part of a pair's time
                one.match(*view.images)
                warm.add(one.name)
            began, cpu_began = time.perf_counter(), time.process_time()
            matches = one.match(*view.images)
            times = 1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu_began)
            shelves[one.name].add(measure(name, view, matches, times, one.claims, opened.dataset.exact))
        if progress:
            progress(done, len(numbers))
    names = [opened.reader.names[number] for number in sorted(numbers)]
    return {one.name: tuple(shelves[one.name].rows[name] for name in names) for one in entrants}


class Shelf:
    """The rows of one method on one data set, in a file.

    Attributes:
        rows: by name of the view.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        head = json.dumps(key, sort_keys=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines and lines[0] == head:
            self._take(lines[1:])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [head, *(json.dumps(row.to_json()) for row in self.rows.values())]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        except OSError as fault:
            raise ConfigError(f"{path} cannot be written ({fault.strerror}); choose another --out") from fault

    def add(self, row: Row) -> None:
        """Keep a row, on disk at once."""
        self.rows[row.name] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row.to_json()) + "\n")

    def _take(self, lines: Sequence[str]) -> None:
        for line in lines:
            try:
                row = Row.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # cut off when a run was killed
            self.rows[row.name] = row


def key(opened: Opened, entrant: Entrant) -> dict[str, Any]:
    """All that rows depend on."""
    code = hashlib.sha256()
    for module in (evaluate, pairs, solvers, measures, readers):
        code.update(inspect.getsource(module).encode())
    fixed = {name: value for name, value in asdict(opened.dataset).items() if name not in ("about", "licence", "use")}
    machine = about_machine()
    return {
        "dataset": fixed,
        "data": opened.data,
        "method": dict(entrant.identity),
        "code": code.hexdigest()[:12],
        "versions": {name: version for name, version in versions().items() if name in LIBRARIES},
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


def commit() -> str:
    """``git describe`` of the checkout that this code is of; ``none`` where it is installed."""
    folder = str(Path(__file__).resolve().parent)
    described = ["git", "-C", folder, "describe", "--always", "--dirty", "--tags", "--abbrev=12"]
    try:
        tracked = ["git", "-C", folder, "ls-files", "--error-unmatch", Path(__file__).name]
        if subprocess.run(tracked, capture_output=True, timeout=10).returncode:
            return "none"  # installed below somebody else's checkout
        return subprocess.run(described, capture_output=True, timeout=10, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "none"


def _file(folder: Path, dataset: Dataset, entrant: Entrant) -> Path:
    return folder / "rows" / dataset.name / f"{quote(entrant.name, safe=' ,+')}.jsonl"
