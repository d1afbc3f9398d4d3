"""What distillation is for: students that learn from a teacher are better ones after as many steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs .[train]")

from stfm_ros.model.weights import load_network
from stfm_training.ablation import Run, Setup, make_pool, stream, train
from stfm_training.render import photographs as read_photographs
from stfm_training.sources.rendered import Rendered

#: of 800 steps on rendered pairs; nothing here was seen by it
TEACHER = Path(__file__).parent / "data" / "tiny_teacher.safetensors"
STEPS = 120
UNSEEN = 10**6


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(1800)
def test_distilled_students_are_better_than_vanilla_ones_in_the_mean_of_three_seeds(photographs: Path) -> None:
    setup = Setup(height=64, width=96, pool=400, student_steps=STEPS)
    pictures = read_photographs(photographs)
    pool = make_pool(Rendered(pictures[1:], plain=True), setup)
    unseen = make_pool(Rendered(pictures[:1], plain=True), Setup(height=64, width=96, pool=64), UNSEEN)
    held_back = list(stream(unseen, setup, 8, UNSEEN))
    teacher, _ = load_network(TEACHER)
    gains = []
    for seed in range(3):
        students = {
            "vanilla": Run(setup, setup.plain, STEPS, seed),
            "distilled": Run(setup, setup.distilled, STEPS, seed, teacher=teacher),
        }
        batches = stream(pool, setup, STEPS, seed)
        curves = train(students, batches, STEPS, f"seed {seed}", held_back, setup.plain, every=STEPS)
        accuracy = {name: curve[-1]["coarse_accuracy"] for name, curve in curves.items()}
        print(accuracy)
        gains.append(accuracy["distilled"] - accuracy["vanilla"])
    assert np.mean(gains) > 0, gains
