"""``stfm build-engine``: TensorRT engines of a model (``stfm_ros.runtimes.tensorrt_builder``)."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stfm_ros.cli.command import Command, Outcome, Screen, UsageError, table
from stfm_ros.cli.options import at_least
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import RuntimeNotAvailable, StfmError

if TYPE_CHECKING:
    from stfm_ros.parity import Deviation
    from stfm_ros.runtimes.engine_cache import Engine, EngineCache
    from stfm_ros.runtimes.store import Model
    from stfm_ros.runtimes.tensorrt_builder import Flavour, Progress, Target


#: share of matches below which engines do not what was exported; int8 has 96 % of them
COMMON = 0.9


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default="default", metavar="MODEL", help="a shipped name or an exported folder (default)"
    )
    parser.add_argument(
        "--flavour", choices=("auto", "tensorrt", "tensorrt_rtx"), default="auto", help="default: the first installed"
    )
    parser.add_argument(
        "--target", default="", metavar="LIST", help="e.g. sm86,sm89 (tensorrt_rtx); default: the GPU of this machine"
    )
    parser.add_argument(
        "--precision", default="auto", metavar="auto|fp32|fp16|int8", help="of the model's graphs; see stfm export"
    )
    parser.add_argument("--cache", default="", metavar="FOLDER", help="default: the user's cache folder")
    parser.add_argument(
        "--workspace", type=at_least(1), default=1024, metavar="MIB", help="GPU memory a layer may use (default 1024)"
    )
    parser.add_argument("--rebuild", action="store_true", help="build even where an engine fits")
    parser.add_argument("--build-only", action="store_true", help="do not run the engine on the model's reference pair")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.runtimes import pick_precision
    from stfm_ros.runtimes.engine_cache import EngineCache
    from stfm_ros.runtimes.store import find_model
    from stfm_ros.runtimes.tensorrt_builder import pick_flavour
    from stfm_ros.runtimes.tensorrt_runtime import PRECISIONS

    model, flavour, cache = find_model(options.model), pick_flavour(options.flavour), EngineCache(options.cache)
    if not model.has_graphs:
        raise UsageError(f"{model.path} is no exported folder: export the weights first (stfm export)")
    can = [precision for precision in PRECISIONS if precision in model.precisions]
    precision = pick_precision(flavour.name, MatcherConfig(precision=options.precision), can)
    targets = _targets(flavour, options.target)
    engines = build_engines(screen, model, flavour, targets, precision, cache, options.workspace, options.rebuild)
    deviation, why = (
        (None, "not run: --build-only")
        if options.build_only
        else check_engines(model, flavour, precision, targets, options.cache)
    )
    rows = table("engine", "precision", "GPU", "layers", "MiB", "built in s", "")
    for engine in engines:
        key = engine.key
        rows.add_row(
            key.graph, key.precision, key.gpu or key.compute_capability, str(engine.facts.get("layers", "")),
            f"{engine.bytes / 2**20:.1f}", f"{engine.build_s:.1f}", "was there" if engine.reused else "new",
        )  # fmt: skip
    screen.show(f"{model.path.name} with {flavour.name} {flavour.version}, in {cache.folder}")
    screen.show(rows)
    screen.show(why)
    return Outcome(
        {
            "model": model.path,
            "flavour": flavour.name,
            "version": flavour.version,
            "cache": cache.folder,
            "engines": [_record(engine) for engine in engines],
            "deviation": None if deviation is None else asdict(deviation),
            "checked": why,
        },
        negative=deviation is not None and deviation.common < COMMON,
    )


def build_engines(
    screen: Screen,
    model: Model,
    flavour: Flavour,
    targets: list[Target],
    precision: str,
    cache: EngineCache,
    workspace_mib: int,
    rebuild: bool = False,
) -> list[Engine]:
    """Both engines for each target, from the cache or built, with a bar.

    Raises:
        EngineError: TensorRT cannot build one, or it cannot be kept.
    """
    from stfm_ros.runtimes.store import FEATURES, PAIR
    from stfm_ros.runtimes.tensorrt_builder import obtain_engine

    engines: list[Engine] = []
    for target in targets:
        for graph in (FEATURES, PAIR):
            with _shown(screen, f"building the {graph} engine for {target.compute_capability}") as progress:
                engine = obtain_engine(
                    model, graph, precision, flavour, target, cache,
                    workspace_mib=workspace_mib, rebuild=rebuild, progress=progress,
                )  # fmt: skip
            engines.append(engine)
    return engines


def _targets(flavour: Flavour, text: str) -> list[Target]:
    from stfm_ros.runtimes.tensorrt_builder import find_target

    try:
        return [find_target(flavour, name) for name in text.lower().replace(" ", "").split(",")]
    except RuntimeNotAvailable as fault:
        if not flavour.targets:
            raise
        raise RuntimeNotAvailable(f"{fault}; or name what to build for: --target {','.join(flavour.targets)}") from None


@contextmanager
def _shown(screen: Screen, title: str) -> Iterator[Progress]:
    """A bar; where none is seen, lines of the log say that it goes on."""
    logger = logging.getLogger("stfm_ros.runtimes")
    before = logger.level
    if not sys.stderr.isatty():
        logger.setLevel(logging.INFO)
    try:
        with screen.progress(title) as step:
            yield lambda spent_s, part, doing: step(round(100 * part), 100)
    finally:
        logger.setLevel(before)


def check_engines(
    model: Model, flavour: Flavour, precision: str, targets: list[Target], cache: str
) -> tuple[Deviation | None, str]:
    """How far the engines are from the exported graphs, on the reference pair; and that in words, or why not known."""
    from stfm_ros.parity import check_reference
    from stfm_ros.runtimes.store import REFERENCE
    from stfm_ros.runtimes.tensorrt_builder import at_hand
    from stfm_ros.runtimes.tensorrt_runtime import TensorRtRuntime

    try:
        *_, here = at_hand(flavour.name)
    except StfmError as fault:
        return None, f"not run: {fault}"
    if here not in targets:
        return None, f"not run: the GPU of this machine is {here.compute_capability}"
    if model.spec is None or REFERENCE not in model.spec.files:
        return None, "not run: the model has no reference pair; export it again (stfm export)"
    config = MatcherConfig(precision=precision, engines=cache, stale_engine="refuse")
    found = check_reference(TensorRtRuntime(flavour.name, model, config), model)
    return found, (
        f"run on the reference pair: {found.found} matches, {found.expected} expected, {100 * found.common:.1f} % "
        f"common; of these {found.p50_px:.3f} px apart in the median, {found.p99_px:.3f} px at the 99th percentile"
    )


def _record(engine: Engine) -> dict[str, Any]:
    key = engine.key
    return {
        "file": engine.path,
        "graph": key.graph,
        "precision": key.precision,
        "gpu": key.gpu,
        "compute_capability": key.compute_capability,
        "layers": engine.facts.get("layers"),
        "bytes": engine.bytes,
        "sha256": engine.sha256,
        "build_s": engine.build_s,
        "reused": engine.reused,
    }


COMMAND = Command(
    name="build-engine",
    summary="build TensorRT engines of a model, for this GPU or for others",
    description=(
        "Build the TensorRT engines of a model and keep them where the matcher looks for them (matcher.engines). "
        "tensorrt builds for the GPU of this machine; tensorrt_rtx for any compute capability that it knows, on a "
        "machine without a GPU too. An engine that fits is not built again; Ctrl-C leaves nothing half done. Where the "
        "GPU that they are for is there, the engines are then run on the model's reference pair. See docs/engines.md."
    ),
    example="stfm build-engine default --flavour tensorrt_rtx --target sm86,sm89 --build-only",
    negative=f"the engines were run, and give fewer than {100 * COMMON:.0f} % of the matches of the exported graphs",
    fields={
        "model": "folder of the exported model",
        "flavour": "tensorrt or tensorrt_rtx",
        "version": "of TensorRT",
        "cache": "folder of the engines",
        "engines": "one object for each engine; each target has two:",
        "engines[].file": "the engine; a sidecar .json is beside it",
        "engines[].graph": "features (of one image) or pair",
        "engines[].precision": "fp32, fp16 or int8",
        "engines[].gpu": "name of the GPU it is for; empty where any of the compute capability will do",
        "engines[].compute_capability": "e.g. sm89",
        "engines[].layers": "of the network that TensorRT read",
        "engines[].bytes": "size of the engine",
        "engines[].sha256": "of the engine",
        "engines[].build_s": "how long its build took, s",
        "engines[].reused": "whether it was there already",
        "deviation": "from the exported graphs on the reference pair (stfm_ros.parity.Deviation); null where not run",
        "checked": "the same in words, or why the engines were not run",
    },
    arguments=arguments,
    execute=execute,
)
