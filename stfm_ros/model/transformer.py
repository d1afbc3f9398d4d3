"""Attention between and within the two images, at the coarse level and inside fine windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_ros.model.position import rotary_tables, rotate
from stfm_ros.model.presets import ModelConfig


class AggregatedAttention(nn.Module):
    """Softmax attention on tokens pooled by 4, its message brought back to the full grid.

    After EfficientLoFTR (Wang et al., CVPR 2024), section 3.2: at 640x480, 300 tokens instead of
    4800. The last projection starts at zero, so that an untrained layer is the identity.
    """

    POOL = 4

    #: set by ``fuse``: runtimes have the pooling as one operator; torch trains it several times faster as a sum
    pool_by_convolution = False

    def __init__(self, d: int, heads: int, rotary: bool) -> None:
        super().__init__()
        self.heads = heads
        self.rotary = rotary
        self.pool_weight = nn.Parameter(torch.full((d, self.POOL, self.POOL), 1.0 / self.POOL**2))
        self.norm_q = nn.LayerNorm(d)
        self.norm_kv = nn.LayerNorm(d)
        self.q = nn.Linear(d, d, bias=False)
        self.kv = nn.Linear(d, 2 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.norm_message = nn.LayerNorm(d)
        last = nn.Conv2d(2 * d, d, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.mlp = nn.Sequential(nn.Conv2d(2 * d, 2 * d, 1, bias=False), nn.ReLU(), last)

    def _heads(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        return x.view(b, n, self.heads, d // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x, source: (B, d, h, w), h and w multiples of 4 -> x updated from source."""
        b, d, h, w = x.shape
        p = self.POOL
        if self.pool_by_convolution:
            query = F.conv2d(x, self.pool_weight[:, None], stride=p, groups=d)
        else:
            query = (x.view(b, d, h // p, p, w // p, p) * self.pool_weight.view(d, 1, p, 1, p)).sum((3, 5))
        keys = F.max_pool2d(source, p)
        query = self.norm_q(query.flatten(2).transpose(1, 2))
        keys = self.norm_kv(keys.flatten(2).transpose(1, 2))
        q = self._heads(self.q(query))
        k, v = (self._heads(part) for part in self.kv(keys).chunk(2, dim=-1))
        if self.rotary:
            cos, sin = (table.to(q) for table in rotary_tables(d // self.heads, h // p, w // p))
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        message = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, d)
        message = self.norm_message(self.out(message))
        grid = message.transpose(1, 2).reshape(b, d, h // p, w // p)
        # mlp([x, message brought to the full grid]): a 1x1 convolution may as well come before the interpolation
        first, relu, last = self.mlp
        assert isinstance(first, nn.Conv2d)
        of_x, of_message = first.weight.chunk(2, dim=1)
        hidden = F.interpolate(F.conv2d(grid, of_message), scale_factor=float(p), mode="bilinear", align_corners=False)
        update: Tensor = last(relu(F.conv2d(x, of_x) + hidden))
        return x + update


class TokenAttention(nn.Module):
    """The published encoder layer on (B, n, d) tokens: linear attention, post-LayerNorm."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.merge = nn.Linear(d, d, bias=False)
        self.mlp = nn.Sequential(nn.Linear(2 * d, 2 * d, bias=False), nn.ReLU(), nn.Linear(2 * d, d, bias=False))
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x (B, n, d), source (B, m, d) -> x updated from source."""
        q, k, v = self.q_proj(x), self.k_proj(source), self.v_proj(source)
        message = self.norm1(self.merge(linear_attention(q, k, v, self.heads)))
        update: Tensor = self.norm2(self.mlp(torch.cat([x, message], dim=2)))
        return x + update


def linear_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Linear attention with the feature map elu + 1 (Katharopoulos et al., ICML 2020).

    q (B, n, d), k and v (B, m, d) -> (B, n, d). Heads are blocks of channels: instead of moving them to a dimension of
    their own and back, all products are taken and those across heads are masked out.
    """
    q, k = F.elu(q) + 1, F.elu(k) + 1
    m, d = v.shape[1:]
    head = torch.arange(d, device=q.device) // (d // heads)
    same = (head[:, None] == head).to(q)
    summary = k.transpose(1, 2) @ (v / m) * same
    norm = (q * k.sum(1, keepdim=True)) @ same
    return (q @ summary) * (m / (norm + 1e-6))


class CoarseTransformer(nn.Module):
    """Interleaved self- and cross-attention; both images share the weights of a layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.aggregated = config.attention == "aggregated"
        layers: list[nn.Module] = []
        for _ in range(config.coarse_layers):
            for is_self in (True, False):
                if self.aggregated:
                    layers.append(AggregatedAttention(config.d_coarse, config.heads, rotary=is_self))
                else:
                    layers.append(TokenAttention(config.d_coarse, config.heads))
        self.layers = nn.ModuleList(layers)

    def forward(self, map0: Tensor, map1: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, d, h, w) of both images -> tokens (B, h*w, d) of both."""
        if not self.aggregated:
            map0, map1 = (x.flatten(2).transpose(1, 2) for x in (map0, map1))
        map0, map1 = alternate(self.layers, map0, map1, symmetric=self.aggregated)
        if self.aggregated:
            map0, map1 = (x.flatten(2).transpose(1, 2) for x in (map0, map1))
        return map0, map1


def alternate(layers: nn.ModuleList, x0: Tensor, x1: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Even layers look within an image, odd ones across.

    Where ``symmetric``, both images look at each other's state before the layer, so that swapping
    the images swaps the outputs; the published model lets image 1 look at the updated image 0.
    """
    one_call = x0.shape == x1.shape
    for index, layer in enumerate(layers):
        across = index % 2 == 1
        if one_call and (symmetric or not across):
            both = torch.cat([x0, x1])
            x0, x1 = layer(both, torch.cat([x1, x0]) if across else both).chunk(2)
        else:
            before0 = x0
            x0 = layer(x0, x1 if across else x0)
            x1 = layer(x1, (before0 if symmetric else x0) if across else x1)
    return x0, x1
