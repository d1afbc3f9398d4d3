"""``stfm bench train``: it times the sources, the step and the loop of a config, and keeps nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - a machine without it leaves this file out
from test_cli import check_documented

from stfm_ros.cli import COMMANDS, main

FIELDS = {command.name: command.fields for command in COMMANDS}["bench train"]
CONFIG = """
mix: [{source: rendered}]
model: {preset: tiny}
data: {width: 96, height: 96, pairs: 2}
run: {workers: 0}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def test_sources_step_and_loop_are_timed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", str(config), "--precisions", "fp32", "--repeat", "2", "--warm-up", "0", "--json"]
    assert main(["bench", "train", "student", *options]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    check_documented(record, FIELDS)
    cases = record["cases"]
    on_cpu = [case for case in cases if case["device"] == "cpu"]
    assert {case["kind"] for case in on_cpu} >= {"source", "step"}
    loop = cases[-1]
    assert loop["kind"] == "loop" and loop["name"] == "student" and 0 < loop["waiting"] < 1
    for case in cases:
        assert case["ms"]["q25"] <= case["ms"]["median"] <= case["ms"]["q75"] <= case["ms"]["p95"]
        assert case["pairs_s"] == pytest.approx(1e3 * case["pairs"] / case["ms"]["median"])
    assert [path.name for path in config.parent.iterdir()] == ["run.yaml"]


def test_what_cannot_be_timed_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "student", "--config", str(config), "--precisions", "fp8"]) == 2
    assert "precisions 'fp8': expected some of bf16, fp32" in capsys.readouterr().err
    assert main(["bench", "train", "student"]) == 2
    assert "the following arguments are required: --config; see stfm bench train --help" in capsys.readouterr().err
    assert main(["bench", "trian"]) == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err
