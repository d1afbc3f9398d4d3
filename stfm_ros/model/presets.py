"""Sizes of the network by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from stfm_ros.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of one network.

    Attributes:
        preset: the name it came from.
        in_channels: 3 for the RGB student, 4 for the RGB-D teacher.
        normalisation: of the RGB channels: ``instance`` (each image and channel to mean 0, variance 1), ``imagenet``
            (by that data set's means and deviations) or ``none`` (left in [0, 1]).
        depth_encoding: of a teacher's depth: ``log`` (spread like normalised colours) or ``linear`` (as published).
        backbone: ``repvgg`` (one fused 3x3 convolution a block) or ``resnet`` (as published, down to how the pyramid
            is upsampled).
        channels: of the maps at 1/2, 1/4 and 1/8.
        blocks: convolution blocks at 1/2, 1/4 and 1/8.
        attention: ``aggregated`` (softmax on tokens pooled by 4, rotary) or ``linear`` (as published).
        sine_slip: the additive encoding of ``linear`` with the slip of LoFTR's first release, see
            :func:`stfm_ros.model.position.sine_encoding`; for weights that were trained with it.
        d_coarse, heads, coarse_layers: coarse transformer; a layer is (self, cross).
        d_match: width of the L2-normalised match head; 0 matches the coarse features themselves,
            divided by sqrt(d) each and by a temperature of 0.1 (as published).
        border: coarse cells along each side that never match; 0 leaves out the first row and column alone, whose
            windows the image cuts.
        d_fine, window, fine_layers, fine_heads: the fine stage on windows of the 1/2 map.
        window_padding: what a window finds outside the map: its ``edge``, or ``zeros`` (as published).
        closer_looks: how often a match is looked at once more where it was found last
            (:mod:`stfm_ros.model.subpixel`); 0 takes the mean of the heatmap for the match, as published.
    """

    preset: str
    in_channels: int = 3
    normalisation: str = "instance"
    depth_encoding: str = "log"
    backbone: str = "repvgg"
    channels: tuple[int, int, int] = (32, 64, 128)
    blocks: tuple[int, int, int] = (1, 2, 4)
    attention: str = "aggregated"
    sine_slip: bool = False
    d_coarse: int = 128
    heads: int = 4
    coarse_layers: int = 3
    d_match: int = 64
    border: int = 0
    d_fine: int = 32
    window: int = 7
    fine_layers: int = 1
    fine_heads: int = 2
    window_padding: str = "edge"
    closer_looks: int = 2

    @property
    def stride(self) -> int:
        """Height and width of the image must be multiples of this many pixels."""
        return 32 if self.attention == "aggregated" else 8


#: the published network, but for the slip in its encoding
PAPER = ModelConfig(
    "paper",
    normalisation="imagenet",
    depth_encoding="linear",
    backbone="resnet",
    channels=(128, 196, 256),
    blocks=(2, 2, 2),
    attention="linear",
    d_coarse=256,
    heads=8,
    coarse_layers=4,
    d_match=0,
    border=2,
    d_fine=128,
    window=5,
    fine_heads=8,
    window_padding="zeros",
    closer_looks=0,
)

PRESETS: dict[str, ModelConfig] = {
    config.preset: config
    for config in (
        ModelConfig("tiny", channels=(16, 32, 64), blocks=(1, 1, 2), d_coarse=64, heads=4, coarse_layers=2),
        ModelConfig("small", channels=(32, 48, 96), blocks=(1, 1, 3), d_coarse=96, heads=4, coarse_layers=2),
        ModelConfig("medium"),
        PAPER,
        # what the public weights were trained with, for stfm_ros.model.published
        dataclasses.replace(PAPER, preset="3dg-stfm", sine_slip=True),
        dataclasses.replace(PAPER, preset="loftr", normalisation="none", sine_slip=True),
        dataclasses.replace(PAPER, preset="loftr-new", normalisation="none"),
    )
}


def preset(name: str, in_channels: int = 3) -> ModelConfig:
    """The architecture called ``name``.

    Raises:
        ConfigError: there is no such preset; lists those that exist.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], in_channels=in_channels)
