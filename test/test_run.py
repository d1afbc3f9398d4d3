"""Training runs as people start them: killed and gone on with, on two processes, and refused."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stfm_ros.cli import main
from stfm_ros.errors import ConfigError, TrainingError, WeightsError
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.weights import load_network, save_weights
from stfm_training.checkpoint import newest, read_state, write_state
from stfm_training.config import TrainingConfig, checked
from stfm_training.losses.fine import FineLoss
from stfm_training.run import LOG, WEIGHTS, train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SMALL = {
    "model.preset": "tiny", "data.width": 96, "data.height": 64, "data.pairs": 2, "loss.fine_matches": 32,
    "optimiser.steps": 12, "run.precision": "fp32", "run.checkpoint_every": 4, "run.validate_every": 6,
    "run.log_every": 2, "run.workers": 0,
}  # fmt: skip


TEACHER = Path(__file__).parent / "data" / "tiny_teacher.safetensors"


def config(photographs: Path, **changes: object) -> TrainingConfig:
    names = {name.replace("__", "."): value for name, value in changes.items()}
    return checked({"mix": [{"source": "homographies", "path": str(photographs)}], **SMALL, **names})


def command(role: str, config: TrainingConfig, out: Path) -> list[str]:
    path = out.with_suffix(".yaml")
    path.write_text(config.to_yaml())
    return ["-m", "stfm_ros.cli", "train", role, "--config", str(path), "--out", str(out), "--json"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def log(out: Path) -> dict[int, dict[str, float]]:
    """Training lines by step."""
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory) -> Path:
    """A run of its own process that nothing disturbed, from a teacher's weights."""
    folder = tmp_path_factory.mktemp("runs")
    given = config(photographs, teacher__weights=str(TEACHER))
    out = folder / "whole"
    done = subprocess.run(
        [sys.executable, *command("student", given, out)], env=environment(), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["weights"] == str(out / WEIGHTS)
    return out


def test_a_run_leaves_weights_log_and_pictures(finished):
    network, _ = load_network(finished / WEIGHTS)
    assert network.config.preset == "tiny" and network.config.in_channels == 3
    lines = log(finished)
    assert sorted(lines) == [2, 4, 6, 8, 10, 12]
    assert {"loss_c", "loss_f", "loss_mqd", "loss_att", "coarse_accuracy", "fine_px", "gradient", "lr", "pairs_s",
            "waiting"} <= set(lines[12])  # fmt: skip
    assert lines[12]["lr"] < lines[2]["lr"]
    validations = [json.loads(line) for line in (finished / LOG).read_text().splitlines() if "val_fine_px" in line]
    assert [line["step"] for line in validations] == [6, 12]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert "loss_c" in board.Tags()["scalars"] and "held out/0" in board.Tags()["images"]


def test_a_killed_run_goes_on_to_the_same_weights_to_the_bit(finished, photographs, tmp_path):
    given = config(photographs, teacher__weights=str(TEACHER))
    out = tmp_path / "killed"
    arguments = [sys.executable, *command("student", given, out)]
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while newest(out / "checkpoints") is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert newest(out / "checkpoints") is not None
    assert not (out / "checkpoints" / "step=12.safetensors").exists()
    subprocess.run(arguments, env=environment(), stdout=subprocess.DEVNULL, check=True)
    whole, resumed = load_file(finished / WEIGHTS), load_file(out / WEIGHTS)
    assert list(whole) == list(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    states = [read_state(folder / "checkpoints" / "step=12.safetensors") for folder in (finished, out)]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name


def test_two_processes_have_the_loss_of_one(photographs, tmp_path):
    # from weights that know something, and gently: float32 itself strays by 1e-3 in the first steps of a new network
    given = config(
        photographs, data__pairs=2, loss__fine_matches=16, optimiser__steps=50, run__log_every=10,
        run__checkpoint_every=50, run__validate_every=0, model__start=str(TEACHER), optimiser__lr=3e-5,
    )  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(
        [sys.executable, *command("teacher", given, one)], env=environment(), check=True, stdout=subprocess.DEVNULL
    )
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    subprocess.run(
        [sys.executable, *launcher, *command("teacher", given, two)], env=environment(), check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    alone, together = log(one), log(two)
    assert sorted(together) == [10, 20, 30, 40, 50]
    for step in (10, 50):
        assert together[step]["loss"] == pytest.approx(alone[step]["loss"], abs=1e-4)
        assert together[step]["gradient"] == pytest.approx(alone[step]["gradient"], rel=1e-3)


def test_a_run_from_weights_says_where_it_began(photographs, tmp_path):
    given = config(photographs, model__start=str(TEACHER), optimiser__steps=2, run__validate_every=2)
    train("teacher", given, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines if "val_coarse_accuracy" in line] == [0, 2]


def test_another_config_does_not_go_on_with_a_run(finished, photographs):
    given = config(photographs, optimiser__lr=0.5, teacher__weights=str(TEACHER))
    with pytest.raises(ConfigError, match=r"optimiser.lr: 0.001 there, 0.5 now"):
        train("student", given, finished)
    with pytest.raises(ConfigError, match="student there, teacher now"):
        train("teacher", given, finished)


def test_a_finished_run_stays_as_it_is(finished, photographs):
    before = (finished / WEIGHTS).read_bytes()
    given = config(photographs, run__workers=1, teacher__weights=str(TEACHER))  # what changes nothing may differ
    train("student", given, finished)
    assert load_file(finished / WEIGHTS).keys() and (finished / WEIGHTS).read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(photographs, tmp_path, monkeypatch):
    calls, forward = itertools.count(), FineLoss.forward
    spoiled = lambda *inputs: forward(*inputs) * (float("nan") if next(calls) == 5 else 1.0)  # noqa: E731
    monkeypatch.setattr(FineLoss, "forward", spoiled)
    with pytest.raises(TrainingError, match=r"not finite .*loss_f nan.* in step 5 of seed 0 .* lower optimiser.lr"):
        train("teacher", config(photographs), tmp_path / "run")
    assert newest(tmp_path / "run" / "checkpoints").name == "step=4.safetensors"
    load_network(tmp_path / "run" / WEIGHTS)


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path, monkeypatch):
    path = tmp_path / "step=1.safetensors"
    write_state({"step": 1, "state": {0: torch.ones(3)}}, path)

    def full(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stfm_training.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match="No space left on device.*earlier ones are kept"):
        write_state({"step": 2}, tmp_path / "step=2.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert read_state(path)["state"][0].tolist() == [1, 1, 1]


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"a": {1: (torch.arange(3), None), "x": [1.5, "two", True]}, "empty": {}, 2: torch.tensor(4)}
    write_state(state, tmp_path / "state.safetensors")
    again = read_state(tmp_path / "state.safetensors")
    assert again["a"][1][1] is None and isinstance(again["a"][1], tuple) and again["a"]["x"] == [1.5, "two", True]
    assert torch.equal(again["a"][1][0], torch.arange(3)) and int(again[2]) == 4 and again["empty"] == {}


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"\x10" * 64)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state(tmp_path / "broken.safetensors")
    save_weights(StfmNet(preset("tiny")), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="no checkpoint of a training run"):
        read_state(tmp_path / "weights.safetensors")


def test_weights_of_the_wrong_kind_are_refused(photographs, tmp_path):
    for channels, name in ((3, "student"), (4, "teacher")):
        save_weights(StfmNet(preset("tiny", channels)), tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match="is an RGB network: expected one of `stfm train teacher`"):
        train("student", config(photographs, teacher__weights=str(tmp_path / "student.safetensors")), tmp_path / "a")
    with pytest.raises(WeightsError, match="a student begins from an RGB one"):
        train("student", config(photographs, model__start=str(tmp_path / "teacher.safetensors")), tmp_path / "b")
    given = config(photographs, model__start=str(tmp_path / "student.safetensors"), model__preset="small")
    with pytest.raises(WeightsError, match="holds weights of preset 'tiny', expected 'small'"):
        train("student", given, tmp_path / "c")


def test_without_lightning_the_command_says_what_to_install(photographs, tmp_path):
    arguments = command("student", config(photographs), tmp_path / "run")[2:]
    code = f"import sys; sys.modules['lightning'] = None; from stfm_ros.cli import main; sys.exit(main({arguments}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "training needs a module that is not installed (lightning): pip install '.[train]'" in done.stderr


def test_a_config_that_cannot_be_read_is_refused(tmp_path, capsys):
    assert main(["train", "teacher", "--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")]) == 2
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert main(["train", "teacher", "--config", str(tmp_path / "list.yaml"), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "cannot be read as YAML" in told and "holds list: expected sections" in told
    assert not (tmp_path / "run").exists()
