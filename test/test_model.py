"""The network: sizes, fused = unfused, symmetry, static outputs, and that it learns."""

import copy
import dataclasses
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros import runtimes
from stfm_ros.bags import IMAGE_TYPES, BagReader
from stfm_ros.errors import ConfigError, ImageError, WeightsError
from stfm_ros.images import decode_image
from stfm_ros.model import coarse
from stfm_ros.model.backbone import RepConv
from stfm_ros.model.coarse import inner_cells, select_matches, turns
from stfm_ros.model.fine import FineStage, crop, crop_between
from stfm_ros.model.fuse import fuse
from stfm_ros.model.network import StfmNet
from stfm_ros.model.position import rotary_tables, rotate, sine_encoding
from stfm_ros.model.presets import PRESETS, preset
from stfm_ros.model.transformer import alternate, linear_attention
from stfm_ros.model.weights import load_network, save_weights
from stfm_ros.runtimes.store import find_model
from stfm_ros.spread import SURE


def random_network(name: str = "small", in_channels: int = 3) -> StfmNet:
    """Weights and batch-norm statistics that are nowhere trivial."""
    torch.manual_seed(0)
    network = StfmNet(preset(name, in_channels))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    for layer in network.transformer.layers:
        torch.nn.init.normal_(layer.mlp[2].weight, 0, 0.05)
    if network.fine.subpixel is not None:
        torch.nn.init.normal_(network.fine.subpixel.mlp[-1].weight, 0, 0.05)
    return network.eval()


def test_the_paper_preset_has_the_published_size():
    parameters = sum(p.numel() for p in StfmNet(preset("paper")).parameters())
    assert parameters == pytest.approx(11.56e6, rel=0.01)  # LoFTR and 3DG-STFM: 11.6 M


@pytest.mark.parametrize("name", PRESETS)
def test_outputs_have_static_shapes_and_lie_in_the_image(name):
    network = random_network(name)
    with torch.inference_mode():
        rows = network(torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96), k=40)
    assert rows.keypoints0.shape == rows.keypoints1.shape == (2, 40, 2)
    assert rows.confidence.shape == rows.sigma.shape == (2, 40)
    assert (rows.confidence[:, 1:] <= rows.confidence[:, :-1]).all()
    assert (rows.sigma >= 0).all()
    matched = rows.confidence > 0
    assert (rows.keypoints0[matched] >= 8).all()  # the first row and column do not match


def test_teacher_differs_in_the_first_convolution_only():
    student, teacher = (StfmNet(preset("small", channels)).state_dict() for channels in (3, 4))
    differing = {name for name in student if student[name].shape != teacher[name].shape}
    assert differing == {"backbone.stage2.0.conv3", "backbone.stage2.0.conv1"}


def test_images_of_two_sizes_match():
    network = random_network()
    with torch.inference_mode():
        rows = network(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 96, 64), k=16)
    assert rows.keypoints1.shape == (1, 16, 2)


def test_swapping_the_images_swaps_the_coarse_matches():
    network = random_network()
    a, b = torch.rand(2, 1, 3, 96, 96)
    with torch.inference_mode():
        (ca, _), (cb, _) = network.features(a), network.features(b)
        f0, f1 = network.transformer(ca, cb)
        g1, g0 = network.transformer(cb, ca)
        torch.testing.assert_close(f0, g0, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(network.head(f0, f1), network.head(g1, g0).transpose(1, 2), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_fused_equals_unfused(name):
    network = random_network(name)
    fused = fuse(network)
    assert not any(isinstance(m, (RepConv, torch.nn.BatchNorm2d)) for m in fused.modules())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for found, expected in zip(fused.features(image), network.features(image), strict=True):
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_fused_kernel_is_the_sum_of_the_branches():
    block = RepConv(8, 8).eval()
    x = torch.rand(1, 8, 12, 12)
    branches = torch.nn.functional.conv2d(x, block.conv3, padding=1) + torch.nn.functional.conv2d(x, block.conv1)
    branches = branches + x * block.identity[:, None, None]
    torch.testing.assert_close(block(x), torch.relu(block.norm(branches)), atol=1e-5, rtol=1e-5)


def mutual_nearest(p, inner0, inner1):
    """Of a dual-softmax matrix, one entry at a time."""
    best = p.argmax(1)
    return {
        (i, int(j)): float(p[i, j])
        for i, j in enumerate(best)
        if int(p[:, j].argmax()) == i and inner0[i] and inner1[j]
    }


def selected(f0, f1, k, height0, height1, bound=None):
    bound = (f0 @ f1.T).amax() if bound is None else bound
    inner0, inner1 = (inner_cells(height, len(f) // height) for f, height in ((f0, height0), (f1, height1)))
    turns0 = turns(height0, len(f0) // height0)
    conf, i_ids, j_ids = select_matches(f0, f1, bound, inner0, inner1, turns0, k)
    assert (conf.diff() <= 0).all()  # best first
    found = {(int(i), int(j)): float(c) for c, i, j in zip(conf, i_ids, j_ids, strict=True) if c > 0}
    scores = f0 @ f1.T
    return found, mutual_nearest(scores.softmax(0) * scores.softmax(1), inner0, inner1)


@pytest.mark.parametrize("entries", [2**21, 100])  # in one block, in many
def test_selected_matches_are_mutual_nearest_neighbours_best_first(entries, monkeypatch):
    monkeypatch.setattr(coarse, "BLOCK", entries)
    torch.manual_seed(1)
    f0, f1 = torch.randn(24, 16) * 1.5, torch.randn(35, 16) * 1.5
    found, expected = selected(f0, f1, 24, 4, 5)
    assert len(expected) > 5
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_bound_far_above_changes_no_match():
    torch.manual_seed(2)
    f0, f1 = torch.randn(24, 16), torch.randn(24, 16)
    near, _ = selected(f0, f1, 24, 4, 4)
    far, _ = selected(f0, f1, 24, 4, 4, (f0 @ f1.T).amax() + 20)
    assert far == pytest.approx(near, rel=1e-3)


def test_of_more_than_may_come_out_the_sure_ones_take_turns_and_the_others_follow_by_confidence():
    torch.manual_seed(3)
    f0 = torch.randn(48, 16)
    f1 = f0 + 0.3 * torch.randn(48, 16)
    turn = turns(6, 8)
    for factor, most in ((0.5, 8), (0.3, 15)):  # more sure ones than that, and fewer
        found, expected = selected(factor * f0, factor * f1, most, 6, 6)
        sure = {cells for cells, confidence in expected.items() if confidence >= SURE}
        assert (len(sure) > most) == (factor == 0.5) and len(expected) > most
        first = sorted(expected, key=lambda cells: -expected[cells] - turn[cells[0]] * (cells in sure))
        assert found == pytest.approx({cells: expected[cells] for cells in first[:most]}, rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7)])
def test_cells_whose_turn_has_come_are_spread_over_the_image(height, width):
    turn = turns(height, width).view(height, width)
    for y, x in itertools.product(range(height - 1), range(width - 1)):
        assert sorted(turn[y : y + 2, x : x + 2].flatten().tolist()) == [0, 1, 2, 3]
        assert (turn[y : y + 2, x : x + 2] >= 2).sum(1).tolist() == [1, 1]  # a half of the cells: one in every row


def test_windows_are_centred_on_the_cell():
    config = dataclasses.replace(preset("small"), d_fine=2, fine_heads=1)
    stage = FineStage(config)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    with torch.no_grad():
        stage.merge.weight.copy_(torch.eye(2, 4))
        stage.merge.bias.zero_()
    cell = torch.tensor([3 * 12 + 5])  # row 3, column 5 of a coarse grid of 8 x 12
    window = stage.windows(torch.stack([x, y], 2)[None], torch.zeros(1, 96, 96), torch.tensor([0]), cell, 12)
    assert window.shape == (1, 49, 2)
    assert window[0, 24].tolist() == [20.0, 12.0]
    assert window[0, 0].tolist() == [17.0, 9.0]


def ramps(height: int = 24, width: int = 32) -> torch.Tensor:
    """A map (1, height, width, 2) whose tokens are their own places, x and y."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([x, y], 2)[None]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(4, 27), st.integers(4, 19))
def test_a_window_between_the_steps_is_the_maps_own_values_there(seed, x, y):
    shift = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (1, 2)).astype(np.float32))
    window = crop_between(ramps(), torch.tensor([0]), torch.tensor([[x, y]]), shift, 3)
    dy, dx = torch.meshgrid(torch.arange(-1.0, 2), torch.arange(-1.0, 2), indexing="ij")
    expected = torch.stack([dx.flatten(), dy.flatten()], 1) + torch.tensor([x, y]) + shift
    torch.testing.assert_close(window[0], expected, atol=1e-4, rtol=0)


def test_beyond_the_border_a_window_repeats_what_is_inside():
    whole, inside = crop(ramps(), torch.tensor([0]), torch.tensor([[0, 23]]), 3)
    assert whole[0, :, 0].tolist() == [0, 0, 1] * 3 and whole[0, :, 1].tolist() == [22] * 3 + [23] * 6
    assert inside[0].tolist() == [False, True, True, False, True, True, False, False, False]
    corner = torch.tensor([[-0.5, 0.25]])
    between = crop_between(ramps(), torch.tensor([0]), torch.tensor([[0, 23]]), corner, 3)
    assert between.min() >= 0 and between[0, :, 1].max() <= 23


def test_an_untrained_head_leaves_a_match_where_the_heatmap_found_it():
    network = StfmNet(preset("tiny")).eval()
    plain = copy.deepcopy(network)
    plain.config = dataclasses.replace(network.config, closer_looks=0)
    images = torch.rand(2, 1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(network(*images, k=20).keypoints1, plain(*images, k=20).keypoints1)


@pytest.mark.parametrize(("looks", "bound_px"), [(0, 2.0), (2, 0.25)])
def test_what_all_matches_of_a_moved_picture_err_alike(looks, bound_px):
    with BagReader(Path(runtimes.__file__).parents[1] / "data" / "demo.mcap") as bag:
        _, message, _ = next(iter(bag.messages([bag.find_topic(IMAGE_TYPES)])))
    image = decode_image(message)[:320, :448]
    network, _ = load_network(find_model("default").weights)
    network.config = dataclasses.replace(network.config, closer_looks=looks)
    worst = 0.0
    for move in ((1.5, -1.0), (2.5, 2.0), (6.2, 1.4)):
        moved = cv2.warpAffine(image, np.float32([[1, 0, move[0]], [0, 1, move[1]]]), (448, 320), flags=cv2.INTER_CUBIC)
        pictures = [torch.from_numpy(x.transpose(2, 0, 1)[None] / np.float32(255)) for x in (image, moved)]
        with torch.inference_mode():
            rows = network(*pictures, k=512)
        good = rows.confidence[0] > 0.5
        error = (rows.keypoints1 - rows.keypoints0)[0, good] - torch.tensor(move)
        assert good.sum() > 200
        worst = max(worst, float(error.median(0).values.abs().max()))
    assert (0.25 if looks == 0 else 0.0) < worst < bound_px  # looking closer is what makes it small


def test_expectation_and_variance_of_a_peaked_heatmap():
    stage = FineStage(dataclasses.replace(preset("small"), fine_layers=0))
    window0, window1 = torch.zeros(1, 49, 32), torch.zeros(1, 49, 32)
    window0[0, 24, 0] = 100.0
    window1[0, 3 * 7 + 5, 0] = window1[0, 3 * 7 + 6, 0] = 100.0  # two and three steps to the right
    expectation, variance, log_heatmap = stage(window0, window1)
    assert expectation[0].tolist() == pytest.approx([2.5, 0.0], abs=1e-4)
    assert variance[0].tolist() == pytest.approx([0.25, 0.0], abs=1e-4)
    assert float(log_heatmap.exp().sum()) == pytest.approx(1.0)


def test_linear_attention_equals_its_quadratic_form_head_by_head():
    q, k, v = torch.randn(3, 2, 9, 12)
    heads = []
    for part in range(3):
        q_, k_, v_ = (x[:, :, 4 * part : 4 * part + 4] for x in (q, k, v))
        weights = (torch.nn.functional.elu(q_) + 1) @ (torch.nn.functional.elu(k_) + 1).transpose(1, 2)
        heads.append(weights / weights.sum(2, keepdim=True) @ v_)
    torch.testing.assert_close(linear_attention(q, k, v, 3), torch.cat(heads, 2), atol=1e-4, rtol=1e-4)


def test_the_centre_alone_of_the_last_look_across_is_the_whole_look():
    torch.manual_seed(4)
    stage = FineStage(preset("small"))
    window0, window1 = torch.randn(2, 5, 49, 32)
    expectation, _, _ = stage(window0, window1)
    whole0, whole1 = alternate(stage.layers, window0, window1, symmetric=True)
    scores = (whole1 @ whole0[:, 24, :, None])[:, :, 0] / 32**0.5
    torch.testing.assert_close(expectation, scores.softmax(1) @ stage.grid, atol=1e-5, rtol=1e-5)


def test_rotary_products_depend_on_the_offset_only():
    cos, sin = rotary_tables(16, 6, 6)
    q, k = torch.randn(2, 16)
    grid = lambda y, x: y * 6 + x  # noqa: E731
    products = [
        float((rotate(q[None], cos[a : a + 1], sin[a : a + 1]) * rotate(k[None], cos[b : b + 1], sin[b : b + 1])).sum())
        for a, b in ((grid(0, 0), grid(2, 1)), (grid(3, 4), grid(5, 5)))
    ]
    assert products[0] == pytest.approx(products[1], abs=1e-4)


def test_the_published_sine_slip_is_reproduced_and_not_the_default():
    right, slip = sine_encoding(16, 3, 4), sine_encoding(16, 3, 4, published_slip=True)
    assert not torch.allclose(right, slip)
    torch.testing.assert_close(right[0, 0], torch.sin(torch.arange(1.0, 5.0)))


def test_wrong_channels_and_sizes_are_refused():
    network = random_network()
    with pytest.raises(
        ImageError, match=r"takes 3 channels and sizes that are multiples of 32, got 4 channels at 96x64"
    ):
        network.features(torch.rand(1, 4, 64, 96))
    with pytest.raises(ImageError, match="got 3 channels at 100x64; fit the image first"):
        network.features(torch.rand(1, 3, 64, 100))
    with pytest.raises(ConfigError, match="there is no preset 'huge'; choose one of tiny, small, medium, paper"):
        preset("huge")


def test_weights_round_trip_and_refusals(tmp_path):
    network = random_network()
    path = tmp_path / "w.safetensors"
    digest = save_weights(network, path, {"data": "none"})
    loaded, found = load_network(path, "small")
    assert digest == found
    for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(WeightsError, match="holds weights of preset 'small', expected 'medium'; choose that preset"):
        load_network(path, "medium")
    with pytest.raises(WeightsError, match="there are no weights at"):
        load_network(tmp_path / "none.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="its header says .*: damaged"):
        load_network(path)
    path.write_bytes(data[:100])
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        load_network(path)
