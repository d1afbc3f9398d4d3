"""Which of too many matches are kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stfm_ros.spread import SURE, spread
from stfm_ros.types import Matches

CELL = 12.8  #: of the image, where it is 1024 wide and the input 640


def grid(confidence: np.ndarray) -> Matches:
    """A match in each cell of 80x60, surest first."""
    column, row = np.meshgrid(np.arange(80), np.arange(60))
    points = (np.column_stack([column.ravel(), row.ravel()]) * CELL + 0.3).astype(np.float32)
    order = np.argsort(-confidence, kind="stable")
    ones = np.ones(len(order), np.float32)
    return Matches(points[order], points[order], confidence[order].astype(np.float32), ones)


def test_what_is_few_enough_comes_back_as_it_is() -> None:
    matches = grid(np.linspace(0, 1, 4800))
    assert spread(matches, 4800, CELL) is matches
    assert len(spread(Matches.empty(), 8, CELL)) == 0


def test_sure_matches_of_a_quarter_and_a_sixteenth_of_the_cells_are_a_grid() -> None:
    matches = grid(np.random.default_rng(0).uniform(SURE, 1, 4800))
    for most, step in ((1200, 2), (300, 4)):
        cells = np.rint(spread(matches, most, CELL).keypoints0 / CELL)
        assert (cells % step == 0).all() and len(np.unique(cells, axis=0)) == most


@given(st.integers(0, 10_000), st.integers(8, 4800), st.floats(0, 1))
def test_every_part_of_the_image_keeps_its_share_of_the_sure_ones(seed: int, most: int, doubt: float) -> None:
    confidence = np.random.default_rng(seed).uniform(0, 1, 4800)
    confidence[confidence < doubt] *= SURE
    confidence *= np.tile(np.linspace(0.3, 1, 80), 60)  # the surest are at the right
    matches = grid(confidence)
    kept = spread(matches, most, CELL)
    assert len(kept) == most and (np.diff(kept.confidence) <= 0).all()
    sure = matches.confidence >= SURE
    if sure.sum() <= most:  # all of them, and the best of the others
        assert np.array_equal(kept.confidence, matches.confidence[:most])
    else:
        assert (kept.confidence >= SURE).all()
        quarters = [
            np.bincount((points > np.array([40, 30]) * CELL) @ [1, 2], minlength=4)
            for points in (matches.keypoints0[sure], kept.keypoints0)
        ]
        share = quarters[0] * most / sure.sum()
        assert (np.abs(quarters[1] - share) < 12 + 3 * np.sqrt(share)).all()
