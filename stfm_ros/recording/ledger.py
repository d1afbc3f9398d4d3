"""The ledger of a recording: what came, what was written and what was left out, on the disk with every flush.

``ledger.jsonl`` holds one JSON object a line: first what is recorded, then the counts so far, last why it ended. Where
the last line has no ``ended``, the recording was interrupted, and the counts say what was lost. While a recording runs
its ledger is locked, so that nobody repairs what is still being written.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

LEDGER_NAME: Final = "ledger.jsonl"


@dataclass
class Tally:
    """What became of the messages of a topic: taken = written + all of left_out + those that still wait.

    Attributes:
        type, role: of the topic as it is taken.
        recorded_as: its name in the bag.
        first_ns, last_ns: times of receipt of the first and the last message.
        left_out: messages by reason; see :mod:`stfm_ros.recording.recorder`.
        missed: messages that were sent and never came, as far as the middleware tells; they were not taken.
    """

    type: str
    role: str
    recorded_as: str
    taken: int = 0
    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first_ns: int = 0
    last_ns: int = 0
    missed: int = 0

    @property
    def waiting(self) -> int:
        """Messages that are neither written nor left out."""
        return self.taken - self.written - self.left_out.total()

    def record(self) -> dict[str, Any]:
        """As ledger and manifest keep it."""
        return {**asdict(self), "left_out": dict(self.left_out)}


class Ledger:
    """Lines that are appended to a new file, each on the disk before :meth:`add` returns."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / LEDGER_NAME).open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: the disk is full or fails.
        """
        line = json.dumps(record).encode() + b"\n"
        begin = self._file.tell()
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "the ledger was written in part", self._file.name)
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(begin)
            self._file.seek(begin)
            raise

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; empty where there is none. A last line that was cut off is left out."""
    path = folder / LEDGER_NAME
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def is_recording(folder: Path) -> bool:
    """Whether a recorder writes to this folder now."""
    path = folder / LEDGER_NAME
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
