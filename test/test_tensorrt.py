"""TensorRT: engines built for real, without a GPU; the runtime on a pretended one; and what only a GPU shows.

``tensorrt_rtx`` (PyPI: tensorrt-rtx-cu13) is the builder. Running an engine needs an NVIDIA GPU: those tests say so.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import itertools
import json
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stfm_ros import machine, parity, runtimes
from stfm_ros.cli import main
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import EngineError, ImageError, RuntimeNotAvailable, StfmError
from stfm_ros.matcher import Matcher
from stfm_ros.runtimes import gpu, tensorrt_builder, tensorrt_runtime
from stfm_ros.runtimes.engine_cache import Built, EngineCache
from stfm_ros.runtimes.gpu import Gpu
from stfm_ros.runtimes.store import FEATURES, PAIR, REFERENCE, find_model
from stfm_ros.runtimes.tensorrt_builder import (
    Flavour,
    Phases,
    Target,
    build_engine,
    find_target,
    load_flavour,
    obtain_engine,
    pick_flavour,
)
from stfm_ros.runtimes.turing import as_convolution

MODEL = find_model("default")
TARGETS = ("sm75", "sm86", "sm89", "sm120")
HAS_RTX = runtimes.is_installed("tensorrt_rtx")
NO_DRIVER = (
    "no NVIDIA GPU can be used: no NVIDIA driver is loaded; check `nvidia-smi` (Jetson: `tegrastats`), and start a "
    "container with --gpus all (Jetson: --runtime nvidia)"
)

needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="needs the builder: pip install tensorrt-rtx-cu13")


def gpu_flavours() -> list[str]:
    return [name for name in tensorrt_builder.FLAVOURS if not runtimes.why_not(name)]


def why_no_gpu() -> str:
    try:
        gpu.find_gpu()
    except StfmError as fault:
        return str(fault)
    return ""


needs_gpu = pytest.mark.skipif(not gpu_flavours(), reason=f"runs engines: {why_no_gpu() or 'TensorRT is missing'}")
needs_no_gpu = pytest.mark.skipif(not why_no_gpu(), reason="there is a GPU")


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    return load_flavour("tensorrt_rtx")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def images() -> list[np.ndarray]:
    """Three images as the runtime takes them, the first two overlapping."""
    rng = np.random.default_rng(0)
    assert MODEL.spec
    height, width = MODEL.spec.height, MODEL.spec.width
    scene = np.kron(rng.random((height // 8 + 8, width // 8 + 8)), np.ones((8, 8)))
    crops = [scene[y : y + height, x : x + width] for y, x in ((0, 0), (8, 16), (40, 33))]
    return [np.repeat(crop[None, None], MODEL.spec.channels, 1).astype(np.float32) for crop in crops]


# -- the builder, for real ---------------------------------------------------------------------------


@needs_rtx
@pytest.mark.parametrize("precision", MODEL.precisions)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("graph", [FEATURES, PAIR])
def test_every_graph_builds_for_every_gpu(
    graph: str, target: str, precision: str, flavour: Flavour, cache: EngineCache
) -> None:
    engine = obtain_engine(MODEL, graph, precision, flavour, find_target(flavour, target), cache)
    data = engine.path.read_bytes()
    assert data[:4] == b"vtrt"  # what TensorRT-RTX's engines begin with
    assert len(data) == engine.bytes > 0.9 * MODEL.graph(graph, precision).stat().st_size  # the weights are in it
    assert engine.facts["layers"] > 20
    record = json.loads(engine.path.with_suffix(".json").read_text())
    assert (
        record["bytes"] == engine.bytes
        and record["key"]["graph_hash"] == MODEL.spec.files[MODEL.graph(graph, precision).name]
    )
    assert (record["key"]["compute_capability"], record["key"]["precision"]) == (target, precision)
    assert obtain_engine(MODEL, graph, precision, flavour, find_target(flavour, target), cache).reused


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 7), (7, 3)),
        ((2, 5, 7), (1, 7, 3)),
        ((1, 5, 7), (1, 7, 5)),
        ((2, 4, 5, 7), (2, 4, 7, 3)),
        ((3, 5, 1), (3, 1, 2)),
    ],
)
@pytest.mark.parametrize("turned", itertools.product((False, True), repeat=2))
def test_products_are_convolutions_on_turing(a: tuple[int, ...], b: tuple[int, ...], turned: tuple[bool, bool]) -> None:
    """NumPy does what the layers that are added do: shuffle, convolution of 1x1 in groups, shuffle."""
    rng = np.random.default_rng(0)
    first, second = rng.random(a), rng.random(b)
    expected = first @ second
    if turned[0]:
        first = first.swapaxes(-1, -2)
    if turned[1]:
        second = second.swapaxes(-1, -2)
    how = as_convolution(first.shape, turned[0], second.shape, turned[1])
    assert how
    pixels = first.transpose(how.a_order).reshape(how.a_shape)[0, :, :, 0].reshape(how.groups, -1, how.a_shape[2])
    weights = second.transpose(how.b_order).reshape(how.b_shape)[:, :, 0, 0].reshape(how.groups, -1, how.b_shape[1])
    convolved = np.einsum("gnk,gkm->gnm", weights, pixels).reshape(1, how.b_shape[0], how.a_shape[2], 1)
    np.testing.assert_allclose(convolved.reshape(how.out_shape).transpose(how.out_order), expected)


def test_products_that_no_convolution_does_are_left_alone() -> None:
    assert as_convolution((1, 5, 7), False, (2, 7, 3), False) is None


@needs_rtx
@pytest.mark.parametrize("precision", MODEL.precisions)
@pytest.mark.parametrize("graph", [FEATURES, PAIR])
def test_the_parser_takes_every_operator(graph: str, precision: str, flavour: Flavour) -> None:
    trt = flavour.trt
    network = trt.Builder(flavour.logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, flavour.logger)
    assert parser.parse(MODEL.graph(graph, precision).read_bytes()), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    inputs = {network.get_input(i).name for i in range(network.num_inputs)}
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    if graph == FEATURES:
        assert (inputs, outputs) == ({"image"}, {"coarse", "fine"})
    else:
        assert inputs == {"coarse0", "fine0", "coarse1", "fine1"} and outputs == set(runtimes.Rows._fields)


@needs_rtx
def test_an_operator_that_tensorrt_does_not_take_is_named(flavour: Flavour, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Frobnicate", ["a"], ["b"], name="head/frob", domain="example")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "ab"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("example", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    with pytest.raises(EngineError, match=r"cannot take .*odd.onnx: operator Frobnicate \(node head/frob\): "):
        build_engine(flavour, path, Target("sm89"))
    path.write_bytes(b"no graph at all")
    with pytest.raises(EngineError, match=r"cannot take .*odd.onnx: .+; export the weights again"):
        build_engine(flavour, path, Target("sm89"))


@needs_rtx
def test_progress_is_told_and_a_build_can_be_cancelled(flavour: Flavour, tmp_path: Path) -> None:
    cache, told = EngineCache(tmp_path), []

    def interrupt(spent_s: float, part: float, doing: str) -> None:
        told.append((spent_s, part, doing))
        raise KeyboardInterrupt  # as Ctrl-C does, in the thread that waits

    with pytest.raises(KeyboardInterrupt):
        obtain_engine(MODEL, PAIR, "fp32", flavour, Target("sm86"), cache, progress=interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"build.lock"}
    assert len(told) == 1 and told[0][0] > 0 and told[0][2]
    obtain_engine(MODEL, FEATURES, "fp32", flavour, Target("sm86"), cache, progress=lambda *s: told.append(s))
    assert told[-1][1] == 1.0
    assert all(0 <= part <= 1 for _, part, _ in told)


@needs_rtx
def test_a_build_speaks_every_few_seconds(
    flavour: Flavour, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorrt_builder, "LOG_PERIOD_S", 0.2)
    with caplog.at_level(logging.INFO, "stfm_ros"):
        build_engine(flavour, MODEL.graph(PAIR), Target("sm89"))
    lines = [record.message for record in caplog.records if record.message.startswith("building pair.onnx: ")]
    assert lines and all(
        re.search(r": \d+ s spent, (about \d+ s left|no estimate yet) \(.+\)$", line) for line in lines
    )


@needs_rtx
def test_the_timing_cache_is_kept(flavour: Flavour, tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    for _ in range(2):  # the second begins with what the first wrote
        with pytest.warns(
            DeprecationWarning, match="no-ops in TensorRT-RTX"
        ):  # it is used with `tensorrt`; of TensorRT-RTX it is empty
            build_engine(flavour, MODEL.graph(FEATURES), Target("sm89"), cache=cache, timings="timing.cache")
        assert (tmp_path / "timing.cache").stat().st_size > 0


def test_nested_phases_add_up() -> None:
    phases = Phases()
    assert phases.state() == (0.0, "beginning")
    phases.start("Building", None, 4)
    phases.step("Building", 0)
    phases.start("Timing", "Building", 10)
    assert phases.state() == (0.25, "Timing 0/10")
    phases.step("Timing", 4)
    assert phases.state() == (pytest.approx(0.375), "Timing 5/10")
    phases.start("Tactics", "Timing", 2)
    phases.step("Tactics", 0)
    assert phases.state() == (pytest.approx(0.3875), "Tactics 1/2")
    for name in ("Tactics", "Timing", "never begun"):
        phases.finish(name)
    assert phases.state() == (0.25, "Building 1/4")
    phases.finish("Building")
    assert phases.state() == (1.0, "ending")


# -- what is built for what --------------------------------------------------------------------------


def pretend(name: str, targets: tuple[str, ...] = ()) -> Flavour:
    return Flavour(name, SimpleNamespace(), "10.3.0", targets, SimpleNamespace(errors=[]))


def test_tensorrt_builds_for_the_gpu_at_hand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_builder, "find_gpu", lambda: Gpu("Orin (nvgpu)", "sm87", 2**33))
    assert (
        find_target(pretend("tensorrt")) == find_target(pretend("tensorrt"), "sm87") == Target("sm87", "Orin (nvgpu)")
    )
    with pytest.raises(
        EngineError,
        match=r"tensorrt builds for the GPU that it runs on \(Orin \(nvgpu\), sm87\), not for sm89: run this on the "
        "machine with that GPU, or use tensorrt_rtx",
    ):
        find_target(pretend("tensorrt"), "sm89")
    rtx = pretend("tensorrt_rtx", ("sm75", "sm86"))
    assert find_target(rtx, "sm86") == Target("sm86")  # any GPU of this compute capability
    with pytest.raises(EngineError, match=r"tensorrt_rtx 10.3.0 builds for sm75, sm86, not for sm87: use tensorrt on"):
        find_target(rtx)


def test_an_engine_that_does_not_fit_is_built_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_builder, "build_engine", lambda *_: Built(b"engine", {"layers": 1}))
    cache, flavour = EngineCache(tmp_path / "engines"), pretend("tensorrt")
    here = Target("sm87", "Orin (nvgpu)")

    def obtain(flavour: Flavour, **settings: Any) -> Any:
        return obtain_engine(MODEL, PAIR, "fp32", flavour, here, cache, **settings)

    with pytest.raises(
        EngineError, match="there is no engine of the pair graph .*; and matcher.stale_engine is refuse"
    ):
        obtain(flavour, stale="refuse")
    assert not cache.folder.exists()
    old = obtain(flavour)
    assert obtain(flavour, stale="refuse").path == old.path
    newer = dataclasses.replace(flavour, version="10.13.2")
    with pytest.raises(EngineError) as refused:
        obtain(newer, stale="refuse")
    assert str(refused.value) == (
        f"{old.path} does not fit: it was built with tensorrt 10.3.0, here is 10.13.2; and matcher.stale_engine is "
        f"refuse: run `stfm build-engine {MODEL.path} --flavour tensorrt --precision fp32 --cache {cache.folder}` on "
        "this machine, or set matcher.stale_engine to build"
    )
    assert obtain(newer).path != old.path and old.path.is_file()


def test_flavours_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(tensorrt_builder.importlib, "import_module", missing)
    load_flavour.cache_clear()
    try:
        with pytest.raises(RuntimeNotAvailable) as refused:
            pick_flavour("auto")
        assert str(refused.value) == (
            "tensorrt cannot be imported (No module named 'tensorrt'): pip install tensorrt (Jetson: it is part of "
            "JetPack; make the venv with --system-site-packages); tensorrt_rtx cannot be imported (No module named "
            "'tensorrt_rtx'): pip install tensorrt-rtx-cu13"
        )
    finally:
        load_flavour.cache_clear()


# -- without a GPU -----------------------------------------------------------------------------------


@needs_rtx
@needs_no_gpu
@pytest.mark.skipif(NO_DRIVER not in why_no_gpu(), reason="something else than the driver is missing")
def test_without_a_gpu_the_runtime_says_what_is_missing() -> None:
    with pytest.raises(RuntimeNotAvailable) as refused:
        Matcher.from_pretrained(MatcherConfig(runtime="tensorrt_rtx"))
    expected = f"runtime 'tensorrt_rtx' was asked for, but {NO_DRIVER}; or set matcher.runtime to auto"
    assert str(refused.value) == expected
    matcher = Matcher.from_pretrained()
    assert "tensorrt_rtx: no NVIDIA GPU can be used: no NVIDIA driver is loaded; " in matcher.reason
    assert not matcher.runtime_name.startswith("tensorrt")
    assert machine.runtimes()["tensorrt_rtx"] == machine.Availability(False, f"tensorrt_rtx: {NO_DRIVER}")
    assert machine.gpu() == machine.Availability(False, NO_DRIVER)


def cuda_that_says(status: str, count: int = 0, driver: int = 0) -> Any:
    code = SimpleNamespace(name=status)
    errors = SimpleNamespace(cudaSuccess="other", cudaErrorInsufficientDriver="other")
    setattr(errors, status, code)
    return SimpleNamespace(
        cudaError_t=errors,
        cudaGetDeviceCount=lambda: (code, count),
        cudaDriverGetVersion=lambda: (0, driver),
        cudaRuntimeGetVersion=lambda: (0, 13050),
    )


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        (cuda_that_says("cudaErrorInsufficientDriver"), "no NVIDIA driver is loaded; check `nvidia-smi`"),
        (
            cuda_that_says("cudaErrorInsufficientDriver", driver=12060),
            r"the driver is of CUDA 12.6, cuda-bindings of 13.5: pip install 'cuda-bindings==12.\*', or update the",
        ),
        (cuda_that_says("cudaErrorNoDevice"), "CUDA says cudaErrorNoDevice; check `nvidia-smi`"),
        (cuda_that_says("cudaSuccess"), "CUDA says cudaSuccess; check `nvidia-smi`"),
    ],
)
def test_what_keeps_a_gpu_from_being_used_is_named(cuda: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "cuda", lambda: cuda)
    with pytest.raises(RuntimeNotAvailable, match=f"no NVIDIA GPU can be used: {words}"):
        gpu.find_gpu()


# -- the command -------------------------------------------------------------------------------------


@needs_rtx
def test_the_command_builds_and_reuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = ["build-engine", "--flavour", "tensorrt_rtx", "--target", "sm80", "--precision", "fp32", "--build-only"]
    command += ["--cache", str(tmp_path), "--json"]
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out)
    assert "building the pair engine of model" in caplog.text and "this takes seconds, once" in caplog.text
    about = [(e["compute_capability"], e["graph"], e["precision"], e["reused"]) for e in record["engines"]]
    assert about == [("sm80", graph, "fp32", False) for graph in (FEATURES, PAIR)]
    for engine in record["engines"]:
        assert Path(engine["file"]).stat().st_size == engine["bytes"] and engine["layers"] > 20
        assert engine["build_s"] > 0
    assert record["deviation"] is None and record["checked"] == "not run: --build-only"
    assert main(command) == 0
    assert all(engine["reused"] for engine in json.loads(capsys.readouterr().out)["engines"])


@needs_rtx
@needs_no_gpu
def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str) -> str:
        assert main(["build-engine", "--flavour", "tensorrt_rtx", *options]) == 2
        out, err = capsys.readouterr()
        assert not out and "Traceback" not in err
        return err

    assert re.search(r"; or name what to build for: --target sm75,.*sm120", refused())
    assert "builds for sm75, sm80, sm86, sm89, sm120, sm121, not for sm87: use tensorrt" in refused("--target", "sm87")
    assert "precision 'fp8' was asked for" in refused("--target", "sm86", "--precision", "fp8")
    (tmp_path / "file").touch()
    assert "engines cannot be kept in" in refused("--target", "sm86", "--cache", str(tmp_path / "file"))
    weights = MODEL.path / "weights.safetensors"
    assert "is no exported folder: export the weights first" in refused(str(weights), "--target", "sm86")


@needs_rtx
def test_ctrl_c_ends_the_command_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stfm_ros.cli", "build-engine", "--flavour", "tensorrt_rtx", "--target", "sm89"]
    process = subprocess.Popen([*command, "--cache", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "building the pair engine" in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said.splitlines()[-1]) == (130, "stfm: interrupted")
    left = {path.suffix for path in tmp_path.glob("*pair*")} | {path.suffix for path in tmp_path.glob("*.part")}
    assert not left


def test_the_command_runs_what_it_built(
    pretended: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flavour = pretended[2]
    monkeypatch.setattr(tensorrt_builder, "load_flavour", lambda name: flavour)
    monkeypatch.setattr(tensorrt_builder, "find_gpu", lambda: Gpu("Pretended", "sm87", 2**33))
    command = ["build-engine", "--flavour", "tensorrt", "--precision", "fp32", "--cache", str(tmp_path), "--json"]

    def checked() -> tuple[int, Any, str]:
        code = main(command)
        record = json.loads(capsys.readouterr().out)
        return code, record["deviation"], record["checked"]

    if REFERENCE not in MODEL.spec.files:
        assert checked() == (0, None, "not run: the model has no reference pair; export it again (stfm export)")
        pytest.skip("the shipped model has no reference pair")
    code, deviation, text = checked()
    assert (code, deviation["common"], deviation["p99_px"]) == (0, 1.0, 0.0)
    assert text.startswith("run on the reference pair: ") and "100.0 % common" in text
    execute = PretendedEngine.execute_async_v3
    monkeypatch.setattr(
        PretendedEngine, "execute_async_v3", lambda self, stream: execute(self, stream) and self.spoil()
    )
    code, deviation, _ = checked()
    assert code == 1 and deviation["common"] < 0.9


# -- the runtime on a pretended GPU: host memory, and ONNX Runtime for kernels -----------------------


class PretendedCuda:
    """As much of ``cuda.bindings.runtime`` as is used; GPU memory is host memory, and freeing is kept book of."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.allocations = 0
        self.streams = 0
        self.ok = SimpleNamespace(value=0, name="cudaSuccess")
        self.free_bytes = 2**40

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size > self.free_bytes:
            return SimpleNamespace(value=2, name="cudaErrorMemoryAllocation"), None
        buffer = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN, until it is written
        self.memory[ctypes.addressof(buffer)] = buffer
        self.allocations += 1
        return self.ok, ctypes.addressof(buffer)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[Any]:
        del self.memory[address]
        return (self.ok,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: int, stream: int) -> tuple[Any]:
        ctypes.memmove(to, of, size)
        return (self.ok,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        self.streams += 1
        return self.ok, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        self.streams -= 1
        return (self.ok,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        return (self.ok,)


class PretendedEngine:
    """An ONNX graph behind the methods of an engine and of its context."""

    def __init__(self, data: bytes) -> None:
        import onnxruntime as ort

        self.session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {tensor.name: tensor for tensor in (*inputs, *outputs)}
        self.inputs, self.outputs = [t.name for t in inputs], [t.name for t in outputs]
        self.num_io_tensors = len(self.tensors)
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> str:
        return self.tensors[name].type

    def get_tensor_mode(self, name: str) -> str:
        return "output" if name in self.outputs else "input"

    def create_execution_context(self) -> PretendedEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.tensors

    def at(self, name: str) -> np.ndarray:
        dtype = np.dtype(nptype(self.tensors[name].type))
        size = int(np.prod(self.tensors[name].shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.asarray(memory).view(dtype).reshape(self.tensors[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        for name, value in zip(self.outputs, self.session.run(None, {n: self.at(n) for n in self.inputs})):
            self.at(name)[...] = value
        return True

    def spoil(self) -> bool:
        """Make a result wrong."""
        if "keypoints1" in self.outputs:
            self.at("keypoints1")[...] += 20
        return True


def nptype(name: str) -> type:
    return {"tensor(float)": np.float32, "tensor(float16)": np.float16}[name]


class PretendedTensorRt:
    """As much of the module ``tensorrt`` as running takes."""

    TensorIOMode = SimpleNamespace(OUTPUT="output")
    nptype = staticmethod(nptype)
    loads = True

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda data: PretendedEngine(data) if self.loads else None)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[PretendedCuda, MatcherConfig, Flavour]:
    cuda, flavour = PretendedCuda(), dataclasses.replace(pretend("tensorrt"), trt=PretendedTensorRt())
    here = Gpu("Pretended", "sm87", 2**33), flavour, Target("sm87", "Pretended")
    monkeypatch.setattr(tensorrt_runtime, "cuda", lambda: cuda)
    for module in (tensorrt_runtime, tensorrt_builder):
        monkeypatch.setattr(module, "at_hand", lambda name: here)
    monkeypatch.setattr(tensorrt_builder, "build_engine", lambda flavour, graph, *_: Built(graph.read_bytes(), {}))
    monkeypatch.setattr(runtimes, "is_installed", lambda name: True)
    return cuda, MatcherConfig(runtime="tensorrt", engines=str(tmp_path / "engines")), flavour


def expected_rows(precision: str, images: list[np.ndarray]) -> runtimes.Rows:
    runtime = runtimes.RUNTIMES["onnxruntime"][1](MODEL, MatcherConfig(precision=precision))
    return runtime.pair(*(runtime.features(image) for image in images[:2]))


@pytest.mark.parametrize("precision", MODEL.precisions)
def test_the_runtime_gives_what_its_engines_give(precision: str, pretended: Any, images: list[np.ndarray]) -> None:
    cuda, config, _ = pretended
    runtime, name, _ = runtimes.load_runtime(MODEL, dataclasses.replace(config, precision=precision))
    assert (name, runtime.precision, runtime.spec) == ("tensorrt", precision, MODEL.spec)
    made = cuda.allocations
    reference, current = runtime.features(images[0]), runtime.features(images[1])
    expected = expected_rows(precision, images)
    assert (expected.confidence > 0.1).sum() > 50  # else nothing would be compared
    rows = runtime.pair(reference, current)
    for found, right in zip(rows, expected):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, right)
    for image in (images[2], images[1]):  # a tracker keeps its reference and replaces the current image
        current = runtime.features(image)
    later = runtime.pair(reference, current)
    for first, again, right in zip(rows, later, expected):
        np.testing.assert_array_equal(again, right)
        assert first is not again  # what was given stays as it was
    assert cuda.allocations == made  # none a frame


def test_features_that_are_kept_are_not_written_over(pretended: Any, images: list[np.ndarray]) -> None:
    cuda, config, _ = pretended
    runtime = runtimes.load_runtime(MODEL, dataclasses.replace(config, precision="fp32"))[0]
    made = cuda.allocations
    kept = [runtime.features(images[i % 3]) for i in range(5)]
    addresses = [tuple(features.addresses.values()) for features in kept]
    assert len({*itertools.chain(*addresses)}) == 10 and cuda.allocations == made + 4
    del kept[:]
    gc.collect()
    again = [runtime.features(images[0]) for _ in range(2)]
    assert {tuple(features.addresses.values()) for features in again} <= set(addresses)
    del runtime, again
    gc.collect()
    assert not cuda.memory and not cuda.streams  # all was freed


def test_engines_that_cannot_be_run_are_errors(pretended: Any, images: list[np.ndarray]) -> None:
    cuda, config, flavour = pretended
    config = dataclasses.replace(config, precision="fp32")
    runtime = runtimes.load_runtime(MODEL, config)[0]
    with pytest.raises(ImageError, match=r"the engine takes images of shape \(1, 3, .*, got \(1, 1, 8, 8\); fit the"):
        runtime.features(np.zeros((1, 1, 8, 8), np.float32))
    runtime._pair._context.execute_async_v3 = lambda stream: False
    features = runtime.features(images[0])
    with pytest.raises(EngineError, match=r"pair-.*\.engine cannot be run: TensorRT gives no reason; build it again"):
        runtime.pair(features, features)
    with pytest.raises(RuntimeNotAvailable, match="precision 'bf16' was asked for, but with this model and machine"):
        runtimes.load_runtime(MODEL, dataclasses.replace(config, precision="bf16"))
    cuda.free_bytes = 1000
    with pytest.raises(EngineError, match=r"cudaMalloc failed: cudaErrorMemoryAllocation; the GPU's memory is full"):
        runtimes.load_runtime(MODEL, config)
    flavour.trt.loads = False
    with pytest.raises(EngineError, match=r"\.engine cannot be loaded: TensorRT gives no reason; build it again"):
        runtimes.load_runtime(MODEL, config)


def test_graphs_of_two_exports_are_refused(pretended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, config, _ = pretended
    shape = PretendedEngine.get_tensor_shape
    monkeypatch.setattr(
        PretendedEngine,
        "get_tensor_shape",
        lambda self, name: shape(self, name)[:-1] if name == "fine0" else shape(self, name),
    )
    with pytest.raises(EngineError, match="takes fine0 as float.* but fine of the features is .*not of one export"):
        runtimes.load_runtime(MODEL, config)


# -- on a GPU ----------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("precision", MODEL.precisions)
@pytest.mark.parametrize("name", gpu_flavours() or ["tensorrt"])
def test_engines_give_on_a_gpu_what_onnx_runtime_gives(
    name: str, precision: str, cache: EngineCache, images: list[np.ndarray], record_property: Any
) -> None:
    config = MatcherConfig(runtime=name, precision=precision, engines=str(cache.folder))
    runtime = runtimes.load_runtime(MODEL, config)[0]
    found = parity.check_reference(runtime, MODEL)
    spent_ms = []
    reference = runtime.features(images[0])
    for _ in range(50):
        began = time.perf_counter()
        runtime.pair(reference, runtime.features(images[1]))
        spent_ms.append(1e3 * (time.perf_counter() - began))
    text = f"{name} {precision}: {found}; features and pair {np.median(spent_ms):.2f} ms in the median"
    record_property("measured", text)
    print(text)
    assert found.common >= (0.99 if precision == "fp32" else 0.9)
    assert found.p99_px < (0.05 if precision == "fp32" else 1.0)
