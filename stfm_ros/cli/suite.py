"""``stfm eval --suite``: the benchmark of ``stfm_ros.suite``, as the command line sees it."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stfm_ros.cli.command import Screen, table, to_json
from stfm_ros.cli.options import given_settings

if TYPE_CHECKING:
    from stfm_ros.suite.definition import Dataset, Suite
    from stfm_ros.suite.entrants import Entrant
    from stfm_ros.suite.readers import Render, RenderedPair
    from stfm_ros.suite.runner import Opened
    from stfm_ros.suite.summary import Overall, Quartiles, Result
    from stfm_ros.types import ByteArray

MODELS = "default,small"
#: what runs beside the models unless told otherwise
METHODS = "sift,orb,akaze,xfeat,xfeat-star,xfeat+lighterglue"
#: every so many photographs of the research folder is a texture of the rendered scenes
TEXTURES = 16
_BETWEEN = 3  # characters between two columns of a table
_RENDERER = ("render", "raster", "furnish", "textures", "photometric", "evaluation")

FIELDS = {
    "suite": "(--suite) the benchmark:",
    "suite.version": "of stfm_ros/data/suite.yaml",
    "suite.hash": "first 12 hex digits of the SHA-256 of that file",
    "suite.seed": "of the bootstrap; the seeds of the pairs are in datasets",
    "suite.draws": "of the bootstrap",
    "suite.commit": "git describe of the code, or none",
    "suite.machine": "processor, cores, system, Python",
    "suite.versions": "of the libraries that figures depend on",
    "suite.threads": "CPU threads that the methods were given; 0 is their own choice",
    "suite.times": "(--times) the run whose times the summary has: json, commit, machine, threads, load; else null",
    "suite.load": "mean number of running processes over the last minute, at the beginning and at the end",
    "suite.seconds": "of the whole run; rows that were kept from an earlier one took none",
    "suite.datasets": "one object for each data set that was measured: its lines of suite.yaml, and",
    "suite.datasets[].data": "fingerprint of its files (names and sizes; of rendered scenes their renderer's too)",
    "suite.methods": "one object for each method:",
    "suite.methods[].name": "its name in the results",
    "suite.methods[].identity": "what its matches depend on: weights, settings, code",
    "suite.methods[].gflops": "1e9 operations of a 640x480 pair; null where nobody counted",
    "suite.results": "one object for each data set and method; see stfm_ros.suite.summary.Result",
    "suite.results[].figures": "by name, listed in stfm_ros.suite.summary; each has value, low and high (95 % "
    "interval). Shares and AUC are 0 to 1. best256@3: the matches within 3 px among the 256 most confident, "
    "divided by 256 however many there are",
    "suite.summary": "one object for each method; see stfm_ros.suite.summary.Overall",
    "suite.left_out": "data sets and methods that were not measured, with the reason",
    "suite.json": "file of this object",
    "suite.page": "the HTML page",
    "suite.picture": "accuracy against cost: AUC@10 over wall time, and over operations; null without matplotlib",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmark."""
    group = parser.add_argument_group("the benchmark (docs/benchmark.md)")
    group.add_argument("--suite", type=Path, metavar="DATA", help="run the fixed benchmark on this data folder")
    group.add_argument(
        "--models", default=MODELS, metavar="LIST",
        help=f"names or files, each perhaps with @PRECISION; the first is what others are compared with ({MODELS})",
    )  # fmt: skip
    group.add_argument(
        "--method", action="append", default=[], metavar="NAME=MODULE:FUNCTION",
        help="a callable (rgb0, rgb1) that gives two (n, 2) arrays of points, or Matches; may be given again",
    )  # fmt: skip
    group.add_argument("--datasets", default="", metavar="LIST", help="of the benchmark's data sets only these")
    group.add_argument(
        "--out", type=Path, default=Path("suite"), metavar="FOLDER",
        help="for page, JSON and rows; a run that was stopped goes on there (default suite)",
    )  # fmt: skip
    group.add_argument(
        "--times", type=Path, metavar="JSON",
        help="take the times of the summary and of the picture from another run of the same methods, such as one of "
        "few pairs on an idle machine",
    )  # fmt: skip


def execute(options: argparse.Namespace, screen: Screen) -> tuple[dict[str, Any], bool]:
    """Run the benchmark; its record, and whether the first model solved nothing on some data set."""
    import json
    import os
    import time

    from stfm_ros.machine import about_machine, cores, versions
    from stfm_ros.report import write_report
    from stfm_ros.solvers import require_poselib
    from stfm_ros.suite.cost import draw_cost
    from stfm_ros.suite.definition import read_suite
    from stfm_ros.suite.page import make_page
    from stfm_ros.suite.runner import LIBRARIES, commit, run
    from stfm_ros.suite.summary import overall, summarise

    began, load = time.monotonic(), [os.getloadavg()[0]]
    require_poselib()
    suite = read_suite()
    datasets, left_out = _present(suite, options)
    entrants, threads, missing = _entrants(options, screen)
    times, timed = _other_times(options.times, entrants) if options.times else ({}, None)
    left_out += missing
    opened = _open(datasets, options.suite, screen)
    for line in left_out:
        screen.say(f"left out: {line}")
    model, results, rows = entrants[0], [], {}
    for name, one in opened.items():
        with screen.progress(f"measuring on {name}") as step:
            rows[name] = run(one, entrants, options.out, options.pairs or 0, step)
        results += summarise(one.dataset, one.reader.measure, rows[name], model.name, suite)
        _show(screen, one, [result for result in results if result.dataset == name])
    summary = overall(results, rows, entrants, suite)
    summary = [_timed(one, times) for one in summary]
    _show_overall(screen, summary, results)
    load.append(os.getloadavg()[0])
    record = {
        "version": suite.version,
        "hash": suite.hash,
        "seed": suite.seed,
        "draws": suite.draws,
        "commit": commit(),
        "machine": about_machine(),
        "versions": {name: version for name, version in versions().items() if name in ("stfm_ros", *LIBRARIES)},
        "threads": threads,
        "times": timed,
        "load": load,
        "seconds": time.monotonic() - began,
        "datasets": [asdict(one.dataset) | {"data": one.data} for one in opened.values()],
        "methods": [{"name": e.name, "identity": dict(e.identity), "gflops": e.gflops} for e in entrants],
        "results": [asdict(result) for result in results],
        "summary": [asdict(one) for one in summary],
        "left_out": left_out,
        "json": options.out / "suite.json",
        "page": options.out / "index.html",
    }
    cost = draw_cost(summary, threads, options.out / "cost.png")
    if cost is None:
        screen.say("no picture of accuracy against cost: it needs matplotlib, and data sets with poses")
    record["picture"] = None if cost is None else options.out / "cost.png"
    facts = {
        "commit": str(record["commit"]),
        "suite": f"version {suite.version}, {suite.hash}, bootstrap seed {suite.seed}, {suite.draws} draws",
        "threads": f"{threads or cores()}; load {load[0]:.1f} at the beginning, {load[1]:.1f} at the end",
        "times of the summary": "of {json}, {commit}, {machine[cpu]}".format(**timed) if timed else "of this run",
        "libraries": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    write_report(record["page"], make_page(suite, opened, results, summary, model, left_out, facts, cost))
    text = json.dumps(json.loads(to_json(record)), indent=1)
    record["json"].write_text(text + "\n", encoding="utf-8")
    screen.show(f"\nwrote {record['page']}, {record['json']}")
    return record, any(_nothing(result) for result in results if result.method == model.name)


def _other_times(
    path: Path, entrants: Sequence[Entrant]
) -> tuple[dict[str, tuple[Quartiles, Quartiles]], dict[str, Any]]:
    """By method the wall and processor time of another run, and what is told of that run.

    Raises:
        UsageError: it cannot be read, or did not time all of these methods as they are here.
    """
    import json

    from stfm_ros.cli.command import UsageError
    from stfm_ros.suite.readers import POSE
    from stfm_ros.suite.summary import Quartiles

    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = {one["name"]: one["identity"] for one in record["methods"]}
        times = {
            one["method"]: (Quartiles(**one["ms"]), Quartiles(**one["cpu_ms"]))
            for one in record["summary"]
            if one["ms"]
        }
        about = {"json": path.name} | {name: record[name] for name in ("commit", "machine", "threads", "load")}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise UsageError(f"--times {path}: expected the suite.json of a run with --suite ({fault})") from fault
    here = {one.name: json.loads(to_json(dict(one.identity))) for one in entrants if POSE in one.measures}
    other = sorted(name for name, identity in here.items() if name not in times or known.get(name) != identity)
    if other:
        raise UsageError(
            f"--times {path}: it did not time {', '.join(other)} as here (weights, settings and code have to be the "
            "same, and a data set with poses among its own): run it again"
        )
    return times, about


def _timed(one: Overall, times: Mapping[str, tuple[Quartiles, Quartiles]]) -> Overall:
    """With the wall and processor time that are known from elsewhere, if it has any."""
    if one.ms is None or one.method not in times:
        return one
    ms, cpu_ms = times[one.method]
    return replace(one, ms=ms, cpu_ms=cpu_ms)


def _present(suite: Suite, options: argparse.Namespace) -> tuple[list[Dataset], list[str]]:
    """The data sets that are wanted and there, and those that are not, with the reason."""
    from stfm_ros.cli.command import UsageError
    from stfm_ros.errors import DatasetError
    from stfm_ros.suite.readers import RENDERED

    wanted = _names(options.datasets) or list(suite.datasets)
    unknown = [name for name in wanted if name not in suite.datasets]
    if unknown:
        raise UsageError(f"--datasets {', '.join(unknown)}: expected some of {', '.join(suite.datasets)}")
    present, absent = [], []
    for dataset in (suite.datasets[name] for name in wanted):
        folder = options.suite / dataset.path
        if not folder.is_dir():
            absent.append(f"{dataset.name}: there is no folder {folder}")
        elif dataset.kind == RENDERED and importlib.util.find_spec("torch") is None:
            absent.append(
                f"{dataset.name}: its scenes come from stfm_training, which needs torch: pip install '.[train]'"
            )
        else:
            present.append(dataset)
    if not present:
        raise DatasetError(
            f"{options.suite} holds none of the benchmark's data sets: expected folders such as "
            f"{next(iter(suite.datasets.values())).path} (docs/benchmark.md)"
        )
    return present, absent


def _entrants(options: argparse.Namespace, screen: Screen) -> tuple[list[Entrant], int, list[str]]:
    """What takes part, the threads it is given, and what is left out with the reason."""
    import cv2

    from stfm_ros.cli.command import UsageError
    from stfm_ros.cli.options import model_line
    from stfm_ros.suite.entrants import from_callable, models, named

    listed = METHODS if options.methods is None else options.methods
    called = _names(listed) + [text.partition("=")[0] for text in options.method] + _names(options.models)
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        raise UsageError(f"two methods are called {', '.join(twice)}: give each another name, or name it once")
    own = [from_callable(text) for text in options.method]
    settings = given_settings(options)
    beside, left_out = named(listed, options.suite / "teachers", int(settings.get("matcher.threads", 0)))
    loaded = models(options.models, settings)
    for line in dict.fromkeys(model_line(matcher) for _, matcher in loaded):
        screen.show(line)
    threads = loaded[0][1].config.threads
    if threads:
        cv2.setNumThreads(threads)
    return [entrant for entrant, _ in loaded] + beside + own, threads, left_out


def _names(text: str) -> list[str]:
    return [name for name in text.replace(" ", "").split(",") if name not in ("", "none")]


def _open(datasets: Sequence[Dataset], root: Path, screen: Screen) -> dict[str, Opened]:
    """All readers, which choose their pairs: what is wrong with the last is told before the first takes its time."""
    from stfm_ros.suite.readers import RENDERED, fingerprint, open_dataset
    from stfm_ros.suite.runner import Opened

    opened = {}
    with screen.progress("choosing pairs") as step:
        for done, dataset in enumerate(datasets, start=1):
            folder, drawn = root / dataset.path, dataset.kind == RENDERED
            reader = open_dataset(root, dataset, _renderer(folder) if drawn else None)
            opened[dataset.name] = Opened(dataset, reader, fingerprint(folder) + (_renderer_code() if drawn else ""))
            step(done, len(datasets))
    return opened


def _renderer(folder: Path) -> Render:
    """What draws rendered scenes, with photographs of a folder as textures."""
    from stfm_ros.picture_files import SUFFIXES, read_picture

    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[::TEXTURES]
    return partial(_render, [read_picture(path) for path in files])


def _render(textures: Sequence[ByteArray], seed: int, height: int, width: int) -> RenderedPair:
    from stfm_ros.suite.readers import RenderedPair
    from stfm_training.evaluation import TwoViews, rendered_pairs

    (pair,) = rendered_pairs(1, textures, height, width, seed)
    assert isinstance(pair.source, TwoViews) and pair.source.exact is not None
    return RenderedPair(pair, pair.source.exact)


def _renderer_code() -> str:
    """Another renderer draws other scenes: hex digits over its source."""
    specs = [importlib.util.find_spec(f"stfm_training.{name}") for name in _RENDERER]
    files = [Path(spec.origin) for spec in specs if spec is not None and spec.origin]
    return " " + hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _show(screen: Screen, opened: Opened, results: Sequence[Result]) -> None:
    from stfm_ros.suite.page import result_table

    use = "" if opened.dataset.use == "measure" else "; weights may have been trained on it"
    screen.show(f"\n{opened.dataset.name}: {opened.dataset.about}; {len(results[0].names)} pairs{use}")
    _show_table(screen, result_table(results))


def _show_overall(screen: Screen, summary: Sequence[Overall], results: Sequence[Result]) -> None:
    from stfm_ros.suite.page import claims_table, overall_table

    screen.show("\nall data that no weights were trained on; %, [95 % interval]")
    _show_table(screen, overall_table(summary))
    claims = claims_table(results)
    if claims[1]:
        screen.show("\nwhat confidence and sigma claim")
        _show_table(screen, claims)


def _show_table(screen: Screen, content: tuple[tuple[str, ...], list[tuple[str, ...]]]) -> None:
    for block, (heads, lines) in enumerate(folded(*content, screen.width)):
        if block:
            screen.show()
        shown = table(*heads)
        for line in lines:
            shown.add_row(*line)
        screen.show(shown)


def folded(heads: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> list[tuple[list[str], list[list[str]]]]:
    """A table as several, none of them wider than ``width`` if it can be had: no figure is cut off.

    Each begins with the first column and goes on with the next ones.
    """
    widths = [max(map(len, column)) + _BETWEEN for column in zip(heads, *lines)]
    blocks: list[list[int]] = [[0]]
    for column in range(1, len(heads)):
        used = sum(widths[i] for i in blocks[-1]) + widths[column] - _BETWEEN
        if used > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(column)
    return [([heads[i] for i in block], [[line[i] for i in block] for line in lines]) for block in blocks]


def _nothing(result: Result) -> bool:
    """Whether a method found nothing right on a data set."""
    from stfm_ros.suite.summary import HEADLINES

    figures: Mapping[str, Any] = result.figures
    return bool(figures[HEADLINES[result.measure]].high == 0.0)
