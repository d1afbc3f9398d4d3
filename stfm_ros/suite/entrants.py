"""What the benchmark measures: this package's models, classical methods, XFeat, and any callable.

An entrant's ``identity`` is all that its matches depend on: results are kept under it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stfm_ros import baselines, covisible, images, matcher, search
from stfm_ros.baselines import BASELINES
from stfm_ros.config import AppConfig
from stfm_ros.errors import ConfigError, DatasetError
from stfm_ros.evaluate import ColourMethod
from stfm_ros.matcher import Matcher
from stfm_ros.suite import xfeat
from stfm_ros.suite.readers import HOMOGRAPHY, POINTS, POSE
from stfm_ros.suite.xfeat import XFeat, XFeatLighterGlue, XFeatStar
from stfm_ros.types import ByteArray, Matches

#: file of each peer below DATA/teachers
PEERS = {
    "xfeat": "xfeat.onnx",
    "xfeat-star": "xfeat_dense_match.onnx",
    "xfeat+lighterglue": "lighterglue_3layers.onnx",
}
NAMES = (*BASELINES, *PEERS)
_NETWORK = Path(matcher.__file__).parent / "model"
_SIZE = (640, 480)  # of the images that operations are counted for


@dataclass(frozen=True)
class Entrant:
    """A method that takes part.

    Attributes:
        name: in tables.
        match: ``(rgb0, rgb1) -> Matches``.
        identity: what the matches depend on: weights, settings, code.
        claims: whether its confidence claims to be a probability and its sigma pixels.
        gflops: 1e9 operations of a 640x480 pair; None where nobody counted.
        measures: the kinds of data it is measured on.
    """

    name: str
    match: ColourMethod
    identity: Mapping[str, Any]
    claims: bool = False
    gflops: float | None = None
    measures: tuple[str, ...] = (POSE, HOMOGRAPHY, POINTS)


def models(names: str, given: Mapping[str, Any]) -> list[tuple[Entrant, Matcher]]:
    """Models of a list such as ``default,small@fp32,runs/x/weights.safetensors``: NAME or NAME@PRECISION.

    Each enters as one look and as two; for homographies and labelled points also with the search over turns and zooms.

    Args:
        given: settings of ``stfm_ros.config.AppConfig`` by dotted name, for all of them.

    Raises:
        ConfigError: a setting or a precision is unknown.
        WeightsError, RuntimeNotAvailable: a model cannot be loaded.
        DatasetError: it is an RGB-D model, for which most of the benchmark has no depth.
    """
    entrants = []
    for text in names.replace(" ", "").split(","):
        name, _, precision = text.partition("@")
        wanted = {"matcher.model": name} | ({"matcher.precision": precision} if precision else {})
        model = Matcher.from_pretrained(AppConfig.from_mapping({**given, **wanted}).matcher)
        if model.takes_depth:
            raise DatasetError(
                f"{text} is an RGB-D model, and most of the benchmark has no depth: measure it by stfm eval on "
                "recordings with depth, or name an RGB model"
            )
        spec = model.runtime.spec
        gflops = 2 * spec.gflops["features"] + spec.gflops["pair"] if spec.gflops else None
        settings = {**asdict(model.config), "precision": model.runtime.precision, "runtime": model.runtime_name}
        code = _code(matcher, images, search, covisible)
        # the same weights may be read by another graph: of an export by its files, else by the network's code
        graph = spec.files or {path.name: _digest(path.read_bytes()) for path in sorted(_NETWORK.glob("*.py"))}
        identity: dict[str, Any] = {
            "weights": model.weights_hash,
            "graph": _digest(repr(sorted(graph.items())).encode()),
            "sigma_scale": spec.sigma_scale,
            "code": code,
            **settings,
        }
        closer = Matcher(model.runtime, replace(model.config, looks=2), model.runtime_name, model.reason)
        searched = partial(model.match, search=True)
        variants = (
            Entrant(f"stfm {text}", model.match, identity, True, gflops),
            Entrant(f"stfm {text}, two looks", closer.match, {**identity, "looks": 2}, True, gflops and 2 * gflops),
            Entrant(
                f"stfm {text}, search", searched, {**identity, "search": True}, True, measures=(HOMOGRAPHY, POINTS)
            ),
        )
        entrants += [(variant, model) for variant in variants]
    return entrants


def named(names: str, teachers: Path, threads: int) -> tuple[list[Entrant], list[str]]:
    """Classical methods and peers of a list such as ``sift,xfeat``; and what is left out, with the reason.

    Args:
        teachers: folder of the files of :data:`PEERS`.
        threads: of the peers' runtime.

    Raises:
        ConfigError: one of them is not known.
    """
    wanted = [name for name in names.replace(" ", "").split(",") if name not in ("", "none")]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise ConfigError(f"--methods {', '.join(unknown)}: expected some of {', '.join(NAMES)}, or none")
    entrants, left_out = [], []
    for name in wanted:
        if name in BASELINES:
            entrants.append(Entrant(name, BASELINES[name], {"code": _code(baselines)}))
            continue
        files = [teachers / PEERS["xfeat"], teachers / PEERS[name]]
        missing = sorted({file.name for file in files if not file.is_file()})
        if missing:
            left_out.append(f"{name}: there is no {' and no '.join(missing)} in {teachers}")
            continue
        entrants.append(_peer(name, files, threads))
    return entrants, left_out


def from_callable(text: str) -> Entrant:
    """``NAME=module:function``, a callable ``(rgb0, rgb1)`` that gives Matches, or points (k0, k1), (n, 2) each.

    Raises:
        ConfigError: the text is not of this form, or there is no such callable.
    """
    name, equals, where = text.partition("=")
    module_name, colon, function_name = where.partition(":")
    if not (name and equals and module_name and colon and function_name):
        raise ConfigError(f"--method {text!r}: expected NAME=module:function, e.g. mine=my_package.matcher:match")
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, function_name)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(f"--method {text}: {fault}; is its folder on PYTHONPATH?") from fault
    if not callable(function):
        raise ConfigError(f"--method {text}: {where} is a {type(function).__name__}, expected a callable (rgb0, rgb1)")
    return Entrant(name, partial(_as_matches, name, function), {"callable": where, "code": _code(module)})


def _peer(name: str, files: Sequence[Path], threads: int) -> Entrant:
    identity = {file.name: _digest(file.read_bytes()) for file in files}
    points = XFeat(files[0], threads)
    method: XFeat | XFeatStar | XFeatLighterGlue = points
    if name != "xfeat":
        method = (XFeatStar if name == "xfeat-star" else XFeatLighterGlue)(points, files[1], threads)
    return Entrant(name, method, {**identity, "threads": threads, "code": _code(xfeat)}, gflops=method.gflops(*_SIZE))


def _as_matches(
    name: str, function: Callable[[ByteArray, ByteArray], Any], rgb0: ByteArray, rgb1: ByteArray
) -> Matches:
    found = function(rgb0, rgb1)
    if isinstance(found, Matches):
        return found
    try:
        points0, points1 = (np.asarray(points, np.float32) for points in found)
    except (TypeError, ValueError):
        raise ConfigError(
            f"method {name} gave a {type(found).__name__}: expected stfm_ros.types.Matches, or two arrays (n, 2)"
        ) from None
    if points0.shape != points1.shape or points0.ndim != 2 or points0.shape[1] != 2:
        raise ConfigError(
            f"method {name} gave points of shapes {points0.shape} and {points1.shape}: expected (n, 2) both"
        )
    ones = np.ones(len(points0), np.float32)
    return Matches(points0, points1, ones, ones)


def _code(*modules: Any) -> str:
    """Of the source of modules; of those without one (compiled) of their names."""
    sources = []
    for module in modules:
        try:
            sources.append(inspect.getsource(module))
        except (OSError, TypeError):
            sources.append(module.__name__)
    return _digest("".join(sources).encode())


def _digest(data: bytes) -> str:
    """12 hex digits."""
    return hashlib.sha256(data).hexdigest()[:12]
