"""Coarse matching: similarity, dual softmax, mutual nearest neighbours, the best K.

Static shapes throughout: K rows always come out, padded with confidence 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_ros.model.presets import ModelConfig
from stfm_ros.spread import SURE, dithering

SMALLEST_SUM = 1e-37  #: near float32's smallest normal number

#: of the k rows that come out: this share more is looked at, since some are not mutual
SPARE = 1.0

_TURNS = (3.0 - dithering(1)).tolist()  #: of 2x2 cells, the first the highest

BLOCK = 2**21  #: entries of a block of the matching matrix, near what caches hold; fewer, larger blocks cost 5 %
MOST_BLOCKS = 32  #: a graph of more would be long

#: entries of the matching matrix closer than this are equal: rounding differs from one operator to the next
TIE = 1e-5


class MatchHead(nn.Module):
    """Coarse features -> similarity S, in log units and at most 0.

    The dual softmax only knows differences: what is subtracted changes no match, and exp(S) never overflows.
    """

    #: a lower start (20) keeps the loss high and hardly learns the scale
    START_SCALE = 40.0

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.d = config.d_coarse
        self.normalised = config.d_match > 0
        if self.normalised:
            self.project = nn.Linear(config.d_coarse, config.d_match)
            self.log_scale = nn.Parameter(torch.tensor(math.log(self.START_SCALE)))

    def forward(self, feat_c0: Tensor, feat_c1: Tensor) -> Tensor:
        """(B, n0, d), (B, n1, d) -> S (B, n0, n1)."""
        return similarity(*self.descriptors(feat_c0, feat_c1))

    def descriptors(self, feat_c0: Tensor, feat_c1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What S is made of.

        (B, n0, d), (B, n1, d) -> f0 (B, n0, e), f1 (B, n1, e), and a bound (B, 1, 1) that no product exceeds.
        """
        if self.normalised:
            scale = self.log_scale.exp()
            f0 = F.normalize(self.project(feat_c0), dim=-1) * scale
            return f0, F.normalize(self.project(feat_c1), dim=-1), scale.to(f0).expand(len(f0), 1, 1)
        f0, f1 = feat_c0 / self.d, feat_c1 / 0.1  # <f, g> / (0.1 d), as published
        return f0, f1, (f0 @ f1.transpose(1, 2)).detach().amax((1, 2), keepdim=True)


def similarity(f0: Tensor, f1: Tensor, bound: Tensor) -> Tensor:
    """S = <f0, f1> - bound, (B, n0, n1)."""
    return torch.baddbmm(-bound, f0, f1.transpose(1, 2))


def inner_cells(height: int, width: int, border: int = 0) -> Tensor:
    """(height * width,) bool: cells that may match, ``border`` cells away from every side.

    In any case their fine window lies inside the map, which leaves out the first row and column (for
    windows of up to 7 on the 1/2 map).
    """
    mask = torch.zeros(height, width, dtype=torch.bool)
    first = max(border, 1)
    mask[first : height - border, first : width - border] = True
    return mask.flatten()


def turns(height: int, width: int) -> Tensor:
    """(height * width,) float: 3 for every other cell of every other row, 2 for the cells diagonal to them, then 1, 0.

    In this order a part of the cells is spread over the image as evenly as it can be, as in ordered dithering.
    """
    return torch.tensor(_TURNS).repeat(-(-height // 2), -(-width // 2))[:height, :width].flatten()


def select_matches(
    f0: Tensor, f1: Tensor, bound: Tensor, inner0: Tensor, inner1: Tensor, turns0: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual nearest neighbours of the dual-softmax matrix of one pair, best first.

    Where there are more than k, of the sure ones those come out whose turn it is (``stfm_ros.spread`` says why).

    P_ij = softmax_row(S)_ij softmax_col(S)_ij = E_ij^2 / (row_i col_j) with S = <f0, f1> - bound, E = exp(S) and sums
    of its rows and columns. E comes in blocks of rows that fit a cache, each reduced at once to all that needs no other
    block. The column of a row's best entry is looked for last, and only in rows that may come out.

    Args:
        f0: (n0, e), f1: (n1, e), bound: () or (1, 1), of :meth:`MatchHead.descriptors`.
        inner0: (n0,) bool and inner1: (n1,) bool, cells that may match.
        turns0: (n0,), of :func:`turns`.
        k: rows that come out, at most n0.

    Returns:
        conf (k,), i_ids (k,), j_ids (k,); rows without a match have conf 0.
    """
    n0, n1 = f0.shape[0], f1.shape[0]
    height = -(-n0 // min(max(n0 * n1 // BLOCK, 1), MOST_BLOCKS))
    blocks = [torch.exp(part @ f1.T - bound) for part in torch.split(f0, height)]
    rows = [block.sum(1).clamp(min=SMALLEST_SUM).rsqrt() for block in blocks]
    best_of_col = largest([(block * row[:, None]).amax(0) for block, row in zip(blocks, rows)])
    col = torch.stack([block.sum(0) for block in blocks]).sum(0).clamp(min=SMALLEST_SUM).rsqrt()
    best_of_row = torch.cat([(block * col).amax(1) * row for block, row in zip(blocks, rows)])
    i_ids = (_in_turn(best_of_row.square(), turns0) * inner0).topk(min(n0, round(k * (1 + SPARE)))).indices
    best = best_of_row[i_ids] * inner0[i_ids]
    j_ids = last_largest(torch.exp(f0[i_ids] @ f1.T - bound) * col)
    mutual = best >= (best_of_col * col)[j_ids] * (1 - TIE)  # the same entry is the best of its column
    conf = best.square() * (mutual & inner1[j_ids])
    chosen = _in_turn(conf, turns0[i_ids]).topk(k).indices
    conf, order = conf[chosen].topk(k)
    return conf, i_ids[chosen][order], j_ids[chosen][order]


def _in_turn(conf: Tensor, turns: Tensor) -> Tensor:
    """What to choose first: of the sure ones those whose turn it is, then the others, by confidence."""
    return torch.where(conf >= SURE, conf + turns, conf)


def largest(tensors: Sequence[Tensor]) -> Tensor:
    """The largest of each entry."""
    return functools.reduce(torch.maximum, tensors)


def last_largest(x: Tensor) -> Tensor:
    """(m, n) -> (m,) index of the largest entry of each row, the last of equals.

    By comparison with the maximum: inference runtimes have argmax as a sort, several times slower.
    """
    index = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
    return torch.where(x >= x.amax(1, keepdim=True), index, torch.zeros_like(index)).amax(1).long()
