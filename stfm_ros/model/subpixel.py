"""Where exactly a match lies, read off how two small patches of the fine map resemble each other.

The mean of a heatmap is drawn towards the centre of its window, the more the further its peak is away, and all matches
that move alike are drawn alike: an error that no robust solver sees. So the heatmap only says where to look, and this
regresses what is left, within a step or two, from the products of a patch of image 0 with a window of image 1 round
the place found. What is near zero has no room for such a bias, and a network that says how far off it may be can tell
an edge from a corner.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH, WINDOW = 3, 7  #: steps of the fine map: of image 0 and of image 1, round their centres
REACH = 2.5  #: an offset beyond so many steps is no longer looked for
SHARPEST, BROADEST = -4.0, 2.0  #: of log_b


class SubpixelHead(nn.Module):
    """Patches of the fine map of both images -> offset and the scale of its error."""

    def __init__(self, d_fine: int, hidden: tuple[int, int] = (128, 64)) -> None:
        super().__init__()
        products = PATCH**2 * (WINDOW**2 + PATCH**2)
        last = nn.Linear(hidden[1], 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(
            nn.Linear(products, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], hidden[1]), nn.ReLU(), last
        )

    def forward(self, patch0: Tensor, window1: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the fine map, patch0 (m, 9, d_fine) and window1 (m, 49, d_fine).

        Returns:
            offset (m, 2): where the centre of ``patch0`` lies, from the centre of ``window1``, in steps.
            log_b (m,): logarithm of the scale of the offset's error, Laplacian on each axis, in steps.
        """
        patch0, window1 = F.normalize(patch0, dim=2), F.normalize(window1, dim=2)
        products = patch0 @ torch.cat([window1, patch0], 1).transpose(1, 2)
        out = self.mlp(products.flatten(1))
        return out[:, :2], out[:, 2].clamp(SHARPEST, BROADEST)
