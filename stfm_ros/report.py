"""One self-contained HTML page: headline figures, tables, plots and pictures, nothing to load from elsewhere.

report = Report("Demo", "60 frames of a rendered room", figures=(Figure("rotation error", "0.31", "deg"),), parts=(
    Table("Latency", ("stage", "p50 ms", "p95 ms"), (("features", "31.0", "40.2"),)),
    Plot("Errors over time", line_plot(...)),
    Picture("Matches", draw_matches(...)),
))
write_report(Path("report.html"), report)
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import cv2

from stfm_ros import __version__
from stfm_ros.errors import ConfigError
from stfm_ros.machine import processor
from stfm_ros.types import ByteArray


@dataclass(frozen=True)
class Finding:
    """A sentence at the top of the page that must not be missed; ``tone`` is good, bad or empty."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Figure:
    """A headline number; ``tone`` is good, bad or empty."""

    label: str
    value: str
    unit: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text; the first ``texts`` columns are left-aligned, the others are numbers. ``best`` rows are marked."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    best: frozenset[int] = frozenset()
    texts: int = 1
    kind: str = "table"


@dataclass(frozen=True)
class Plot:
    """An inline SVG, e.g. of :mod:`stfm_ros.plots`. ``wide`` takes the whole row."""

    title: str
    svg: str
    note: str = ""
    wide: bool = False
    kind: str = "plot"


@dataclass(frozen=True)
class Picture:
    """(H, W, 3) uint8 RGB, embedded as JPEG (or as PNG where ``exact``). ``wide`` takes the whole row, else two share
    one; ``begins_row`` leaves what is before it alone in its row.
    """

    title: str
    image: ByteArray
    note: str = ""
    exact: bool = False
    wide: bool = True
    begins_row: bool = False
    kind: str = "picture"

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        form, options = ("png", []) if self.exact else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 88])
        _, data = cv2.imencode(f".{form}", cv2.cvtColor(self.image, cv2.COLOR_RGB2BGR), options)
        return f"data:image/{form};base64,{base64.b64encode(data.tobytes()).decode()}"


@dataclass(frozen=True)
class Heading:
    """What the parts that follow are about."""

    title: str
    note: str = ""
    kind: str = "heading"


@dataclass(frozen=True)
class Listing:
    """Text as it is, folded away until it is asked for."""

    title: str
    text: str
    kind: str = "listing"


@dataclass(frozen=True)
class Notes:
    """A list of sentences."""

    title: str
    sentences: tuple[str, ...]
    kind: str = "notes"


Part = Table | Plot | Picture | Heading | Listing | Notes


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
        figures: shown large at the top.
        parts: in order; two plots or tables share a row where there is room.
        facts: what was run on what, at the foot; version, time and machine are added.
        findings: what the page comes to, in sentences; shown first.
    """

    title: str
    subtitle: str
    figures: tuple[Figure, ...] = ()
    parts: tuple[Part, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def write_report(path: Path | str, report: Report) -> None:
    """Write the page; a page of that name is replaced.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        Path(path).write_text(render(report), encoding="utf-8")
    except OSError as fault:
        raise ConfigError(f"report {path} cannot be written ({fault}); choose a folder you may write to") from fault


def render(report: Report) -> str:
    """The page as text."""
    import jinja2

    templates = Path(__file__).resolve().parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    facts = {**report.facts, "stfm_ros": __version__, "written": _now(), "machine": machine()}
    return environment.get_template("report.html").render(report=report, facts=facts)


def machine() -> str:
    """Processor, system and Python of this computer."""
    return f"{processor()}, {platform.system()}, Python {platform.python_version()}"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
