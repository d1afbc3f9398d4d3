"""torch, on a GPU where there is one: any weights of any preset, without an export."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from stfm_ros import __version__
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import WeightsError
from stfm_ros.model.fuse import fuse
from stfm_ros.model.network import StfmNet
from stfm_ros.model.weights import load_network
from stfm_ros.runtimes import Rows, pick_precision
from stfm_ros.runtimes.store import Model
from stfm_ros.types import EngineSpec, Float32Array

Features = tuple[Tensor, Tensor]


class TorchRuntime:
    """The network itself, fused for deployment.

    Args:
        network: of 3 or 4 channels; a copy is kept.
        spec: its name, size and K; the channels are the network's.
    """

    precision = "fp32"

    def __init__(self, network: StfmNet, spec: EngineSpec) -> None:
        self.spec = dataclasses.replace(spec, channels=network.config.in_channels)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = fuse(network).to(self._device)

    @classmethod
    def load(cls, model: Model, config: MatcherConfig) -> TorchRuntime:
        """An exported folder's weights, or bare ones at 640x480.

        Raises:
            WeightsError: they are missing, damaged, or not what the folder's spec says.
        """
        pick_precision("torch", config, (cls.precision,))
        if config.threads:
            torch.set_num_threads(config.threads)
        network, digest = load_network(model.weights, model.spec.preset if model.spec else None)
        spec = model.spec or EngineSpec(
            model.path.stem, network.config.preset, 480, 640, 1024, digest, made_with={"stfm_ros": __version__},
            channels=network.config.in_channels,
        )  # fmt: skip
        if spec.channels != network.config.in_channels:
            raise WeightsError(
                f"{model.path} says {spec.channels} channels, its weights have {network.config.in_channels}: export "
                "them again"
            )
        return cls(network, spec)

    @torch.inference_mode()
    def features(self, image: Float32Array) -> Features:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        features: Features = self._network.features(torch.from_numpy(image).to(self._device))
        return features

    @torch.inference_mode()
    def pair(self, features0: Features, features1: Features) -> Rows:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        rows = self._network.pair(*features0, *features1, self.spec.k)
        return Rows(*(tensor[0].cpu().numpy() for tensor in rows))
