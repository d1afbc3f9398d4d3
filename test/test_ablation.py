"""What distillation is for: a student can learn from its teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs .[train]")

from stfm_ros.model.weights import load_network
from stfm_training.ablation import Run, Setup, make_pool, stream, train, validate
from stfm_training.render import photographs as read_photographs
from stfm_training.sources.rendered import Rendered

#: of 800 steps on rendered pairs; nothing here was seen by it
TEACHER = Path(__file__).parent / "data" / "tiny_teacher.safetensors"
STEPS = 40
UNSEEN = 10**6


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(900)
def test_what_the_teacher_says_is_enough_to_learn_from(photographs: Path) -> None:
    """Both distillation losses and no other: the truth only tells which windows the fine stage looks at."""
    setup = Setup(height=64, width=96, pool=64)
    pictures = read_photographs(photographs)
    pool = make_pool(Rendered(pictures[1:], plain=True), setup)
    unseen = make_pool(Rendered(pictures[:1], plain=True), replace(setup, pool=32), UNSEEN)
    held_back = list(stream(unseen, setup, 4, UNSEEN))
    teacher, _ = load_network(TEACHER)
    student = Run(setup, replace(setup.distilled, coarse=0.0, fine=0.0), STEPS, seed=0, teacher=teacher)
    before = validate(student.average, held_back, setup.plain)
    curves = train({"": student}, stream(pool, setup, STEPS, seed=0), STEPS, "", held_back, setup.plain, every=STEPS)
    after = curves[""][-1]
    print(before, after)
    # without L_MQD cells get no better, without L_att the fine stage gets to 0.46 of where it began
    assert after["coarse_accuracy"] > 1.4 * before["coarse_accuracy"]
    assert after["fine_px"] < 0.43 * before["fine_px"]
