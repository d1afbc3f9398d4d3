"""Weights -> static ONNX graphs in several precisions, checked on a reference pair: ``stfm export``.

The float32 graphs are traced from the fused network, simplified, and have to do in ONNX Runtime what torch does. The
half ones are made from them (``stfm_training.half``). What each precision deviates on the reference pair is told, not
judged: for recorded pairs there is ``stfm parity``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnxslim
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stfm_ros import __version__
from stfm_ros.demo import DEMO_BAG
from stfm_ros.errors import ConfigError, WeightsError
from stfm_ros.images import fit
from stfm_ros.model.fuse import fuse
from stfm_ros.model.network import PairRows, StfmNet
from stfm_ros.model.weights import load_network
from stfm_ros.parity import Reference, as_inputs
from stfm_ros.posed_bag import PosedBag
from stfm_ros.runtimes import Rows
from stfm_ros.runtimes.store import FEATURES, PAIR, REFERENCE, SAFETENSORS, SPEC, graph_file, seal
from stfm_ros.types import ByteArray, EngineSpec, Float32Array
from stfm_training.half import Feed, halve, magnitudes

OPSET = 17  # TensorRT 10 and 11, OpenVINO and ONNX Runtime all take it; LayerNormalization is one operator
MADE = ("fp32", "fp16")  #: precisions that are made from weights alone; int8 needs pictures (stfm_training.quantise)
PAIR_INPUTS = ("coarse0", "fine0", "coarse1", "fine1")
FEATURE_OUTPUTS = ("coarse", "fine")
#: frames of the demo's recording that are the reference pair: half a second apart, well overlapping
REFERENCE_FRAMES = (20, 25)

Progress = Callable[[str, int, int], None]
Graphs = dict[str, onnx.ModelProto]  # by FEATURES and PAIR


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
    weights: Path,
    out: Path,
    name: str,
    height: int = 480,
    width: int = 640,
    k: int = 1024,
    sigma_scale: float = 1.0,
    precisions: Sequence[str] = MADE,
    progress: Progress = lambda stage, done, total: None,
) -> EngineSpec:
    """Write an export folder (``stfm_ros.runtimes.store``); the folder appears whole or not at all.

    Args:
        weights: .safetensors of any preset.
        out: an export that is there already is replaced.
        height, width: of the fitted image in pixels.
        k: rows of the pair graph.
        sigma_scale: what the network's sigma is multiplied with (``stfm_training.validate``).
        precisions: some of :data:`MADE`, fp32 among them.
        progress: called with the name of a step, steps done, and steps in all.

    Raises:
        ConfigError: size, k, a precision, or the folder cannot be.
        WeightsError: the weights cannot be read, or ONNX Runtime does not reproduce torch.
    """
    network, digest = load_network(weights)
    versions = {"stfm_ros": __version__, "torch": torch.__version__, "onnxslim": onnxslim.__version__}
    spec = EngineSpec(
        name, network.config.preset, height, width, k, digest, sigma_scale,
        made_with={**versions, "opset": str(OPSET)}, channels=network.config.in_channels,
    )  # fmt: skip
    check_request(spec, network.config.stride, precisions)
    with _new_folder(out) as folder:
        progress("tracing", 0, 3)
        images, depths = reference_images(height, width), reference_depths(spec)
        inputs = as_inputs(images, depths)
        graphs, expected, gflops = _trace(fuse(network), k, inputs, folder)
        spec = dataclasses.replace(spec, gflops=gflops)
        _write(graphs, folder, spec, "fp32")
        shutil.copyfile(weights, folder / SAFETENSORS)
        progress("checking", 1, 3)
        features, rows = _run(folder, inputs)
        _check((*features[0], *features[1], *rows), expected)
        Reference(images, depths, rows).write(folder / REFERENCE)
        if "fp16" in precisions:
            progress("fp16", 2, 3)
            feeds: dict[str, list[Feed]] = {
                FEATURES: [{"image": image} for image in inputs],
                PAIR: [dict(zip(PAIR_INPUTS, (*features[0], *features[1]), strict=True))],
            }
            _write(_halved(graphs, feeds), folder, spec, "fp16")
        model = seal(folder, spec)
        progress("done", 3, 3)
    assert model.spec is not None
    return model.spec


def check_request(spec: EngineSpec, stride: int, precisions: Sequence[str]) -> None:
    """Refuse what cannot be exported, before any work.

    Raises:
        ConfigError: size, k or a precision cannot be.
    """
    if spec.height % stride or spec.width % stride or min(spec.height, spec.width) < stride:
        raise ConfigError(
            f"size {spec.width}x{spec.height}: preset {spec.preset} takes multiples of {stride}, e.g. "
            f"{max(stride, spec.width // stride * stride)}x{max(stride, spec.height // stride * stride)}"
        )
    cells = spec.height * spec.width // 64
    if not 1 <= spec.k <= cells:
        raise ConfigError(
            f"k {spec.k}: expected 1 to {cells}, the coarse cells of 8x8 px of {spec.width}x{spec.height}"
        )
    unknown = [precision for precision in precisions if precision not in MADE]
    if unknown or "fp32" not in precisions:
        raise ConfigError(
            f"precisions {','.join(precisions)}: expected fp32 and perhaps fp16; int8 needs pictures: stfm quantize"
        )


def reference_images(height: int, width: int) -> tuple[ByteArray, ByteArray]:
    """Two frames of the recording in the package, fitted: (height, width, 3) uint8 RGB."""
    with PosedBag(DEMO_BAG) as bag:
        first, second = (fit(bag.image(frame), height, width)[0] for frame in REFERENCE_FRAMES)
    return _bytes(first), _bytes(second)


def reference_depths(spec: EngineSpec) -> tuple[NDArray[np.uint16], ...]:
    """For an RGB-D model a floor that rises from 4 m to 2 m (the recording has no depth), (height, width) uint16 mm."""
    if spec.channels == 3:
        return ()
    ramp = np.linspace(4000, 2000, spec.height).astype(np.uint16)
    depth = np.ascontiguousarray(np.broadcast_to(ramp[:, None], (spec.height, spec.width)))
    return depth, depth


def _bytes(image: Float32Array) -> ByteArray:
    return np.ascontiguousarray(np.rint(image[0].transpose(1, 2, 0) * 255).astype(np.uint8))


def _trace(
    network: StfmNet, k: int, inputs: Sequence[Float32Array], folder: Path
) -> tuple[Graphs, tuple[NDArray[Any], ...], dict[str, float]]:
    """The float32 graphs; torch's features of both images and rows, in the order of the graphs' ends; GFLOPs."""
    with torch.inference_mode():
        images = [torch.from_numpy(image) for image in inputs]
        features = (*network.features(images[0]), *network.features(images[1]))
        with FlopCounterMode(display=False) as of_features:
            network.features(images[0])
        with FlopCounterMode(display=False) as of_pair:
            rows = network.pair(*features, k)
    graphs = {
        FEATURES: _simplified(FeatureGraph(network), (images[0],), ("image",), FEATURE_OUTPUTS, folder),
        PAIR: _simplified(PairGraph(network, k), features, PAIR_INPUTS, PairRows._fields, folder),
    }
    gflops = {FEATURES: of_features.get_total_flops() / 1e9, PAIR: of_pair.get_total_flops() / 1e9}
    return graphs, (*(tensor.numpy() for tensor in features), *(tensor[0].numpy() for tensor in rows)), gflops


def _run(folder: Path, inputs: Sequence[Float32Array]) -> tuple[list[list[NDArray[Any]]], Rows]:
    """What the float32 graphs make of two images: features of each, and rows; on the CPU, whatever else there is."""
    first, second = (
        ort.InferenceSession(folder / graph_file(name, "fp32"), providers=["CPUExecutionProvider"])
        for name in (FEATURES, PAIR)
    )
    features = [first.run(None, {"image": image}) for image in inputs]
    return features, Rows(*second.run(None, dict(zip(PAIR_INPUTS, (*features[0], *features[1]), strict=True))))


def _simplified(
    graph: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], outputs: Sequence[str], folder: Path
) -> onnx.ModelProto:
    """Traced, its constants folded.

    By onnxslim, which is plain Python and so installs wherever torch does; onnxsim is compiled for each version, and
    ONNX Runtime's own offline simplification leaves its private operator sets behind.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary, torch.inference_mode(), warnings.catch_warnings():
        # shapes are static on purpose
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        path = Path(temporary) / "traced.onnx"
        torch.onnx.export(
            graph, inputs, str(path), input_names=names, output_names=outputs, opset_version=OPSET, dynamo=False
        )
        slim: onnx.ModelProto = onnxslim.slim(onnx.load(path))
    return slim


def _halved(graphs: Graphs, feeds: dict[str, list[Feed]]) -> Graphs:
    ends = {*FEATURE_OUTPUTS, *PAIR_INPUTS}  # the rows stay float32: half has no pixel coordinates beyond 1024
    return {name: halve(graph, magnitudes(graph, feeds[name]), ends) for name, graph in graphs.items()}


def _write(graphs: Graphs, folder: Path, spec: EngineSpec, precision: str) -> None:
    for name, graph in graphs.items():
        about = {"stfm": json.dumps(dataclasses.asdict(spec)), "precision": precision}
        onnx.helper.set_model_props(graph, about)
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, folder / graph_file(name, precision))


def _check(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> None:
    """Refuse graphs that do not do what torch does, by features and confidences (rows of equal ones may swap)."""
    for one, right in zip(found[:4], expected[:4], strict=True):
        gap = float(np.abs(one - right).max() / np.abs(right).max())
        if not gap < 1e-4:
            raise WeightsError(f"ONNX Runtime's features differ from torch's by {gap:.1e} (expected under 1e-4)")
    confidence = Rows._fields.index("confidence") + 4
    if not np.abs(np.sort(found[confidence]) - np.sort(expected[confidence])).max() < 1e-3:
        raise WeightsError("ONNX Runtime's confidences differ from torch's; the export cannot be used")


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the name ``out`` if all goes well, instead of an export of that name."""
    if out.exists() and not (out / SPEC).is_file():
        raise ConfigError(f"{out} is there and is no export (it has no {SPEC}): choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        if out.exists():
            os.replace(out, Path(temporary) / "old")
        os.replace(folder, out)
