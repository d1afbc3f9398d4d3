"""``stfm bench``: what is measured, what is left out and why, what follows from the times, processes of their own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import Answer, check_documented

from stfm_ros import demo
from stfm_ros.benchmark import STFM, Case, Learned, Times
from stfm_ros.cli import COMMANDS, main
from stfm_ros.config import MatcherConfig
from stfm_ros.cost import beside_sift, costs, matrix_products, measure_peak, rates
from stfm_ros.demo_result import DemoResult, Spread
from stfm_ros.errors import ConfigError, StfmError
from stfm_ros.fresh_process import run_fresh
from stfm_ros.machine import peak_memory_mib

FIELDS = {command.name: command.fields for command in COMMANDS}["bench"]
HAS_ROS = all(importlib.util.find_spec(name) for name in ("rclpy", "stfm_ros.msg"))
STAGES = {"fit", "features", "pair", "select", "geometry", "frame"}
PEER_STAGES = {"features", "match", "geometry", "frame", "both"}
FEW = ("--repeat", "2", "--warm-up", "0", "--threads", "1")


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Answer:
        code = main(["bench", *map(str, arguments)])
        return Answer(code, *capsys.readouterr())

    return call


# -- what is measured --------------------------------------------------------------------------------------------------


def test_every_combination_is_measured_or_left_out_with_its_reason(bench: Any, exported: Path) -> None:
    answer = bench("--models", exported, "--runtimes", "onnxruntime", "--precisions", "fp32,int8", *FEW, "--json")
    assert answer.code == 0, answer.err
    record = answer.record
    check_documented(record, FIELDS)
    model, *peers = record["cases"]
    assert [case["method"] for case in record["cases"]] == ["stfm", "sift", "orb", "akaze"]
    assert {(case["threads"], case["width"], case["height"]) for case in record["cases"]} == {(1, 320, 256)}
    assert (model["model"]["runtime"], model["model"]["precision"]) == ("onnxruntime", "fp32")
    assert set(model["stages"]) == STAGES and all(set(peer["stages"]) == PEER_STAGES for peer in peers)
    for case in record["cases"]:
        assert case["matches"] > 20
        assert 10 < case["memory_before_mib"] <= case["memory_mib"] < 4000
        for ms in case["stages"].values():
            assert 0 < ms["q25"] <= ms["median"] <= ms["q75"] <= ms["p95"]
    assert model["memory_mib"] > model["memory_before_mib"] + 20  # the network was loaded in between
    (left_out,) = record["left_out"]
    assert left_out["what"] == f"{exported}, runtime onnxruntime, precision int8, threads 1, pictures 320x256"
    assert "onnxruntime runs fp32, fp16" in left_out["reason"]
    for graph, rate in model["rates"].items():
        assert rate["gflop_s"] == pytest.approx(1e3 * rate["gflop"] / model["stages"][graph]["median"])
        assert rate["share_of_peak"] == pytest.approx(rate["gflop_s"] / record["peak_gflop_s"]["1"])
    assert set(model["rates"]) == {"features", "pair"} and all(peer["rates"] == {} for peer in peers)
    sift = peers[0]["stages"]["frame"]["median"]
    assert model["frame_beside_sift"] == pytest.approx(model["stages"]["frame"]["median"] / sift)
    assert record["costs"] == [] and record["node"] is None


def test_the_table_fits_a_terminal_of_120_columns(bench: Any, exported: Path) -> None:
    answer = bench("--models", exported, "--runtimes", "onnxruntime", "--precisions", "fp32,bf16", "--peers", "sift",
                   "--size", "320x256", "--size", "640x480", *FEW)  # fmt: skip
    assert answer.code == 0, answer.err
    assert max(map(len, answer.out.splitlines())) <= 120
    assert "model onnxruntime fp32" in answer.out and "time = constant * pixels ^ exponent" in answer.out
    assert answer.err.count("left out: ") == 1 and answer.err.count("precision 'bf16' was asked for") == 1


def test_the_operations_that_export_counts_are_those_of_the_graph(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from stfm_ros.runtimes.store import find_model

    model = find_model(str(exported))
    assert model.spec is not None
    graph = onnx.shape_inference.infer_shapes(onnx.load(model.graph("features"))).graph
    values = (*graph.value_info, *graph.output)
    sizes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    sizes |= {weights.name: list(weights.dims) for weights in graph.initializer}
    # an output value of a convolution is the sum over the weights of its channel
    operations = [
        2 * np.prod(sizes[node.output[0]]) * np.prod(sizes[node.input[1]][1:])
        for node in graph.node
        if node.op_type == "Conv"
    ]
    assert model.spec.gflops["features"] == pytest.approx(sum(operations) / 1e9, rel=1e-6)
    assert model.spec.gflops["pair"] > 0


# -- what follows ------------------------------------------------------------------------------------------------------


def case(method: str, size: tuple[int, int], frame_ms: float, threads: int = 2, **model: Any) -> Case:
    times = {stage: Times(ms, ms, ms, ms) for stage, ms in (("features", frame_ms / 2), ("frame", frame_ms))}
    about = {"given": "m", "name": "m", "weights_hash": "a", "width": size[0], "height": size[1], "runtime": "openvino"}
    learned = Learned(**{**about, "precision": "fp32", "load_s": 1.0, "gflops": {"features": 3.0}, **model})
    return Case(method, learned if method == STFM else None, threads, *size, 100, 50.0, 90.0, times)


def test_cost_over_pixels() -> None:
    sizes = [(320, 240), (640, 480), (1280, 960)]
    cases = [case(STFM, size, 1e-4 * (size[0] * size[1]) ** 1.25) for size in sizes]
    cases += [case("sift", size, 1e-3 * size[0] * size[1]) for size in sizes]
    alone = case(STFM, (640, 480), 9.0, precision="bf16")
    in_another_network = case(STFM, (1280, 960), 9.0, precision="bf16", width=640, height=480)
    learned, sift = costs([*cases, alone, in_another_network])
    assert (learned.method, learned.name, learned.precision, sift.method, sift.name) == (
        STFM,
        "m",
        "fp32",
        "sift",
        None,
    )
    assert learned.pixels == sift.pixels == (76800, 307200, 1228800)
    assert learned.exponents == pytest.approx({"features": 1.25, "frame": 1.25})
    assert sift.exponents == pytest.approx({"features": 1.0, "frame": 1.0})


def test_other_weights_or_threads_are_no_point_of_the_same_line() -> None:
    small, large = (320, 240), (640, 480)
    assert costs([case(STFM, small, 1), case(STFM, large, 2, weights_hash="b"), case(STFM, large, 2, threads=1)]) == []


def test_operations_a_second_and_their_share_of_the_peak() -> None:
    peaks = {2: 100.0, 1: 50.0}
    (rate,) = rates(case(STFM, (640, 480), 120.0), peaks).values()  # 3 GFLOP in 60 ms
    assert (rate.gflop, rate.gflop_s, rate.share_of_peak) == pytest.approx((3.0, 50.0, 0.5))
    assert rates(case(STFM, (640, 480), 120.0, threads=1), peaks)["features"].share_of_peak == pytest.approx(1.0)
    assert rates(case(STFM, (640, 480), 120.0, runtime="tensorrt"), peaks)["features"].share_of_peak is None
    on_torch = case(STFM, (640, 480), 120.0, runtime="torch")
    assert rates(on_torch, peaks)["features"].share_of_peak == pytest.approx(0.5)
    assert rates(on_torch, peaks, gpu=True)["features"].share_of_peak is None
    assert rates(case(STFM, (640, 480), 120.0, gflops={}), peaks) == rates(case("sift", (640, 480), 120.0), peaks) == {}


def test_the_ratio_is_to_sift_on_pictures_of_this_size_with_as_many_threads() -> None:
    one = case(STFM, (640, 480), 120.0)
    others = [case("orb", (640, 480), 1.0), case("sift", (320, 240), 1.0), case("sift", (640, 480), 1.0, threads=1)]
    assert beside_sift(one, [one, *others]) is None
    assert beside_sift(one, [one, *others, case("sift", (640, 480), 80.0)]) == pytest.approx(1.5)


# -- processes of their own --------------------------------------------------------------------------------------------


def refuse() -> None:
    raise ConfigError("three is too many")


def break_down() -> None:
    raise MemoryError("no 5 GB")


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def chatter(word: str) -> str:
    print("a library says hello")
    os.write(1, b"and so does its native half\n")
    return f"{word} {os.environ['STFM_TEST']}"


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@pytest.mark.usefixtures("_importable")
def test_a_fresh_process_answers_whatever_libraries_print(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_fresh(chatter, "well", environment={"STFM_TEST": "done"}) == "well done"
    captured = capfd.readouterr()
    assert captured.out == ""  # --json promises one object and nothing else
    assert "hello" in captured.err and "native half" in captured.err


@pytest.mark.usefixtures("_importable")
def test_faults_of_a_fresh_process(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="^three is too many$"):
        run_fresh(refuse)
    with pytest.raises(StfmError, match="^MemoryError: no 5 GB$"):
        run_fresh(break_down)
    assert "break_down" in capfd.readouterr().err  # its traceback
    with pytest.raises(StfmError, match=r"process of be_killed was ended by signal 9: is there enough memory\?"):
        run_fresh(be_killed)


def test_memory_of_a_fresh_process_is_its_own() -> None:
    held = np.ones(2**28 // 8)  # 256 MiB, written
    assert peak_memory_mib() > 256
    assert 5 < run_fresh(peak_memory_mib) < 200
    assert held.all()


def test_the_peak_is_that_of_matrix_products() -> None:
    assert 0.1 < measure_peak(1) < 1e5
    assert run_fresh(matrix_products) > 0.1


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are looked up in /proc")
def test_interrupted_it_ends_with_its_processes() -> None:
    command = [sys.executable, "-m", "stfm_ros.cli", "bench", "--repeat", "1000", "--peers", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def children() -> list[int]:
        return [int(child) for path in Path(f"/proc/{process.pid}/task").glob("*/children") for child in
                path.read_text().split()]  # fmt: skip

    try:
        until = time.monotonic() + 100
        while not (started := children()) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.0)  # it loads the model
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        for pid in (*children(), process.pid) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
    assert process.returncode in (130, -signal.SIGINT), err
    assert err.strip() == "stfm: interrupted"
    assert len(started) == 1 and not Path(f"/proc/{started[0]}").exists()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runtimes", "tensorflow"], "runtimes 'tensorflow': expected all, auto, or some of tensorrt"),
        (["--precisions", "fp8"], "precisions 'fp8': expected some of auto, fp32, bf16, fp16, int8"),
        (["--threads", "a"], "threads 'a': expected whole numbers"),
        (["--peers", "surf"], "peers 'surf': expected none, or some of sift, orb, akaze"),
        (["--size", "640"], "'640' is no image size: expected e.g. 640x480"),
        (["--models", "none"], "there is no model 'none': not a shipped name (default"),
        (["--models", ","], "models ',': expected shipped names or exported folders"),
        (
            ["--runtimes", "onnxruntime", "--precisions", "bf16", "--peers", "none"],
            "no model could be measured:\n"
            "  default, runtime onnxruntime, precision bf16, threads auto, pictures 640x480: precision 'bf16'",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(bench: Any, arguments: list[str], words: str) -> None:
    answer = bench(*arguments)
    assert answer.code == 2
    assert words in answer.err and answer.out == ""


# -- the node ----------------------------------------------------------------------------------------------------------


def test_the_node_is_refused_without_ros_before_anything_is_measured(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stfm_ros.fresh_process.run_fresh", lambda *_: pytest.fail("something was measured"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "rclpy" else find(name))
    answer = bench("--node")
    assert answer.code == 2
    assert "rclpy cannot be imported: the demo runs real ROS 2 nodes; source ROS 2" in answer.err


def test_the_node_runs_the_first_of_each_list(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def play(out: str, parameters: dict[str, Any], progress: Any) -> DemoResult:
        asked.update(parameters)
        latency = {"overhead": Spread(2.0, 3.0), "total": Spread(80.0, float("nan"))}
        about = {"model": "medium", "runtime": "onnxruntime"}
        return DemoResult(60, 59, 5, 0, 54, 53, Spread(1, 2), Spread(3, 4), latency, {"OK": 53}, about)

    monkeypatch.setattr(demo, "require_ros", lambda: None)
    monkeypatch.setattr(demo, "run_demo", play)
    measured = case(STFM, (640, 480), 120.0)
    monkeypatch.setattr("stfm_ros.fresh_process.run_fresh", lambda *_: measured)
    answer = bench("--runtimes", "onnxruntime,openvino", "--precisions", "fp32,int8", "--threads", "2,1", "--peers",
                   "none", "--node", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    check_documented(answer.record, FIELDS)
    first = MatcherConfig(runtime="onnxruntime", precision="fp32", threads=2)
    assert asked == {f"matcher.{name}": getattr(first, name) for name in ("model", "runtime", "precision", "threads")}
    node = answer.record["node"]
    assert node["latency_ms"] == {
        "overhead": {"median": 2.0, "p95": 3.0}, "total": {"median": 80.0, "p95": None},
    }  # fmt: skip
    assert (node["model"], node["received"], node["posed"]) == ("medium", 59, 53)


@pytest.mark.skipif(not HAS_ROS, reason="ROS 2 or the package's messages are not installed")
@pytest.mark.slow
def test_the_real_node_is_timed(bench: Any, exported: Path) -> None:
    answer = bench("--models", exported, "--peers", "none", "--node", *FEW, "--json")
    assert answer.code == 0, answer.err
    ms = {stage: spread["median"] for stage, spread in answer.record["node"]["latency_ms"].items()}
    assert 0 < ms["publish"] < ms["overhead"] < ms["total"] < ms["end to end"]
    assert answer.record["node"]["model"] == "small"
