"""The report: one file that loads nothing, hides nothing and escapes what it is given."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from stfm_ros import __version__
from stfm_ros.errors import ConfigError
from stfm_ros.plots import Bars, Series, Span, bar_plot, group_plot, line_plot, path_plot, ticks
from stfm_ros.report import (
    Figure,
    Finding,
    Heading,
    Listing,
    Notes,
    Picture,
    Plot,
    Report,
    Table,
    render,
    write_report,
)

X = np.linspace(0, 6, 40)
VOID = {"meta", "img", "br"}


class Tags(HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report() -> Report:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, 15:] = (255, 0, 0)
    return Report(
        "Demo <one>",
        "A & B",
        figures=(Figure("sent", "60"), Figure("error", "0.3", "deg", "good")),
        parts=(
            Table("Methods", ("method", "AUC@5"), (("ours", "40.0"), ("SIFT", "30.0")), best=frozenset([0])),
            Plot("Errors", line_plot([Series("rotation", X, np.sin(X))], "time, s", "deg")),
            Picture("Matches", picture, exact=True),
        ),
        facts={"model": "default"},
    )


def test_the_page_is_one_file_that_nests_and_loads_nothing() -> None:
    page = render(report())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    for tag, attributes in tags.seen:
        assert tag not in ("script", "link", "iframe")
        assert (attributes.get("src") or "data:").startswith("data:")
    assert "@import" not in page
    assert "url(" not in page


def test_the_page_shows_what_it_was_given_escaped() -> None:
    page = render(report())
    assert "<title>Demo &lt;one&gt;</title>" in page
    assert "A &amp; B" in page
    for text in ("AUC@5", "SIFT", "0.3 <small>deg</small>", "<dt>model</dt><dd>default</dd>", __version__):
        assert text in page
    assert page.count('<tr class="best">') == 1
    data = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert data
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data[1]), np.uint8), cv2.IMREAD_COLOR)
    assert tuple(decoded[0, 29]) == (0, 0, 255)  # red, in OpenCV's order


def test_a_page_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report())
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match=r"report .*missing/report.html cannot be written .*; choose a folder"):
        write_report(tmp_path / "missing" / "report.html", report())


@pytest.mark.parametrize(
    "svg",
    [
        line_plot(
            [Series("a < b", X, np.where(X > 3, np.nan, X)), Series("dots", X, X * 2, points=True)], "x", "y & z"
        ),
        line_plot([], "x", "y"),
        line_plot([Series("one point", np.array([1.0]), np.array([2.0]))], "x", "y"),
        path_plot([Series("truth", np.cos(X), np.sin(X), dashed=True)], "x", "y"),
        bar_plot([Span("features", 80, 95), Span("pose", 0, 0)], "ms"),
        bar_plot([], "ms"),
    ],
)
def test_plots_are_well_formed_and_finite(svg: str) -> None:
    ET.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_line_has_a_gap_where_there_is_no_value() -> None:
    y = np.array([1.0, 2, np.nan, 4, 5])
    line = re.search(r'class="s0 line" d="([^"]+)"', line_plot([Series("a", np.arange(5.0), y)], "x", "y"))
    assert line
    assert line[1].count("M") == 2
    assert line[1].count("L") == 2


def test_a_path_keeps_its_shape() -> None:
    square = Series("square", np.array([0.0, 1, 1, 0]), np.array([0.0, 0, 1, 1]))
    line = re.search(r'class="s0 line" d="([^"]+)"', path_plot([square], "x", "y"))
    assert line
    places = np.array([[float(v) for v in p.split()] for p in re.split("[ML]", line[1])[1:]])
    assert abs(places[1, 0] - places[0, 0]) == pytest.approx(abs(places[2, 1] - places[1, 1]), abs=0.2)
    assert places[2, 1] < places[1, 1]  # y points up


def test_ticks_are_round() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-3, 47) == pytest.approx([0, 10, 20, 30, 40])
    assert ticks(2, 2) == [2]


def test_bars_rise_with_their_values_and_leave_out_what_is_not_known() -> None:
    nothing = np.full(2, np.nan)
    svg = group_plot(
        ["one", "two < three"],
        [
            Bars("a", np.array([10.0, 40]), np.array([5.0, 30]), np.array([20.0, 50])),
            Bars("b", nothing, nothing, nothing),
        ],
        "%",
    )
    ET.fromstring(svg)
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" rx="2"/>(?=<path)', svg)]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.2)
    assert svg.count("whisker") == 2 and "nan" not in svg and "two &lt; three" in svg


def test_a_logarithmic_axis_is_even_in_powers_of_ten() -> None:
    y = np.array([1.0, 10, 100, 0.0])
    svg = line_plot([Series("loss", np.arange(4.0), y, colour=3)], "x", "y", log=True)
    line = re.search(r'class="s3 line" d="([^"]+)"', svg)
    assert line
    places = [float(p.split()[1]) for p in re.split("[ML]", line[1])[1:]]
    assert len(places) == 3  # zero has no logarithm
    assert places[0] - places[1] == pytest.approx(places[1] - places[2], abs=0.2)
    assert all(f">{value}<" in svg for value in (1, 10, 100))


def test_findings_come_first_and_listings_are_folded() -> None:
    page = render(
        Report(
            "t", "s", figures=(Figure("a", "1"),), findings=(Finding("It is worse <here>.", "bad"),),
            parts=(Heading("Part", "why"), Notes("Terms", ("one", "two")), Listing("Config", "a: <b>\n  c: 1"),
                   Table("T", ("a", "b", "c"), (("x", "y", "1"),), texts=2)),
        )
    )  # fmt: skip
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert page.index("It is worse &lt;here&gt;.") < page.index("Part</h2>") and '<li class="bad">' in page
    assert "<details>" in page and "a: &lt;b&gt;\n  c: 1</pre>" in page and "<li>two</li>" in page
    assert page.count('<td class="text">') == 2
