"""Training batches as a pure function of (seed, step), so that a resumed run sees the same data.

Each pair is a function of (seed, step, its place in the global batch): however many processes train,
together they see the same pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stfm_ros.errors import DatasetError
from stfm_training.photometric import augment_pair
from stfm_training.sources.pair import Pair, Source
from stfm_training.supervision import UNMATCHED, mutual_cells

EASIEST = 0.3  #: difficulty of the first step
FEWEST_CELLS = 16  #: a pair with less in common teaches nothing
TRIES = 1000


class Batch(NamedTuple):
    """B pairs, and what is known of each cell.

    image0, image1: (B, 3, H, W) uint8. depth0, depth1: (B, H, W) float32 metres, 0 where there is none.
    cells: (B, n) int64, true cell in image 1 or -1. points1: (B, n, 2) float32, where each grid point of
    image 0 lies in image 1. unmatched0, unmatched1: (B, n) bool. precise: (B,) bool, whether points1 is good
    to a pixel. chance: (B, n, 4) float32 in [0, 1), all the randomness that the step itself needs.
    step: () int64.
    """

    image0: Tensor
    image1: Tensor
    depth0: Tensor
    depth1: Tensor
    cells: Tensor
    points1: Tensor
    unmatched0: Tensor
    unmatched1: Tensor
    precise: Tensor
    chance: Tensor
    step: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Batches(Dataset[Batch]):
    """Item ``step`` is this process's part of the batch of that step.

    Args:
        mix: what pairs are drawn from, with weights.
        height, width: of the images.
        pairs: of a step, over all processes.
        seed: of everything.
        ramp_steps: steps over which the difficulty rises from 0.3 to 1.
        rank, world: this process, and how many there are; process r makes the pairs r, r + world, ...
        blank: share of the pairs with depth that lose their colours, for a teacher to learn what depth tells.
        mixed: share of the pairs whose difficulty lies anywhere between 0.3 and that of the step.
    """

    def __init__(
        self,
        mix: Sequence[tuple[Source, float]],
        height: int,
        width: int,
        pairs: int,
        seed: int,
        ramp_steps: int,
        rank: int = 0,
        world: int = 1,
        blank: float = 0.0,
        mixed: float = 0.0,
    ) -> None:
        self.sources = [source for source, _ in mix]
        weights = np.array([weight for _, weight in mix], float)
        self.weights = weights / weights.sum()
        self.height = height
        self.width = width
        self.places = range(rank, pairs, world)
        self.seed = seed
        self.ramp_steps = ramp_steps
        self.blank = blank
        self.mixed = mixed

    def __getitem__(self, step: int) -> Batch:
        difficulty = EASIEST + (1 - EASIEST) * min(step / max(self.ramp_steps, 1), 1.0)
        rows = [self._row(np.random.default_rng([self.seed, step, place]), difficulty) for place in self.places]
        columns = [torch.stack(column) for column in zip(*rows, strict=True)]
        return Batch(*[*columns, torch.tensor(step)])

    def _row(self, rng: np.random.Generator, difficulty: float) -> tuple[Tensor, ...]:
        if self.mixed and rng.random() < self.mixed:
            difficulty = rng.uniform(EASIEST, difficulty)
        for _ in range(TRIES):
            source = self.sources[rng.choice(len(self.sources), p=self.weights)]
            pair = source.pair(rng, difficulty, self.height, self.width)
            cells = mutual_cells(pair.warp01, pair.warp10, self.width, self.width)
            if (cells >= 0).sum() >= FEWEST_CELLS:
                row = tensors(pair, cells, rng, difficulty)
                if self.blank and rng.random() < self.blank and pair.depth0.any() and pair.depth1.any():
                    row = (torch.zeros_like(row[0]), torch.zeros_like(row[1]), *row[2:])
                return row
        raise DatasetError(
            f"{TRIES} pairs in a row had fewer than {FEWEST_CELLS} cells of 8 px in common: expected pairs that "
            f"overlap at {self.width}x{self.height}; take larger images, or another mix"
        )


class Steps(Sampler[int]):
    """Steps from a given one on, without an end: the trainer counts."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def tensors(pair: Pair, cells: NDArray[np.int64], rng: np.random.Generator, difficulty: float) -> tuple[Tensor, ...]:
    """One pair's part of each field of :class:`Batch` but the last; its images change photometrically."""
    images = [
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        for image in augment_pair(pair.image0, pair.image1, rng, difficulty)
    ]
    return (
        *images,
        torch.from_numpy(pair.depth0),
        torch.from_numpy(pair.depth1),
        torch.from_numpy(cells),
        torch.from_numpy(pair.warp01.points),
        torch.from_numpy(pair.warp01.state == UNMATCHED),
        torch.from_numpy(pair.warp10.state == UNMATCHED),
        torch.tensor(pair.precise),
        torch.from_numpy(rng.random((len(cells), 4), np.float32)),
    )
