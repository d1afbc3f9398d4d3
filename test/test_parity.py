"""Whether two ways to run a model agree: what counts as agreement, the reference pair, and torch on recorded pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stfm_ros.cli import COMMANDS, main
from stfm_ros.config import MatcherConfig
from stfm_ros.demo import DEMO_BAG
from stfm_ros.errors import DatasetError, WeightsError
from stfm_ros.matcher import Matcher
from stfm_ros.pairs import Sampling, sample_pairs
from stfm_ros.parity import Reference, as_inputs, as_matches, check_reference, compare, deviation
from stfm_ros.posed_bag import PosedBag
from stfm_ros.runtimes import Rows, load_runtime
from stfm_ros.runtimes.store import REFERENCE, find_model, read_spec, seal
from stfm_ros.types import Matches


def matches_at(cells: list[int], moved: float = 0.0, confidence: float = 0.9) -> Matches:
    points = np.array([[8.0 * cell, 16.0] for cell in cells], np.float32).reshape(-1, 2)
    ones = np.ones(len(cells), np.float32)
    return Matches(points, points + np.float32([5.0 + moved, 0]), confidence * ones, ones)


def test_deviation() -> None:
    one = matches_at(list(range(100)))
    same = deviation([(one, one)])
    assert (same.common, same.p50_px, same.p99_px, same.confidence, same.expected, same.found) == (1, 0, 0, 0, 100, 100)

    moved = deviation([(one, matches_at(list(range(100)), moved=0.25, confidence=0.8))])
    assert moved.common == 1
    np.testing.assert_allclose([moved.p50_px, moved.p99_px, moved.confidence], [0.25, 0.25, 0.1], atol=1e-6)

    assert deviation([(one, matches_at(list(range(10, 100))))]).common == 0.9, "what is missing"
    assert deviation([(matches_at(list(range(10, 100))), one)]).common == 0.9, "what is too much"
    far = deviation([(one, matches_at(list(range(100)), moved=8.5))])
    assert (far.common, far.p99_px) == (0, 0), "another match of the same cell is none in common"
    both = deviation([(one, one), (one, matches_at([]))])
    assert (both.common, both.expected, both.found) == (0.5, 200, 100)
    assert deviation([(matches_at([]), matches_at([]))]).common == 1
    shuffled = one.take(np.random.default_rng(0).permutation(100))
    assert deviation([(one, shuffled)]) == same


def reference() -> Reference:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 32, 64, 3), np.uint8)
    depths = rng.integers(0, 9000, (2, 32, 64)).astype(np.uint16)
    return Reference((images[0], images[1]), (depths[0], depths[1]), Rows(*rng.random((4, 7, 2)).astype(np.float32)))


def test_a_reference_comes_back_as_it_was(tmp_path: Path) -> None:
    written = reference()
    written.write(tmp_path / REFERENCE)
    read = Reference.read(tmp_path / REFERENCE)
    for one, other in ((written.images, read.images), (written.depths, read.depths), (written.rows, read.rows)):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    first, _ = as_inputs(read.images, read.depths)
    assert (first.shape, first.dtype) == ((1, 4, 32, 64), np.float32)
    np.testing.assert_allclose(first[0, :3, 3, 5], written.images[0][3, 5] / 255, rtol=1e-6)
    np.testing.assert_allclose(first[0, 3, 3, 5], written.depths[0][3, 5] / 1e4, rtol=1e-6)  # mm -> 10 m


def test_a_damaged_reference_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    runtime, *_ = load_runtime(find_model(str(folder)), MatcherConfig(runtime="onnxruntime", precision="fp32"))
    whole = (folder / REFERENCE).read_bytes()
    (folder / REFERENCE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="reference.npz has SHA-256 .*: export or fetch it again"):
        check_reference(runtime, find_model(str(folder)))
    for content in (whole[: len(whole) // 2], b"PK nothing", b""):
        (folder / REFERENCE).write_bytes(content)
        model = seal(folder, read_spec(folder / "spec.json"))
        with pytest.raises(
            WeightsError, match=r"reference.npz is no reference pair of an export .*; export the weights"
        ):
            check_reference(runtime, model)
    (folder / REFERENCE).unlink()
    with pytest.raises(WeightsError, match="holds no reference.npz; export the weights to a folder first"):
        check_reference(runtime, find_model(str(folder)))


def test_another_model_is_noticed(exported: Path) -> None:
    """The check has teeth: a runtime that mixes up the images finds other matches."""
    model = find_model(str(exported))
    runtime, *_ = load_runtime(model, MatcherConfig(runtime="onnxruntime", precision="fp32"))

    class Swapped:
        spec, precision, features = runtime.spec, "fp32", staticmethod(runtime.features)

        def pair(self, a: object, b: object) -> Rows:
            return runtime.pair(b, a)

    found = check_reference(Swapped(), model)
    assert found.expected > 300
    assert found.common < 0.5


def test_threshold_of_rows() -> None:
    rows = Rows(np.zeros((3, 2)), np.zeros((3, 2)), np.array([0.9, 0.21, 0.19]), np.ones(3))
    assert len(as_matches(rows)) == 2
    assert len(as_matches(rows, 0.5)) == 1


def test_onnxruntime_agrees_with_torch_on_recorded_pairs(exported: Path) -> None:
    """Fifty pairs of recordings at 640x480 were measured by ``stfm parity`` (docs/engines.md)."""
    matchers = {
        runtime: Matcher.from_pretrained(
            MatcherConfig(model=str(exported), runtime=runtime, precision="fp32", threads=1)
        )
        for runtime in ("torch", "onnxruntime")
    }
    with PosedBag(DEMO_BAG) as bag:
        pairs = sample_pairs(bag, Sampling(count=8))
        assert len(pairs) == 8
        calls = []
        found = compare(
            {name: matcher.match for name, matcher in matchers.items()}, pairs, "opencv", lambda *a: calls.append(a)
        )
    assert calls[-1] == (8, 8)
    one = found["onnxruntime"]
    assert one.deviation.expected > 8 * 100
    assert one.deviation.common >= 0.99
    assert one.deviation.p99_px <= 0.05
    assert one.rotation_deg < 0.02
    assert found["torch"].deviation.p99_px == 0 and found["torch"].rotation_deg == 0


def test_nothing_to_compare() -> None:
    with pytest.raises(DatasetError, match="there is nothing to compare: give at least one method"):
        compare({}, [])


# the command


def test_the_command(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ways = "onnxruntime:fp32,onnxruntime:fp16"
    call = ["parity", str(DEMO_BAG), "--model", str(exported), "--pairs", "3"]
    assert main([*call, "--ways", ways, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    fields = next(command.fields for command in COMMANDS if command.name == "parity")
    keys = set(record) | {f"inputs[].{key}" for key in record["inputs"][0]}
    assert keys | {f"inputs[].ways[].{key}" for key in record["inputs"][0]["ways"][0]} == set(fields)
    one, other = record["inputs"][0]["ways"]
    assert [one["way"], other["way"]] == ways.split(",")
    assert (one["common"], one["p99_px"], one["rotation_deg"]) == (1, 0, 0)
    assert 0.98 <= other["common"] <= 1 and 0 < other["p99_px"] < 0.1
    assert set(one["auc"]) == {"5", "10", "20"}

    assert main([*call, "--pairs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "onnxruntime:fp32" in shown and "onnxruntime:fp16" in shown and "common %" in shown

    for wrong in ("onnxruntime", "onnxruntime:fp32,onnxruntime:fp32", ":fp32"):
        assert main([*call, "--ways", wrong]) == 2
        assert "expected runtime:precision, comma-separated, each once" in capsys.readouterr().err
    assert main([*call, "--ways", "onnxruntime:int8"]) == 2
    assert "precision 'int8' was asked for, but with this model and machine onnxruntime runs" in capsys.readouterr().err
