"""Methods measured on the pairs of a recording, and the pairs that are worth looking at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from stfm_ros.evaluate import Method, PoseScore, WithDepth, agreeing, evaluate_pairs
from stfm_ros.pairs import Pair
from stfm_ros.types import ByteArray, Float32Array, Matches
from stfm_ros.visualise import draw_matches
from stfm_training.reporting.pair_facts import PairFacts, sentence
from stfm_training.reporting.record import AFTER, BEFORE, Evaluation, Shown, pose_errors

SOLVED_DEG, FAILED_DEG = 5.0, 20.0  #: beyond the latter a pose is as good as none
WORST, HARDEST = 3, 2  #: pictures of failures, and of pairs that are solved
_WIDTH_PX = 1100


def evaluate_recording(
    name: str,
    methods: Mapping[str, Method],
    pairs: Sequence[Pair],
    relation: str = "",
    solvers: Sequence[str] = ("poselib",),
    progress: Callable[[int, int], None] | None = None,
    pictures: bool = True,
) -> Evaluation:
    """Measure methods on pairs, and draw what is worth looking at.

    Args:
        methods: by name; ``before`` and ``after`` are compared, ``teacher``, ``vanilla``, ``sift`` stand beside them.
        pairs: of ``stfm_ros.pairs.sample_pairs`` or ``stfm_training.evaluation.rendered_pairs``.
        relation: of this recording to the training.
        solvers: of ``stfm_ros.evaluate``; matches are made once for all of them.
        pictures: whether pairs are drawn; the images are then part of the report.
    """
    found: dict[str, list[Matches]] = {method: [] for method in methods}
    recorded = {method: _recorded(inner, found[method]) for method, inner in methods.items()}
    scores: dict[str, Mapping[str, PoseScore]] = {}
    for solver in solvers:
        scores[solver] = evaluate_pairs(recorded, pairs, solver, progress=progress)
        recorded = {method: _replayed(matches) for method, matches in found.items()}
    shown = tuple(_shown(pairs, next(iter(scores.values())), found)) if pictures else ()
    return Evaluation(name, relation, scores, shown)


def _recorded(method: Method, found: list[Matches]) -> Method:
    def run(a: ByteArray, b: ByteArray, depth0: Float32Array | None, depth1: Float32Array | None) -> Matches:
        matches = method.match(a, b, depth0, depth1) if isinstance(method, WithDepth) else method(a, b)
        found.append(matches)
        return matches

    return WithDepth(run) if isinstance(method, WithDepth) else lambda a, b: run(a, b, None, None)


def _replayed(found: Sequence[Matches]) -> Method:
    rest = iter(found)
    return lambda a, b: next(rest)


def _shown(
    pairs: Sequence[Pair], scores: Mapping[str, PoseScore], found: Mapping[str, Sequence[Matches]]
) -> list[Shown]:
    """The hardest pairs that are solved, the worst failures, and what changed most."""
    main = AFTER if AFTER in scores else next(iter(scores))
    errors = pose_errors(scores[main])
    fitting = [int(agreeing(pair, matches).sum()) for pair, matches in zip(pairs, found[main])]
    overlap = np.nan_to_num([pair.overlap for pair in pairs], nan=0.5)
    solved = [i for i in np.argsort(overlap, kind="stable").tolist() if errors[i] < SOLVED_DEG][:HARDEST]
    failed = [i for i in np.lexsort([np.array(fitting), -errors]).tolist() if errors[i] >= SOLVED_DEG][:WORST]
    shown = [_drawn(f"Solved, though hard: pair {i}", pairs[i], found[main][i], errors[i]) for i in solved]
    shown += [_drawn(f"Failure: pair {i}", pairs[i], found[main][i], errors[i]) for i in failed]
    if BEFORE in scores and AFTER in scores:
        change = np.minimum(errors, FAILED_DEG) - np.minimum(pose_errors(scores[BEFORE]), FAILED_DEG)
        for title, i in (("Won most", int(change.argmin())), ("Lost most", int(change.argmax()))):
            if abs(change[i]) > 1 and (change[i] < 0) == (title == "Won most"):
                for name in (BEFORE, AFTER):
                    drawn = _drawn(f"{title}, {name}: pair {i}", pairs[i], found[name][i], pose_errors(scores[name])[i])
                    shown.append(replace(drawn, leads=name == BEFORE))
    return shown


def _drawn(title: str, pair: Pair, matches: Matches, error_deg: float) -> Shown:
    fits = agreeing(pair, matches)
    words = sentence(PairFacts.of(pair), len(matches), int(fits.sum()), float(error_deg))
    error = f"{error_deg:.1f} deg" if np.isfinite(error_deg) else "no pose"
    pictured = draw_matches(*pair.images, matches, fits, error, width=_WIDTH_PX)
    return Shown(f"{title}, images {pair.index0} and {pair.index1}", words, pictured)
