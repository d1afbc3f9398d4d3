"""What every command of ``stfm`` is, and how it speaks.

A command gives one :class:`Outcome`. Its record is the object that ``--json`` prints, and is documented key by key in
``Command.fields``, from which docs/cli.md is made (``stfm_ros.cli.document``).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from stfm_ros.errors import StfmError

#: what a script can rely on
EXIT_CODES = {
    0: "done",
    1: "done, but the result is negative (each command says below what that means for it)",
    2: "not done: wrong usage, or an input that cannot be used; one message on stderr says what and what to do",
    3: "not done: a fault of the program; a traceback on stderr, please report it",
    130: "interrupted (Ctrl-C), as a shell sees it",
}
DONE, NEGATIVE, REFUSED, BROKEN, INTERRUPTED = EXIT_CODES

#: called with the steps that are done and all steps
Step = Callable[[int, int], None]


class UsageError(StfmError):
    """The command line is wrong."""


@dataclass(frozen=True)
class Outcome:
    """What a command found: the record for ``--json``, and whether the result is negative."""

    record: dict[str, Any]
    negative: bool = False


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name, summary: as in ``stfm --help``.
        description: a paragraph or two for its own help and for docs/cli.md.
        example: a command line that works.
        negative: when the exit code is 1; empty if never.
        fields: each key of the record and what it is; ``a.b`` is key b of the object a, ``a[].b`` of each item of a.
        arguments: adds its arguments to a parser.
        execute: does the work; heavy imports belong inside.
    """

    name: str
    summary: str
    description: str
    example: str
    negative: str
    fields: Mapping[str, str]
    arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace, Screen], Outcome]


class Screen:
    """Where a command writes: results on stdout, or with ``--json`` nowhere; warnings and progress on stderr."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        # rich folds tables at 80 columns where nobody looks; a file has no edge
        self._out = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160)
        self._err = Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else 160)

    @property
    def width(self) -> int:
        """Characters in a line of results."""
        return self._out.width

    def show(self, what: RenderableType = "") -> None:
        """A line, or a table, of the result."""
        if not self._json:
            self._out.print(what, soft_wrap=isinstance(what, str), markup=False)

    def say(self, text: str) -> None:
        """A line that is not part of the result: what was chosen, what was left out."""
        self._err.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def progress(self, title: str) -> Iterator[Step]:
        """A progress bar, on a terminal and without ``--json``."""
        times = (TimeElapsedColumn(), TextColumn("spent,"), TimeRemainingColumn(), TextColumn("left"))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
        hidden = self._json or not sys.stderr.isatty()
        with Progress(*columns, console=self._err, transient=True, disable=hidden) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int], None]]:
        """A progress bar for each stage of a long job, one after the other: called with its name, done, and total."""
        name, bar = "", ExitStack()
        step: Step = lambda done, total: None  # noqa: E731

        def show(stage: str, done: int, total: int) -> None:
            nonlocal name, step
            if stage != name:
                bar.close()
                name, step = stage, bar.enter_context(self.progress(stage))
            step(done, total)
            if done >= total:  # the terminal is free for the bar of the training
                bar.close()
                name = ""

        with bar:
            yield show


def table(*columns: str, numbers: bool = True) -> Table:
    """An empty table; all columns but the first hold ``numbers``, else text."""
    empty = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        empty.add_column(name, justify="right" if numbers and i else "left", no_wrap=numbers)
    return empty


def to_json(record: Any) -> str:
    """One JSON object; what is not finite becomes null, arrays become lists."""
    return json.dumps(_plain(record), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
