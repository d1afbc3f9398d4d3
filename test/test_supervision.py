"""Ground truth on the coarse grid, the losses, and that training on them learns."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_training.batches import Batches, Size
from stfm_training.losses import FineLoss, FocalCoarseLoss, _DualLogSumExp
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Pair
from stfm_training.supervision import (
    MATCHED,
    UNKNOWN,
    UNMATCHED,
    grid,
    mutual_cells,
    warp_by_depth,
    warp_by_homography,
)

K = np.array([[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]])


def shifted(x: float, z: float = 2.0) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x * z / K[0, 0]
    return T


def test_a_plane_seen_from_the_side_shifts_by_whole_cells():
    depth = np.full((64, 96), 2.0, np.float32)
    warp01 = warp_by_depth(depth, K, depth, K, shifted(16.0))
    warp10 = warp_by_depth(depth, K, depth, K, shifted(-16.0))
    inside = grid(64, 96)[:, 0] + 16 < 95.5
    assert (warp01.state[inside] == MATCHED).all()
    assert (warp01.state[~inside] == UNMATCHED).all()
    np.testing.assert_allclose(warp01.points - grid(64, 96), np.tile([16.0, 0.0], (96, 1)), atol=1e-3)
    cells = mutual_cells(warp01, warp10, 96, 96)
    assert (cells[inside] == np.flatnonzero(inside) + 2).all()
    assert (cells[~inside] == -1).all()


def test_a_hidden_point_is_unmatched_and_missing_depth_is_unknown():
    far, near = np.full((64, 96), 4.0, np.float32), np.full((64, 96), 4.0, np.float32)
    near[:, 48:] = 1.0
    hole = far.copy()
    hole[:32] = 0
    state = warp_by_depth(far, K, near, K, np.eye(4)).state.reshape(8, 12)
    assert (state[:, :6] == MATCHED).all() and (state[:, 6:] == UNMATCHED).all()
    state = warp_by_depth(hole, K, far, K, np.eye(4)).state.reshape(8, 12)
    assert (state[:4] == UNKNOWN).all() and (state[4:] == MATCHED).all()


@given(st.floats(-1.5, 1.5), st.floats(0.8, 1.3), st.floats(-20, 20), st.floats(-20, 20))
@settings(max_examples=40, deadline=None)
def test_mutual_cells_of_a_homography_are_mutual(angle, zoom, dx, dy):
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)
    H = np.array([[c, -s, dx], [s, c, dy], [0, 0, 1.0]])
    known = np.ones((64, 96), bool)
    warp01 = warp_by_homography(H, known, known)
    warp10 = warp_by_homography(np.linalg.inv(H), known, known)
    forward, backward = mutual_cells(warp01, warp10, 96, 96), mutual_cells(warp10, warp01, 96, 96)
    matched = np.flatnonzero(forward >= 0)
    assert (backward[forward[matched]] == matched).all()
    assert len(set(forward[matched])) == len(matched)
    target = grid(64, 96)[forward[matched]]
    assert (np.abs(warp01.points[matched] - target) <= 4.0 + 1e-3).all()


def test_dual_log_sum_exp_has_the_gradient_of_torch():
    similarity = (torch.randn(2, 20, 15, dtype=torch.float64) * 10).requires_grad_()
    gradients = []
    for row, col in (_DualLogSumExp.apply(similarity), (similarity.logsumexp(2), similarity.logsumexp(1))):
        gradients += torch.autograd.grad((row**2).sum() + (3 * col).sum(), similarity)
    torch.testing.assert_close(*gradients)


def test_coarse_loss_is_small_for_the_truth_and_large_for_another():
    truth = torch.full((1, 6, 6), -20.0)
    truth[0, range(5), range(5)] = 20.0
    cells = torch.tensor([[0, 1, 2, 3, 4, -1]])
    unmatched = torch.tensor([[False] * 5 + [True]])
    loss = FocalCoarseLoss()
    right = float(loss(truth, cells, unmatched, unmatched))
    wrong = float(loss(truth.roll(1, 2), cells, unmatched, unmatched))
    assert right < 1e-3 < 5.0 < wrong
    confident = truth.clone()
    confident[0, 5, 5] = 20.0  # a confident match where there is none
    assert float(loss(confident, cells, unmatched, unmatched)) > right + 1.0


def test_fine_loss_ignores_offsets_outside_the_window_and_imprecise_truth():
    loss = FineLoss(7)
    expectation, variance = torch.zeros(3, 2), torch.full((3, 2), 0.25)
    log_heatmap = torch.full((3, 49), 1 / 49.0).log()
    target = torch.tensor([[0.5, 0.0], [5.0, 0.0], [2.0, 2.0]])
    every = loss(expectation, variance, log_heatmap, target, torch.tensor([1.0, 1.0, 0.0]))
    first = loss(expectation[:1], variance[:1], log_heatmap[:1], target[:1], torch.ones(1))
    assert float(every) == pytest.approx(float(first))


def test_fine_loss_does_not_reward_a_large_variance():
    variance = torch.full((2, 2), 0.25, requires_grad=True)
    expectation = torch.zeros(2, 2, requires_grad=True)
    loss = FineLoss(7, heatmap_weight=0.0)
    value = loss(expectation, variance, torch.zeros(2, 49), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.ones(2))
    value.backward()
    assert variance.grad is None
    assert expectation.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(17):
        noise = sum(
            cv2.resize(rng.random((n, n, 3), np.float32), (400, 300), interpolation=cv2.INTER_CUBIC)
            for n in (8, 24, 70)
        )
        cv2.imwrite(str(folder / f"{i:02d}.png"), (noise / 3 * 255).clip(0, 255).astype(np.uint8))
    return folder


def test_homography_pairs_agree_with_their_warp(photographs):
    source = Homographies(photographs)
    for seed in range(5):
        pair = source.pair(np.random.default_rng(seed), 0.3, 128, 160)
        where = pair.warp01.state == MATCHED
        at0, at1 = grid(128, 160)[where].astype(int), np.rint(pair.warp01.points[where]).astype(int)
        value0, value1 = (
            image[at[:, 1], at[:, 0]].astype(float) for image, at in ((pair.image0, at0), (pair.image1, at1))
        )
        assert np.median(np.abs(value0 - value1)) < 12


def test_validation_photographs_are_not_trained_on(photographs):
    training, validation = Homographies(photographs), Homographies(photographs, validation=True)
    assert (len(training.photos), len(validation.photos)) == (15, 2)


def test_a_batch_is_a_function_of_seed_and_step(photographs):
    batches = Batches([(Homographies(photographs), 1.0)], [Size(64, 96, 2)], seed=3, ramp_steps=10, steps=100)
    first, again, other = batches[5], batches[5], batches[6]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.image0, other.image0)
    assert first.cells.shape == (2, 96) and (first.cells >= 0).sum() >= 32


class TwoPairs:
    """The same two pairs again and again."""

    def __init__(self, folder):
        source = Homographies(folder)
        self.pairs = [source.pair(np.random.default_rng(seed), 0.2, 96, 96) for seed in (1, 2)]

    def pair(self, rng, difficulty, height, width) -> Pair:
        return self.pairs[int(rng.integers(2))]


def test_two_pairs_can_be_learned_by_heart_and_the_run_resumed(photographs, tmp_path):
    from stfm_training.supervised import TrainConfig, Trainer

    torch.manual_seed(0)
    config = TrainConfig(
        data="", out=str(tmp_path), preset="small", steps=220, warmup=20, pairs=2, ramp_steps=1, workers=0,
        checkpoint_every=200, fine_jitter_px=0.0, lr=2e-3,
    )  # fmt: skip
    trainer = Trainer(config)
    source = TwoPairs(photographs)
    batches = Batches([(source, 1.0)], [Size(96, 96, 2)], 0, 1, 220)
    torch.set_num_threads(2)
    figures = [trainer.train_step(batches[step]) for step in range(220)]
    last = figures[-20:]
    assert np.mean([f["coarse_accuracy"] for f in last]) > 0.9
    assert np.nanmean([f["fine_px"] for f in last]) < 0.6
    assert last[-1]["loss_c"] < 0.25 * figures[0]["loss_c"]
    trainer.save()
    again = Trainer(config)
    again.resume()
    assert again.step == 220
    for a, b in zip(trainer.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(trainer.average.state_dict().values(), again.average.state_dict().values(), strict=True):
        assert torch.equal(a, b)
