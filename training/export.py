"""Weights -> two static ONNX graphs, checked against torch: ``python -m stfm_training.export``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from stfm_ros import __version__
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import WeightsError
from stfm_ros.model.fuse import fuse
from stfm_ros.model.network import PairRows, StfmNet
from stfm_ros.model.weights import load_network
from stfm_ros.runtimes.onnx_runtime import OnnxRuntime
from stfm_ros.runtimes.store import FEATURES, PAIR, SAFETENSORS, SPEC, Model, graph_file, sha256, write_spec
from stfm_ros.types import EngineSpec

OPSET = 17  # TensorRT 10 and 11, OpenVINO and ONNX Runtime all take it; LayerNormalization is one operator


class FeatureGraph(nn.Module):
    """image -> coarse, fine."""

    def __init__(self, network: StfmNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.features(image)


class PairGraph(nn.Module):
    """coarse0, fine0, coarse1, fine1 -> K rows without the batch dimension."""

    def __init__(self, network: StfmNet, k: int) -> None:
        super().__init__()
        self.network = network
        self.k = k

    def forward(self, coarse0: Tensor, fine0: Tensor, coarse1: Tensor, fine1: Tensor) -> tuple[Tensor, ...]:
        rows = self.network.pair(coarse0, fine0, coarse1, fine1, self.k)
        return tuple(tensor[0] for tensor in rows)


def export(
    weights: Path, out: Path, name: str, height: int = 480, width: int = 640, k: int = 1024, sigma_scale: float = 1.0
) -> EngineSpec:
    """Write an export folder (``stfm_ros.runtimes.store``); the folder appears whole or not at all.

    Raises:
        WeightsError: ONNX Runtime does not reproduce torch.
    """
    network, digest = load_network(weights)
    fused = fuse(network)
    spec = EngineSpec(
        name, network.config.preset, height, width, k, digest, sigma_scale,
        made_with={"stfm_ros": __version__, "torch": torch.__version__, "opset": str(OPSET)},
        channels=network.config.in_channels,
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        image = torch.rand(1, spec.channels, height, width)
        with torch.inference_mode():
            features = fused.features(image)
        _write(
            FeatureGraph(fused), (image,), folder / graph_file(FEATURES, "fp32"), ["image"], ["coarse", "fine"], spec
        )
        names = ["coarse0", "fine0", "coarse1", "fine1"]
        _write(
            PairGraph(fused, k),
            (*features, *features),
            folder / graph_file(PAIR, "fp32"),
            names,
            list(PairRows._fields),
            spec,
        )
        shutil.copyfile(weights, folder / SAFETENSORS)
        spec = dataclasses.replace(
            spec, files={f: sha256(folder / f) for f in ("features.onnx", "pair.onnx", SAFETENSORS)}
        )
        write_spec(spec, folder / SPEC)
        _check(fused, Model(folder, spec))
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(folder, out)
    return spec


def _write(
    graph: nn.Module, inputs: tuple[Tensor, ...], path: Path, names: list[str], outputs: list[str], spec: EngineSpec
) -> None:
    with torch.inference_mode(), warnings.catch_warnings():
        # shapes are static on purpose
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            graph, inputs, str(path), input_names=names, output_names=outputs, opset_version=OPSET, dynamo=False
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"stfm": json.dumps(dataclasses.asdict(spec))})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _check(network: StfmNet, model: Model) -> None:
    assert model.spec is not None
    rng = np.random.default_rng(0)
    coarse = rng.random((1, model.spec.channels, model.spec.height // 16, model.spec.width // 16), np.float32)
    image = torch.nn.functional.interpolate(torch.from_numpy(coarse), scale_factor=16.0, mode="bicubic").clamp(0, 1)
    runtime = OnnxRuntime(model, MatcherConfig())
    features = runtime.features(image.numpy())
    with torch.inference_mode():
        expected = network.features(image)
    for found, right in zip(features, expected, strict=True):
        gap = float(np.abs(found - right.numpy()).max() / right.abs().max())
        if gap > 1e-4:
            raise WeightsError(f"ONNX Runtime's features differ from torch's by {gap:.1e} (expected under 1e-4)")
    rows = runtime.pair(features, features)
    with torch.inference_mode():
        right_rows = network.pair(*expected, *expected, model.spec.k)
    if np.abs(np.sort(rows.confidence) - np.sort(right_rows.confidence[0].numpy())).max() > 1e-3:
        raise WeightsError("ONNX Runtime's confidences differ from torch's; the export cannot be used")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--sigma-scale", type=float, default=1.0)
    options = parser.parse_args()
    print(
        export(
            options.weights, options.out, options.name, options.height, options.width, sigma_scale=options.sigma_scale
        )
    )


if __name__ == "__main__":
    main()
