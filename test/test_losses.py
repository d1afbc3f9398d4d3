"""The losses: values that can be told beforehand, where gradients go, and what each makes a student do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_training.losses.attentive import AttentiveLoss, PublicAttentiveLoss
from stfm_training.losses.coarse import FocalCoarseLoss
from stfm_training.losses.dual_softmax import dual_log_sum_exp
from stfm_training.losses.fine import FineLoss
from stfm_training.losses.query_divergence import MutualQueryDivergence, PublicQueryDivergence
from stfm_training.losses.subpixel import SubpixelLoss


def test_dual_log_sum_exp_has_the_gradient_of_torch():
    similarity = (torch.randn(2, 20, 15, dtype=torch.float64) * 10).requires_grad_()
    gradients = []
    for row, col in (dual_log_sum_exp(similarity), (similarity.logsumexp(2), similarity.logsumexp(1))):
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


def test_subpixel_loss_is_least_at_the_median_and_the_mean_distance_from_it():
    target = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    weight = torch.ones(3)
    offset, log_b = torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([offset, log_b], 0.05)
    for _ in range(400):
        optimiser.zero_grad()
        SubpixelLoss()(offset.expand(3, 2), log_b.expand(3), target, weight).backward()
        optimiser.step()
    assert offset.tolist() == pytest.approx([0.0, 0.0], abs=0.05)
    assert float(log_b.detach().exp()) == pytest.approx(0.5, abs=0.05)  # (1 + 0 + 2 + 0 + 0 + 0) / 6


def test_subpixel_loss_ignores_what_is_out_of_reach_and_imprecise_truth():
    offset, log_b = torch.zeros(3, 2), torch.zeros(3)
    target = torch.tensor([[0.5, 0.5], [3.0, 0.0], [1.0, 1.0]])
    assert float(SubpixelLoss()(offset, log_b, target, torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(1.0)


def similarities(seed: int, scale: float = 6.0, n0: int = 12, n1: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, n0, n1, generator=generator, dtype=torch.float64)


def true_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over all queries of both images, spelled out with torch's own KL."""
    total, queries = torch.zeros((), dtype=student.dtype), 0
    for dim in (2, 1):
        kl = torch.nn.functional.kl_div(
            (student / temperature).log_softmax(dim), (teacher / temperature).softmax(dim), reduction="none"
        ).sum(dim)
        total, queries = total + kl.sum(), queries + kl.numel()
    return total / queries


@given(st.integers(0, 1000), st.sampled_from([1.0, 2.0, 5.0]), st.sampled_from([0.0, 2.0]))
@settings(max_examples=30)
def test_query_divergence_is_nought_without_a_gradient_where_student_and_teacher_agree(seed, temperature, gamma):
    student = similarities(seed).requires_grad_()
    loss = MutualQueryDivergence(temperature, gamma)(student, student.detach().clone())
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-9)
    assert float(gradient.abs().max()) < 1e-9


@given(st.integers(0, 1000), st.sampled_from([1.0, 2.0, 5.0]))
@settings(max_examples=30)
def test_query_divergence_is_the_kl_of_every_row_and_column(seed, temperature):
    student, teacher = similarities(seed), similarities(seed + 1)
    loss = MutualQueryDivergence(temperature, gamma=0.0)(student, teacher)
    assert float(loss) == pytest.approx(temperature**2 * float(true_divergence(student, teacher, temperature)))
    # invariant to what a softmax does not see: each query sums to one whatever is added to all of its scores
    assert float(MutualQueryDivergence(temperature, 0.0)(student + 3.0, teacher - 7.0)) == pytest.approx(float(loss))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_step_on_the_query_divergence_lowers_the_true_one(gamma):
    student, teacher = similarities(3).requires_grad_(), similarities(4)
    loss = MutualQueryDivergence(2.0, gamma)(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    before = true_divergence(student.detach(), teacher, 2.0)
    after = true_divergence(student.detach() - 0.5 * gradient, teacher, 2.0)
    assert after < before


def test_the_teacher_gets_no_gradient_from_the_query_divergence():
    student, teacher = similarities(3).requires_grad_(), similarities(4).requires_grad_()
    MutualQueryDivergence()(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


def test_focal_weights_fade_out_what_the_student_knows():
    teacher = torch.zeros(1, 4, 4, dtype=torch.float64)
    teacher[0].fill_diagonal_(8.0)
    knows = (teacher * 3).requires_grad_()
    shares = []
    for gamma in (0.0, 2.0):
        (gradient,) = torch.autograd.grad(MutualQueryDivergence(2.0, gamma)(knows, teacher), knows)
        shares.append(float(gradient.abs().sum()))
    assert shares[1] < 0.01 * shares[0]


def test_dark_knowledge_passes_the_patents_divergence_and_hardly_the_public_codes():
    """Gradient on entries that are no true match, as a share of that on true ones."""
    teacher = similarities(1, scale=3.0, n0=40, n1=40)
    cells = torch.arange(40).repeat(2, 1)
    true = torch.eye(40, dtype=torch.bool).repeat(2, 1, 1)
    teacher[true] += 12
    shares = []
    for loss in (MutualQueryDivergence(gamma=0.0), PublicQueryDivergence()):
        student = (teacher + similarities(2, scale=1.0, n0=40, n1=40)).requires_grad_()
        value = loss(student, teacher) if isinstance(loss, MutualQueryDivergence) else loss(student, teacher, cells)
        (gradient,) = torch.autograd.grad(value, student)
        shares.append(float(gradient[~true].norm() / gradient.norm()))
    assert shares[1] < shares[0]


def test_the_attentive_gradient_falls_as_the_teacher_grows_unsure():
    student = torch.zeros(4, 2, requires_grad=True)
    teacher = torch.ones(4, 2)
    variance = torch.tensor([0.6, 1.0, 2.0, 4.0])[:, None].square().repeat(1, 2) / 2
    AttentiveLoss()(student, teacher, variance, torch.ones(4)).backward()
    size = student.grad.norm(dim=1)
    assert (size[1:] < size[:-1]).all()
    np.testing.assert_allclose(size[0] / size[3], (4.0 / 0.6) ** 2, rtol=1e-4)  # 1 / sigma_T^2


def test_the_attentive_gradient_of_a_sure_teacher_does_not_explode():
    def largest(sigma: float) -> float:
        student = torch.zeros(2, 2, requires_grad=True)
        variance = torch.tensor([[sigma**2 / 2] * 2, [0.5, 0.5]])
        AttentiveLoss()(student, torch.ones(2, 2), variance, torch.ones(2)).backward()
        return float(student.grad.norm(dim=1).max())

    assert largest(0.001) == pytest.approx(largest(0.5))  # held to the smallest sigma
    assert largest(0.001) < 2 * largest(0.8)


def test_the_public_codes_attentive_loss_weights_the_unsure_more():
    student = torch.zeros(2, 2, requires_grad=True)
    variance = torch.tensor([[0.1, 0.1], [2.0, 2.0]])
    PublicAttentiveLoss(7)(student, torch.ones(2, 2), variance, torch.ones(2)).backward()
    assert student.grad[1].norm() > 10 * student.grad[0].norm()


def test_losses_of_nothing_are_nought():
    nothing = torch.zeros(0, 2)
    assert float(AttentiveLoss()(nothing, nothing, nothing, torch.zeros(0))) == 0
    assert float(FineLoss(7)(nothing, nothing, torch.zeros(0, 49), nothing, torch.zeros(0))) == 0
    none = torch.full((1, 6), -1)
    nowhere = torch.zeros(1, 6, dtype=torch.bool)
    assert float(FocalCoarseLoss()(torch.randn(1, 6, 6), none, nowhere, nowhere)) == 0
