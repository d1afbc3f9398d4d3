"""Public checkpoints of LoFTR and 3DG-STFM: their networks' outputs to 1e-4, and what is refused, with its wording.

test/data/published.json holds what the public code gives for the weights and pictures drawn here: LoFTR at df7ca80 and
3DG-STFM at f1f2cfc, in double precision, with their default configuration.
"""

import json
import os
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stfm_ros.cli import COMMANDS, main
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import WeightsError
from stfm_ros.model.published import load_published
from stfm_ros.runtimes.store import find_model
from stfm_ros.runtimes.torch_runtime import TorchRuntime
from stfm_training.export import export

FIGURES = Path(__file__).parent / "data" / "published.json"

#: seed, channels of the first convolution, and of our network
NETWORKS = {"LoFTR": (1, 1, 3), "3DG-STFM student": (2, 3, 3), "3DG-STFM teacher": (3, 4, 4)}
SIZE0, SIZE1 = (72, 96), (88, 80)
THRESHOLD = 0.02  #: of the matches; random weights are seldom as sure as .2


def published_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public state dicts."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, into: int, size: int) -> None:
        shapes[f"{name}.weight"] = (out, into, size, size)

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"] = (out, into)

    def norm(name: str, d: int, batch: bool = True) -> None:
        shapes.update({f"{name}.{part}": (d,) for part in ("weight", "bias")})
        if batch:
            shapes.update({f"{name}.{part}": (d,) for part in ("running_mean", "running_var")})
            shapes[f"{name}.num_batches_tracked"] = ()

    def layer(name: str, d: int) -> None:
        for part in ("q_proj", "k_proj", "v_proj", "merge"):
            linear(f"{name}.{part}", d, d)
        linear(f"{name}.mlp.0", 2 * d, 2 * d)
        linear(f"{name}.mlp.2", d, 2 * d)
        norm(f"{name}.norm1", d, batch=False)
        norm(f"{name}.norm2", d, batch=False)

    convolution("backbone.conv1", 128, channels, 7)
    norm("backbone.bn1", 128)
    for stage, (into, out) in enumerate(((128, 128), (128, 196), (196, 256)), 1):
        for block in (0, 1):
            name = f"backbone.layer{stage}.{block}"
            convolution(f"{name}.conv1", out, out if block else into, 3)
            convolution(f"{name}.conv2", out, out, 3)
            norm(f"{name}.bn1", out)
            norm(f"{name}.bn2", out)
            if stage > 1 and not block:
                convolution(f"{name}.downsample.0", out, into, 1)
                norm(f"{name}.downsample.1", out)
    convolution("backbone.layer3_outconv", 256, 256, 1)
    for stage, (lateral, into, out) in {2: (196, 256, 196), 1: (128, 196, 128)}.items():
        convolution(f"backbone.layer{stage}_outconv", into, lateral, 1)
        convolution(f"backbone.layer{stage}_outconv2.0", into, into, 3)
        norm(f"backbone.layer{stage}_outconv2.1", into)
        convolution(f"backbone.layer{stage}_outconv2.3", out, into, 3)
    for index in range(8):
        layer(f"loftr_coarse.layers.{index}", 256)
    for index in range(2):
        layer(f"loftr_fine.layers.{index}", 128)
    for name in ("down_proj", "merge_feat"):
        linear(f"fine_preprocess.{name}", 128, 256)
        shapes[f"fine_preprocess.{name}.bias"] = (128,)
    return shapes


def drawn_state(seed: int, channels: int) -> dict[str, Tensor]:
    """Weights and batch-norm statistics that are nowhere trivial, a pure function of the seed."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in sorted(published_shapes(channels).items()):
        draw = 2 * rng.random(shape) - 1
        if name.endswith("tracked"):
            state[name] = torch.tensor(1)
            continue
        if len(shape) > 1:
            draw *= (3 / np.prod(shape[1:])) ** 0.5  # each output of variance 1
        else:
            draw = 1 + draw / 2 if name.endswith(("weight", "var")) else draw / 4
        state[name] = torch.from_numpy(draw.astype(np.float32))
    if channels == 1:
        state["backbone.conv1.weight"] *= 2  # grey varies less than three colours
    return state


def drawn_pictures() -> tuple[Tensor, Tensor]:
    """Two views (1, 4, H, W), RGB in [0, 1] and depth / 10 m with holes, of one patchwork, 8 and 16 px apart."""
    rng = np.random.default_rng(0)
    scene = np.zeros((4, 96, 128))
    for cell in (4, 8, 16, 32):
        scene += np.kron(rng.random((4, 96 // cell, 128 // cell)), np.ones((cell, cell))) / 4
    scene[:3] = np.clip(2 * scene[:3] - 0.5, 0, 1)
    scene[3] *= 0.5 * (scene[3] > 0.4)
    view0, view1 = scene[:, : SIZE0[0], : SIZE0[1]], scene[:, 8 : 8 + SIZE1[0], 16 : 16 + SIZE1[1]]
    return torch.from_numpy(view0.astype(np.float32))[None], torch.from_numpy(view1.astype(np.float32))[None]


def sampled(values: Tensor) -> list[float]:
    """A few of them, evenly spread."""
    flat = values.flatten()
    return [float(f"{x:.7g}") for x in flat[torch.linspace(0, len(flat) - 1, 40).long()].tolist()]


def fine_cells(n0: int, n1: int) -> tuple[Tensor, Tensor]:
    """Coarse matches at which the fine stage is asked, corners and edges among them."""
    return torch.linspace(0, n0 - 1, 12).long(), torch.linspace(n1 - 1, 0, 12).long()


def assert_close(found: list[float], expected: list[float], what: str) -> None:
    gap = np.abs(np.subtract(found, expected)).max() / np.abs(expected).max()
    assert gap < 1e-4, f"{what} differs by {gap:.1e} of its largest value"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_published_outputs_come_out(name, tmp_path):
    seed, channels, ours = NETWORKS[name]
    path = tmp_path / "published.ckpt"
    torch.save({"state_dict": {f"matcher.{key}": x for key, x in drawn_state(seed, channels).items()}}, path)
    network = load_published(path)
    expected = json.loads(FIGURES.read_text())[name]
    image0, image1 = (picture[:, :ours] for picture in drawn_pictures())
    with torch.inference_mode():
        (coarse0, fine0), (coarse1, fine1) = network.features(image0), network.features(image1)
        feat_c0, feat_c1 = network.transformer(coarse0, coarse1)
        similarity = network.head(feat_c0, feat_c1)
        log_conf = similarity.log_softmax(1) + similarity.log_softmax(2)
        rows = network.pair(coarse0, fine0, coarse1, fine1, 64)
        i_ids, j_ids = fine_cells(feat_c0.shape[1], feat_c1.shape[1])
        expectation, variance, _ = network.refine(
            feat_c0, fine0, feat_c1, fine1, torch.zeros_like(i_ids), i_ids, j_ids, SIZE0[1] // 8, SIZE1[1] // 8
        )
    fine0, fine1 = fine0.permute(0, 3, 1, 2), fine1.permute(0, 3, 1, 2)
    maps = {"coarse0": coarse0, "coarse1": coarse1, "fine0": fine0, "fine1": fine1}
    tokens = {"feat_c0": feat_c0, "feat_c1": feat_c1, "log_conf": log_conf}
    for what, values in (maps | tokens).items():
        assert_close(sampled(values), expected[what], what)
    assert np.abs(np.subtract(sampled(log_conf), expected["log_conf"])).max() < 1e-3  # small confidences too
    best = log_conf[0].exp().max(1)
    assert best.indices.tolist() == expected["conf_best_at"]
    assert_close(best.values.tolist(), expected["conf_best"], "the best confidence of each cell")
    expec_f = torch.cat([expectation, variance.sqrt().sum(1, keepdim=True)], 1) / 2  # of half a window
    assert_close(expec_f.flatten().tolist(), expected["expec_f"], "expec_f")
    kept = rows.confidence[0] > THRESHOLD
    found = torch.cat([rows.keypoints0[0], rows.keypoints1[0], rows.confidence[0, :, None]], 1)[kept].tolist()
    assert len(found) == len(expected["matches"]) > 0
    for one, other in zip(sorted(found), sorted(expected["matches"])):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


@pytest.fixture(scope="module")
def grey():
    """A LoFTR's state dict."""
    return drawn_state(1, 1)


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def test_the_encoding_is_the_mended_one_where_the_file_is_named_so_or_it_is_asked_for(grey, tmp_path):
    old, new = saved(tmp_path / "indoor_ds.ckpt", grey), saved(tmp_path / "indoor_ds_new.ckpt", grey)
    assert load_published(old, mended_encoding=True).config.preset == "loftr-new"
    assert load_published(new, mended_encoding=False).config.preset == "loftr"
    network = load_published(new)
    assert network.config.preset == "loftr-new"
    expected = json.loads(FIGURES.read_text())["LoFTR, mended encoding"]
    with torch.inference_mode():
        coarse0, _ = network.features(drawn_pictures()[0][:, :3])
    assert_close(sampled(coarse0), expected["coarse0"], "coarse0")


def test_a_joint_checkpoint_gives_its_student_or_its_teacher(tmp_path):
    student, teacher = drawn_state(2, 3), drawn_state(3, 4)
    joint = {f"matcher.{key}": x for key, x in student.items()}
    joint |= {f"matcher.teacher.{key}": x for key, x in teacher.items()}
    path = saved(tmp_path / "joint.ckpt", {"state_dict": joint})
    for network, state in ((load_published(path), student), (load_published(path, teacher=True), teacher)):
        assert network.config.preset == "3dg-stfm"
        assert network.config.in_channels == state["backbone.conv1.weight"].shape[1]
        assert torch.equal(network.fine.project.weight, state["fine_preprocess.down_proj.weight"])


def test_converted_weights_run(grey, tmp_path, capsys):
    checkpoint = tmp_path / "outdoor_ds.safetensors"
    save_file(grey, checkpoint)
    out = tmp_path / "models" / "loftr.safetensors"
    assert main(["convert-weights", str(checkpoint), "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert "stay under the terms" in printed.err
    record = json.loads(printed.out)
    (fields,) = (command.fields for command in COMMANDS if command.name == "convert-weights")
    assert record.keys() == fields.keys()
    assert (record["preset"], record["channels"]) == ("loftr", 3)
    assert record["parameters"] == pytest.approx(11.56e6, rel=0.01)  # LoFTR: 11.6 M
    runtime = TorchRuntime.load(find_model(str(out)), MatcherConfig())
    assert (runtime.spec.preset, runtime.spec.weights_hash) == ("loftr", record["hash"])
    image = drawn_pictures()[0][:, :3]
    with torch.inference_mode():
        expected, _ = load_published(checkpoint).features(image)
    torch.testing.assert_close(runtime.features(image.numpy())[0].cpu(), expected, atol=1e-4, rtol=1e-4)
    export(out, tmp_path / "exported", "loftr", 64, 96, k=32)  # which compares ONNX Runtime with torch
    assert main(["convert-weights", str(checkpoint), "--out", str(out)]) == 2
    assert "is there already; choose another name, or give --overwrite" in capsys.readouterr().err
    assert main(["convert-weights", str(checkpoint), "--out", str(tmp_path / "loftr.pt")]) == 2
    assert "expected a name that ends in .safetensors" in capsys.readouterr().err


class Call:
    """Pickled, a call of ``os.mkdir``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_that_a_checkpoint_brings_is_run(grey, tmp_path):
    path = saved(tmp_path / "x.ckpt", {"state_dict": grey, "callbacks": Call(tmp_path / "made")})
    with pytest.raises(WeightsError, match=r"is a pickle that calls \w+\.mkdir .* only tensors are loaded\. If"):
        load_published(path)
    assert not (tmp_path / "made").exists()


def test_the_trainer_s_bookkeeping_does_not_stop_the_loader(grey, tmp_path, monkeypatch):
    trainer = types.ModuleType("pytorch_lightning")
    trainer.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning"})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", trainer)
    whole = {"epoch": 29, "callbacks": {trainer.ModelCheckpoint: {"best": 1.0}}, "state_dict": grey}
    path = saved(tmp_path / "x.ckpt", whole)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)  # not to be imported
    assert load_published(path).config.preset == "loftr"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: [1, 2], "holds a list, expected a state dict"),
        (lambda state: {"state_dict": {"epoch": 1}}, "holds a dict, expected a state dict"),
        (lambda state: {}, "holds a dict, expected a state dict"),
        (
            lambda state: state | {"coarse_matching.bin_score": torch.ones(())},
            "trained for optimal transport .*_ds",
        ),
        (
            lambda state: state | {"backbone.layer4.0.conv1.weight": torch.ones(1), "x": torch.ones(1)},
            r"is not LoFTR or 3DG-STFM: 2 names are unknown \(backbone\.layer4\.0\.conv1\.weight, x\)",
        ),
        (
            lambda state: {key: x for key, x in state.items() if "down_proj" not in key},
            r"2 of ours are missing \(fine\.project\.bias, fine\.project\.weight\)",
        ),
        (
            lambda state: state | {"backbone.layer2_outconv.weight": torch.zeros(196, 196, 1, 1)},
            r"another size: backbone\.lateral4\.weight is \(196, 196, 1, 1\), expected \(256, 196, 1, 1\)",
        ),
        (
            lambda state: state | {"backbone.conv1.weight": torch.zeros(128, 2, 7, 7)},
            r"first convolution of shape \(128, 2, 7, 7\), expected 1 channel \(grey\), 3 \(RGB\) or 4 \(RGB, depth\)",
        ),
    ],
)
def test_another_network_s_checkpoint_is_refused(change, message, grey, tmp_path):
    path = saved(tmp_path / "x.ckpt", change(grey))
    with pytest.raises(WeightsError, match=message):
        load_published(path)


def test_what_is_no_checkpoint_is_refused(grey, tmp_path):
    path = tmp_path / "x.ckpt"
    with pytest.raises(WeightsError, match=r"there is no file .*x\.ckpt; give a checkpoint of LoFTR or 3DG-STFM"):
        load_published(path)
    saved(path, grey)
    with pytest.raises(WeightsError, match=r"of shape \(128, 1, 7, 7\), expected 4 channels \(RGB, depth\)"):
        load_published(path, teacher=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"is not a whole file of torch\.save"):
        load_published(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not weights")
    with pytest.raises(WeightsError, match=r"cannot be read as weights \(.*\); fetch it again"):
        load_published(path)
    path = path.with_suffix(".safetensors")
    path.write_bytes(b"123")
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        load_published(path)
