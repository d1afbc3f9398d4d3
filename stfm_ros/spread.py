"""Which of too many matches come out, of a graph and of ``matcher.max_matches``.

The surest would be a poor choice: a cell is sure of itself where its match lies on a cell of the other image, so that
they would be those of a few displacements, and so of a few depths. Of the sure ones those come out whose turn it is.
"""

from __future__ import annotations

import numpy as np

from stfm_ros.config import MatcherConfig
from stfm_ros.types import Matches

#: matches at least as sure take turns; the usual threshold, so that none that is left out later takes another's place
SURE = MatcherConfig().threshold


def dithering(levels: int) -> np.ndarray:
    """(2^levels, 2^levels) ranks of ordered dithering (Bayer, 1973): those below any limit lie as evenly as can be."""
    ranks = np.zeros((1, 1), np.int64)
    for _ in range(levels):
        ranks = 4 * np.tile(ranks, (2, 2)) + np.kron([[0, 3], [2, 1]], np.ones_like(ranks))
    return ranks


_RANKS = dithering(3)


def spread(matches: Matches, most: int, cell: float) -> Matches:
    """At most so many of matches that come best first: of the sure ones those whose turn it is, then the others.

    Args:
        cell: of the first image, pixels: how far apart matches are.
    """
    if len(matches) <= most:
        return matches
    column, row = np.rint(matches.keypoints0 / cell).astype(np.int64).T % len(_RANKS)
    turn = np.where(matches.confidence >= SURE, _RANKS[row, column], _RANKS.size)
    return matches.take(np.sort(np.argsort(turn, kind="stable")[:most]))
