"""torch, on a GPU where there is one: any weights of any preset, without an export."""

from __future__ import annotations

import torch
from torch import Tensor

from stfm_ros import __version__
from stfm_ros.model.fuse import fuse
from stfm_ros.model.weights import load_network
from stfm_ros.runtimes import Rows
from stfm_ros.runtimes.store import Model
from stfm_ros.types import EngineSpec, Float32Array

Features = tuple[Tensor, Tensor]


class TorchRuntime:
    """The network itself, fused for deployment."""

    def __init__(self, model: Model, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        network, digest = load_network(model.weights, model.spec.preset if model.spec else None)
        self.spec = model.spec or EngineSpec(
            model.path.stem, network.config.preset, 480, 640, 1024, "fp32", digest, made_with={"stfm_ros": __version__}
        )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = fuse(network).to(self._device)

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
