"""Training batches as a pure function of (seed, step), so that a resumed run sees the same data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stfm_training.photometric import augment
from stfm_training.sources.pair import Pair, Source
from stfm_training.supervision import UNMATCHED, mutual_cells


class Batch(NamedTuple):
    """B pairs, and what is known of each cell.

    image0, image1: (B, 3, H, W) uint8. cells: (B, n) int64, true cell in image 1 or -1.
    points1: (B, n, 2) float32, where each grid point of image 0 lies in image 1.
    unmatched0, unmatched1: (B, n) bool. precise: (B,) bool, whether points1 is good to a pixel.
    """

    image0: Tensor
    image1: Tensor
    cells: Tensor
    points1: Tensor
    unmatched0: Tensor
    unmatched1: Tensor
    precise: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True)
class Size:
    """Image size and pairs of a step, and how often it is drawn."""

    height: int
    width: int
    pairs: int
    weight: float = 1.0


class Batches(Dataset[Batch]):
    """Item ``step`` is the batch of that step.

    Args:
        sources: what pairs are drawn from, with weights.
        sizes: of the images, drawn per step.
        seed: of everything.
        ramp_steps: steps over which the difficulty rises from 0.3 to 1.
        steps: length.
        rank: of this process; each of several draws pairs of its own, of the same size in a step.
    """

    def __init__(
        self,
        sources: list[tuple[Source, float]],
        sizes: list[Size],
        seed: int,
        ramp_steps: int,
        steps: int,
        rank: int = 0,
    ) -> None:
        self.sources = [source for source, _ in sources]
        weights = np.array([weight for _, weight in sources], float)
        self.weights = weights / weights.sum()
        self.sizes = sizes
        size_weights = np.array([size.weight for size in sizes], float)
        self.size_weights = size_weights / size_weights.sum()
        self.seed = seed
        self.ramp_steps = ramp_steps
        self.steps = steps
        self.rank = rank

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        size = self.sizes[np.random.default_rng([self.seed, step]).choice(len(self.sizes), p=self.size_weights)]
        rng = np.random.default_rng([self.seed, step, self.rank])
        difficulty = 0.3 + 0.7 * min(step / max(self.ramp_steps, 1), 1.0)
        rows: list[tuple[Tensor, ...]] = []
        while len(rows) < size.pairs:
            source = self.sources[rng.choice(len(self.sources), p=self.weights)]
            pair = source.pair(rng, difficulty, size.height, size.width)
            cells = mutual_cells(pair.warp01, pair.warp10, size.width, size.width)
            if (cells >= 0).sum() >= 16:  # a pair without anything in common teaches nothing
                rows.append(self._row(pair, cells, rng, difficulty))
        return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    @staticmethod
    def _row(pair: Pair, cells: NDArray[np.int64], rng: np.random.Generator, difficulty: float) -> tuple[Tensor, ...]:
        images = [
            torch.from_numpy(np.ascontiguousarray(augment(image, rng, difficulty * rng.random()).transpose(2, 0, 1)))
            for image in (pair.image0, pair.image1)
        ]
        return (
            *images,
            torch.from_numpy(cells),
            torch.from_numpy(pair.warp01.points),
            torch.from_numpy(pair.warp01.state == UNMATCHED),
            torch.from_numpy(pair.warp10.state == UNMATCHED),
            torch.tensor(pair.precise),
        )
