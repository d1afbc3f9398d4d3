"""Batches, the objective with and without a teacher, and that training on it learns."""

import copy

import numpy as np
import pytest
import torch

from stfm_ros.errors import ConfigError
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.subpixel import REACH
from stfm_training.batches import Batch, Batches
from stfm_training.config import LossConfig, OptimiserConfig, checked, read_config
from stfm_training.module import TrainingModule, in_bfloat16
from stfm_training.objective import NEAR, Objective, network_input
from stfm_training.optimiser import make_optimiser, update_average
from stfm_training.run import with_depth
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.rendered import Rendered
from stfm_training.supervision import MATCHED, grid

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = LossConfig(divergence=0.0, attentive=0.0, fine_matches=64)
DISTIL = LossConfig(fine_matches=64)


def network(seed: int = 0, channels: int = 3) -> StfmNet:
    torch.manual_seed(seed)
    return StfmNet(preset("tiny", channels))


def train(objective: Objective, batches: list[Batch], steps: int, lr: float = 3e-3) -> list[dict[str, float]]:
    """Figures of every step on the same few batches."""
    optimiser, schedule = make_optimiser(objective.network, OptimiserConfig(steps=steps, lr=lr, warm_up=0.1))
    seen = []
    for step in range(steps):
        losses, figures = objective(batches[step % len(batches)])
        optimiser.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(objective.network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        seen.append({name: float(value.detach()) for name, value in {**losses, **figures}.items()})
    return seen


@pytest.fixture(scope="module")
def scenes() -> Batch:
    """Two pairs of rendered scenes, with depth."""
    return Batches([(Rendered([]), 1.0)], 96, 96, pairs=2, seed=5, ramp_steps=100)[0]


# -- data ---------------------------------------------------------------------------------------------


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
        assert not pair.depth0.any()


def test_validation_photographs_are_not_trained_on(photographs):
    training, validation = Homographies(photographs), Homographies(photographs, validation=True)
    assert (len(training.photos), len(validation.photos)) == (15, 2)


def test_a_batch_is_a_function_of_seed_and_step(photographs):
    batches = Batches([(Homographies(photographs), 1.0)], 64, 96, pairs=2, seed=3, ramp_steps=10)
    first, again, other = batches[5], batches[5], batches[6]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.image0, other.image0)
    assert first.cells.shape == (2, 96) and (first.cells >= 0).sum() >= 32


def test_processes_share_the_pairs_of_a_batch(photographs):
    mix = [(Homographies(photographs), 1.0)]
    whole = Batches(mix, 64, 96, pairs=4, seed=3, ramp_steps=10)[7]
    parts = [Batches(mix, 64, 96, pairs=4, seed=3, ramp_steps=10, rank=rank, world=2)[7] for rank in range(2)]
    for field in Batch._fields[:-1]:
        for rank, part in enumerate(parts):
            assert torch.equal(getattr(whole, field)[rank::2], getattr(part, field))


@pytest.mark.parametrize(("mixed", "lowest"), [(0.0, 1.0), (1.0, 0.3)])
def test_a_share_of_the_pairs_is_of_any_difficulty_up_to_that_of_the_step(photographs, mixed, lowest):
    class Watched(Homographies):
        def pair(self, rng, difficulty, height, width):
            asked.append(difficulty)
            return super().pair(rng, difficulty, height, width)

    asked: list[float] = []
    batches = Batches([(Watched(photographs), 1.0)], 64, 96, pairs=8, seed=3, ramp_steps=10, mixed=mixed)
    batches[10]
    assert all(lowest <= difficulty <= 1.0 for difficulty in asked)
    assert max(asked) - min(asked) >= 0.5 * mixed


def test_a_teachers_pairs_lose_their_colours_in_part():
    mix = [(Rendered([]), 1.0)]
    batches = [Batches(mix, 96, 96, pairs=8, seed=5, ramp_steps=100, blank=blank)[0] for blank in (0.0, 0.5)]
    blank = (batches[1].image0 == 0).flatten(1).all(1)
    assert 0 < blank.sum() < 8
    assert torch.equal(batches[0].image0[~blank], batches[1].image0[~blank])
    for name in ("depth0", "cells", "chance"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    with_depth = (batches[1].depth0 > 0).flatten(1).any(1)
    assert with_depth[blank].all()


def test_the_teachers_fourth_channel_is_depth_in_tens_of_metres(scenes):
    image = network_input(network(channels=4), scenes)
    assert image.shape == (4, 4, 96, 96)
    torch.testing.assert_close(image[:, 3] * 10, torch.cat([scenes.depth0, scenes.depth1]))
    assert scenes.depth0.max() > 0.5
    assert network_input(network(), scenes).shape == (4, 3, 96, 96)


# -- the objective ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_pairs_can_be_learned_by_heart(scenes):
    seen = train(Objective(network().train(), PLAIN, bf16=False), [scenes], 140)
    last = {name: np.mean([line[name] for line in seen[-10:]]) for name in seen[-1]}
    assert last["coarse_accuracy"] > 0.98
    assert last["fine_px"] < 0.3


def test_a_student_step_leaves_the_teacher_as_it_is(scenes):
    teacher = network(1, channels=4).train()
    teacher.requires_grad_(True)
    before = copy.deepcopy(teacher.state_dict())
    objective = Objective(network().train(), DISTIL, teacher, bf16=False).train()
    train(objective, [scenes], 2)
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_learns_from_teacher_and_truth_by_five_terms(scenes):
    objective = Objective(network().train(), DISTIL, network(1, channels=4), bf16=False)
    losses, _ = objective(scenes)
    assert list(losses) == ["loss_c", "loss_f", "loss_s", "loss_mqd", "loss_att"]
    last = objective.network.fine.subpixel.mlp[-1]
    (gradient,) = torch.autograd.grad(losses.pop("loss_s"), [last.weight], retain_graph=True)
    assert gradient.abs().sum() > 0  # it begins at zero, so that nothing behind it has a gradient yet
    for term in losses.values():
        (kernel,) = torch.autograd.grad(term, [objective.network.backbone.stage2[0].conv3], retain_graph=True)
        assert kernel.isfinite().all() and kernel.abs().sum() > 0
    doubled = Objective(objective.network, LossConfig(divergence=0.5, attentive=2.0, fine_matches=64),
                        objective.teacher.network, bf16=False)(scenes)[0]  # fmt: skip
    for name in ("loss_mqd", "loss_att"):
        torch.testing.assert_close(doubled[name], 2 * losses[name])


@pytest.mark.parametrize(("divergence", "attentive", "names"), [
    (0.0, 0.0, ["loss_c", "loss_f", "loss_s"]), (0.3, 0.0, ["loss_c", "loss_f", "loss_s", "loss_mqd"]),
    (0.0, 0.3, ["loss_c", "loss_f", "loss_s", "loss_att"]),
])  # fmt: skip
def test_a_loss_without_a_weight_is_left_out(scenes, divergence, attentive, names):
    config = LossConfig(divergence=divergence, attentive=attentive, fine_matches=64)
    losses, _ = Objective(network().train(), config, network(1, channels=4), bf16=False)(scenes)
    assert list(losses) == names


def test_the_public_codes_variant_gives_other_gradients(scenes):
    teacher = network(1, channels=4)
    values = [
        Objective(network().train(), LossConfig(variant=variant, fine_matches=64), teacher, bf16=False)(scenes)[0]
        for variant in ("patent", "public_code")
    ]
    assert torch.equal(values[0]["loss_c"], values[1]["loss_c"])
    assert not torch.isclose(values[0]["loss_mqd"], values[1]["loss_mqd"], rtol=0.01)
    assert not torch.isclose(values[0]["loss_att"], values[1]["loss_att"], rtol=0.01)


def test_a_teacher_that_is_the_student_has_nothing_to_teach(scenes):
    student = network().eval()
    objective = Objective(student, DISTIL, copy.deepcopy(student), bf16=False).eval()
    losses, _ = objective(scenes)
    assert float(losses["loss_mqd"].detach()) == pytest.approx(0, abs=1e-5)
    assert float(losses["loss_att"].detach()) == pytest.approx(0, abs=1e-5)


def test_the_teacher_refines_at_the_students_own_matches(scenes):
    """With a share of 1, windows lie where the student's best match is, wherever that is near the truth."""
    objective = Objective(network().train(), LossConfig(student_share=1.0, fine_matches=200), bf16=False)
    own = objective.match(objective.network, scenes)
    windows = objective.windows(scenes, own.similarity)
    best = own.similarity.argmax(2)[windows.b_ids, windows.i_ids]
    where = torch.stack([best % 12, best // 12], 1) * 8.0
    near = ((where - scenes.points1[windows.b_ids, windows.i_ids]).abs() <= 6).all(1) & (where > 0).all(1)
    assert near.any()
    assert torch.equal(windows.j_ids[near], best[near])
    assert (windows.target.abs() <= 3 + 1e-4).all()  # the window's radius


def test_a_closer_look_begins_at_the_heatmap_and_near_the_truth(scenes):
    objective = Objective(network().train(), PLAIN, bf16=False)
    own = objective.match(objective.network, scenes)
    windows = objective.windows(scenes, own.similarity)
    elsewhere = torch.full_like(windows.target, 100.0)
    shift, by_heatmap = objective.shift(scenes, windows, elsewhere)
    off = (shift - windows.target).abs().amax(1)
    near = off <= NEAR + 1e-5
    assert torch.equal(by_heatmap, (shift == 100).all(1))
    assert (by_heatmap | (off <= REACH - 1 + 1e-5)).all()
    for share in (by_heatmap, near & ~by_heatmap, ~near & ~by_heatmap):
        assert 0.15 < share.float().mean() < 0.55


def test_the_fine_stage_can_be_trained_alone(photographs):
    config = checked({"mix": [{"source": "homographies", "path": str(photographs)}], "model.preset": "tiny",
                      "model.train": "fine", "loss.fine_matches": 32})  # fmt: skip
    module = TrainingModule(config, network(), None, [], [])
    before = copy.deepcopy(module.network.state_dict())
    batch = Batches([(Homographies(photographs), 1.0)], 64, 96, pairs=2, seed=1, ramp_steps=10)[0]
    train(module.objective, [batch], 3)
    after = module.network.state_dict()
    moved = {".".join(name.split(".")[:2]) for name in after if not torch.equal(after[name], before[name])}
    assert {"backbone.merge2", "backbone.top_down2", "fine.layers", "fine.subpixel"} <= moved
    assert not {"backbone.stage2", "backbone.stage8", "backbone.lateral8", "head.project"} & moved
    assert not any(name.startswith(("transformer", "head")) for name in moved)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_depth_a_teacher_that_learned_from_it_is_worse():
    """Pictures of one colour: depth alone tells where things are; the place alone cannot, for three pairs at once."""
    batch = Batches([(Rendered([]), 1.0)], 96, 96, pairs=3, seed=5, ramp_steps=100)[100]
    grey = batch._replace(image0=torch.full_like(batch.image0, 90), image1=torch.full_like(batch.image1, 90))
    objective = Objective(network(channels=4).train(), PLAIN, bf16=False)
    train(objective, [grey], 120)
    objective.eval()
    blind = grey._replace(depth0=torch.zeros_like(grey.depth0), depth1=torch.zeros_like(grey.depth1))
    with torch.no_grad():
        seeing, unseeing = (float(objective(b)[1]["coarse_accuracy"]) for b in (grey, blind))
    assert seeing > 0.5
    assert unseeing < 0.5 * seeing


def test_a_teacher_can_begin_as_its_student(scenes):
    student = network().eval()
    teacher = with_depth(student).eval()
    with torch.no_grad():
        for own, deep in zip(student.features(network_input(student, scenes)),
                             teacher.features(network_input(teacher, scenes))):  # fmt: skip
            torch.testing.assert_close(own, deep, atol=2e-4, rtol=1e-3)  # sums of four channels are not those of three
    teacher.train()
    losses, _ = Objective(teacher, PLAIN, bf16=False)(scenes)
    losses["loss_c"].backward()
    assert teacher.backbone.stage2[0].conv3.grad[:, 3].abs().sum() > 0  # it can learn to use depth


def test_the_moving_average_follows():
    average, source = network(0), network(1)
    for step in range(1, 400):
        update_average(average, source, 0.99, step)
    for a, b in zip(average.parameters(), source.parameters()):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.1)


@pytest.mark.parametrize(("told", "bf16"), [
    ("flags\t\t: fpu avx2 avx512_bf16 vaes\n", True),
    ("flags\t\t: fpu avx2 avx512bw\n", False),
    ("Features\t: fp asimd i8mm bf16\n", True),
    ("Features\t: fp asimd\n", False),
    ("Model\t\t: bf16\n", False),
])  # fmt: skip
def test_by_itself_a_run_takes_bfloat16_only_where_the_processor_has_it(told, bf16, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: f"processor\t: 0\n{told}")
    assert in_bfloat16("auto") == bf16
    assert in_bfloat16("bf16") and not in_bfloat16("fp32")


# -- the config ---------------------------------------------------------------------------------------


def test_every_fault_of_a_config_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        checked({
            "mix": [{"source": "rendered", "weigth": 1}, {"source": "photos"}, {"source": "recorded"}],
            "optimiser": {"lr": -1.0}, "data.width": 320, "model": {"preset": "huge"},
        })  # fmt: skip
    told = str(caught.value)
    for part in ("mix[0].weigth: unknown setting; did you mean weight?", "mix[1].source: 'photos' is not one of",
                 "optimiser.lr: -1.0 is below the minimum", "model.preset: 'huge' is not one of"):  # fmt: skip
        assert part in told
    with pytest.raises(ConfigError, match=r"mix\[0\].path: recorded needs a path"):
        checked({"mix": [{"source": "recorded"}]})
    with pytest.raises(ConfigError, match="data.width: 300 is no multiple of 32"):
        checked({"mix": [{"source": "rendered"}], "data.width": 300})
    with pytest.raises(ConfigError, match="mix: no source with a weight above 0"):
        checked({})


def test_a_config_survives_its_yaml(tmp_path):
    config = checked({
        "mix": [
            {"source": "rendered", "weight": 2},
            {"source": "recorded", "path": "a.mcap", "precise": False, "recording": {"depth_factor": 0.2}},
        ],
        "loss.divergence": 0.4, "run": {"seed": 7},
    })  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert "- {source: rendered, weight: 2.0}" in path.read_text()  # a source is a line
    assert read_config(path) == config
    assert read_config(path, {"run.seed": 8}).run.seed == 8
