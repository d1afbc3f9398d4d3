"""The report of a training run: figures by hand, wins and losses in words, one page, one record, one card."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros.errors import ConfigError, WeightsError
from stfm_ros.evaluate import Method, WithDepth, auc_gain, pose_auc
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.weights import save_weights
from stfm_ros.pairs import Pair
from stfm_ros.report import render
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray, Matches
from stfm_training.evaluation import TwoViews
from stfm_training.reporting.page import training_page
from stfm_training.reporting.pair_facts import PairFacts, sentence
from stfm_training.reporting.run_folder import RunFolder, commit, read_log
from stfm_training.reporting.verdict import compare, comparisons
from stfm_training.training_report import AFTER, BEFORE, Data, Evaluation, TrainingReport, evaluate_recording
from stfm_training.training_report import write_training_report as write

K = np.array([[200.0, 0, 79.5], [0, 200, 59.5], [0, 0, 1]])
CAMERA = Camera(160, 120, K)


def turn(degrees: float, axis: int) -> FloatArray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    R = np.eye(4)
    a, b = [i for i in range(3) if i != axis]
    R[a, a], R[a, b], R[b, a], R[b, b] = c, -s, s, c
    return R


def pair(motion: FloatArray, overlap: float = 0.6, dark: float = 1.0, number: int = 0) -> Pair:
    """Two views of noise, with depth 2 m; image 1 darker by a factor."""
    rng = np.random.default_rng(number)
    images = [rng.integers(0, 250, (120, 160, 3), dtype=np.uint8) for _ in range(2)]
    images[1] = (images[1] * dark).astype(np.uint8)
    depth = np.full((120, 160), 2.0, np.float32)
    poses = np.stack([np.eye(4), np.linalg.inv(motion)])
    return Pair(TwoViews(CAMERA, poses, (images[0], images[1]), (depth, depth), np.arange(2.0)), 0, 1, overlap)


def moved(x: float) -> FloatArray:
    T = np.eye(4)
    T[:3, 3] = x, 0.05, 0.1 * x
    return T


def truth(motion: FloatArray, count: int = 120, noise_px: float = 0.0, seed: int = 0) -> Matches:
    """Matches of points 1.5 to 4 m ahead; noise on the right image."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-0.8, -0.6, 1.5], [0.8, 0.6, 4.0], (count, 3))
    pixels = [points @ K.T, (points @ motion[:3, :3].T + motion[:3, 3]) @ K.T]
    pixels = [p[:, :2] / p[:, 2:] for p in pixels]
    pixels[1] = pixels[1] + rng.normal(0, noise_px or 1e-9, (count, 2))
    ones = np.ones(count, np.float32)
    return Matches(pixels[0].astype(np.float32), pixels[1].astype(np.float32), ones, ones)


PAIRS = [pair(moved(0.2 + 0.03 * i), 0.3 + 0.05 * i, number=i) for i in range(12)]


def method(noise_px: float, fails: tuple[int, ...] = ()) -> Method:
    """A matcher with so much noise; finds nothing on some pairs."""
    turn = iter(range(len(PAIRS) * 9))

    def run(image0: ByteArray, image1: ByteArray) -> Matches:
        i = next(turn) % len(PAIRS)
        return Matches.empty() if i in fails else truth(PAIRS[i].T_0to1, noise_px=noise_px, seed=i)

    return run


@pytest.fixture(scope="module")
def good() -> Evaluation:
    methods = {BEFORE: method(0.3, (1, 2, 4, 6, 7, 9)), AFTER: method(0.05, (5,)), "teacher": method(0.02)}
    return evaluate_recording("kitchen.mcap", methods, PAIRS, "never trained on", ("opencv", "stfm"))


@pytest.fixture(scope="module")
def bad() -> Evaluation:
    methods = {BEFORE: method(0.05), AFTER: method(0.3, (0, 1, 2, 3, 6, 7, 8, 9))}
    return evaluate_recording("office <b>", methods, PAIRS, "trained on", ("opencv",), pictures=False)


DATA = (
    Data("office.mcap", "training, weight 0.5", "", "ab" * 32, 120, 900, {"no overlap": 31}, "poses from /pose"),
    Data("kitchen.mcap", "measuring", "CC BY 4.0", "cd" * 32, 80, 6),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(StfmNet(preset("small")), tmp_path / "weights.safetensors", {"licence": "Apache-2.0"})
    (tmp_path / "config.yaml").write_text("# stfm train student a.yaml\nrun: {seed: 7}\n", encoding="utf-8")
    lines = [
        {"step": 25 * i, "loss": 9.0 / (i + 1), "loss_c": 8.0 / (i + 1), "lr": 1e-3, "pairs_s": 4} for i in range(9)
    ]
    lines += [{"step": 200, "val_coarse_accuracy": 0.5, "val_fine_px": 1.5}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 225, "lo', encoding="utf-8")
    return tmp_path


# -- the folder --------------------------------------------------------------------------------------


def test_a_log_is_read_past_a_resumed_step_and_a_cut_line(tmp_path: Path) -> None:
    rows = ['{"step": 50, "loss": 2}', '{"step": 25, "loss": 3}', '{"step": 50, "loss": 1, "lr": NaN}',
            '{"step": 50, "val_fine_px": 1.5}', '{"loss": 1}', "[]", '{"step": 75, "los']  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(rows))
    log = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in log] == [25, 50]
    assert (log[1]["loss"], log[1]["val_fine_px"]) == (1, 1.5)
    assert read_log(tmp_path / "none.jsonl") == ()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"weights.safetensors holds no weights of this package .*; finish the train"
    ):
        write(tmp_path, TrainingReport("nothing"))
    (tmp_path / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(WeightsError, match="holds no weights"):
        RunFolder.read(tmp_path)


def test_the_header_of_the_weights_says_what_they_are(run: Path) -> None:
    weights = RunFolder.read(run).weights
    network = StfmNet(preset("small"))
    assert (weights.preset, weights.channels, weights.about["licence"]) == ("small", 3, "Apache-2.0")
    assert weights.parameters == sum(value.numel() for value in network.state_dict().values())
    assert re.fullmatch("[0-9a-f]{12}", weights.hash)
    assert re.fullmatch(r"none|[\w.-]+", commit())


# -- the verdict -------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 40)), min_size=1, max_size=30))
def test_a_gain_is_the_difference_of_the_areas_and_turns_with_its_sides(errors: list[tuple[float, float]]) -> None:
    before, after = np.array(errors).T
    gain, low, high = auc_gain(before, after, 10.0, draws=50)
    assert gain == pytest.approx(pose_auc(after, [10.0])[0] - pose_auc(before, [10.0])[0])
    assert low <= high and low >= -1 and high <= 1
    assert auc_gain(before, before, 10.0, draws=50) == (0.0, 0.0, 0.0)
    assert auc_gain(after, before, 10.0, draws=50) == pytest.approx((-gain, -high, -low))


def test_pairs_are_drawn_together() -> None:
    """Hard and easy pairs, all of them better by one degree: no doubt, however far the pairs are apart."""
    before = np.linspace(1, 9, 40)
    gain, low, high = auc_gain(before, before - 1, 10.0)
    assert gain == pytest.approx(0.1, abs=0.02) and low > 0.08 and high < 0.12


def test_a_win_and_a_loss_are_told_in_words(good: Evaluation, bad: Evaluation) -> None:
    win, loss = compare(good), compare(bad)
    assert win is not None and loss is not None
    assert win.tone == "good" and win.worse == ()
    assert re.match(
        r"kitchen.mcap \(never trained on\): after is better than before. AUC@10 \d+\.\d → \d+\.\d \(\+\d+\.\d, 95 % "
        r"interval \+\d+\.\d to \+\d+\.\d, 12 pairs\)\.$", win.text,
    )  # fmt: skip
    assert loss.tone == "bad" and "after is worse than before" in loss.text
    assert re.search(r"Fell: AUC@5 \d+\.\d → \d+\.\d, AUC@10", loss.text)
    assert "precision < 1e-4 100.0 → 33.3" in loss.text


def test_a_small_loss_is_not_hidden_behind_its_interval(good: Evaluation) -> None:
    after = good.main[AFTER]
    scores = list(after.scores)
    scores[0] = replace(scores[0], rotation_deg=6.0)
    lower = replace(after, scores=tuple(scores), auc={**after.auc, "5": after.auc["5"] - 0.1})
    found = compare(replace(good, scores={"opencv": {BEFORE: after, AFTER: lower}}))
    assert found is not None and found.low < 0 <= found.high
    assert found.tone == "bad" and "after is lower than before, within the spread of the pairs" in found.text
    same = compare(replace(good, scores={"opencv": {BEFORE: after, AFTER: after}}))
    assert same is not None and same.tone == "" and "after and before are alike" in same.text


def test_without_a_before_a_student_is_set_against_the_vanilla_one(good: Evaluation) -> None:
    scores = {AFTER: good.main[AFTER], "vanilla": good.main[BEFORE]}
    (found,) = comparisons([replace(good, scores={"opencv": scores})])
    assert "after is better than vanilla" in found.text
    assert comparisons([replace(good, scores={"opencv": {"teacher": good.main["teacher"]}})]) == []


# -- pairs -------------------------------------------------------------------------------------------


def test_facts_of_a_pair_by_hand() -> None:
    nearer = np.eye(4)
    nearer[2, 3] = -1.0  # towards what is 2 m ahead
    facts = PairFacts.of(pair(nearer, 0.2, dark=0.5))
    assert facts.baseline == pytest.approx(0.5) and facts.zoom == pytest.approx(2.0)
    assert facts.turn_deg == pytest.approx(0, abs=1e-6) and facts.bare == 0
    assert facts.exposure == pytest.approx(0.5, abs=0.02)
    assert facts.remarkable() == ["little overlap (20%)", "scale changed by 2.0", "one image 2.0 times brighter"]
    rolled = PairFacts.of(pair(turn(40, 2) @ moved(0.3)))
    assert (rolled.turn_deg, abs(rolled.roll_deg)) == pytest.approx((40, 40))
    assert rolled.remarkable() == ["rolled by 40 deg"]
    assert PairFacts.of(pair(turn(40, 1) @ moved(0.3))).remarkable() == ["turned by 40 deg"]


def test_a_bare_wall_is_seen_as_bare() -> None:
    source = PAIRS[0].source
    assert isinstance(source, TwoViews)
    grey = np.full((120, 160, 3), 90, np.uint8)
    facts = PairFacts.of(Pair(replace(source, images=(grey, grey)), 0, 1, float("nan")))
    assert facts.bare == 1 and "100% of the picture without texture" in facts.remarkable()
    assert sentence(facts, 0, 0, float("inf")).endswith("No matches; no pose.")


@pytest.mark.parametrize(
    ("matches", "fitting", "error", "words"),
    [
        (400, 390, 1.24, "400 matches, 98% of them fit the true motion; pose off by 1.2 deg."),
        (12, 3, 50.0, "12 matches, few, 25% of them fit the true motion; pose off by 50.0 deg."),
        (90, 85, 30.0, "pose off by 30.0 deg all the same: one plane, a short baseline, or a loose truth."),
        (4, 0, float("inf"), "4 matches, few, 0% of them fit the true motion; no pose."),
    ],
)
def test_what_came_of_a_pair_in_words(matches: int, fitting: int, error: float, words: str) -> None:
    text = sentence(PairFacts.of(PAIRS[6]), matches, fitting, error)
    assert text.startswith("Overlap 60%, nothing unusual in turn, scale or light. ") and text.endswith(words)


# -- measuring ---------------------------------------------------------------------------------------


def test_every_solver_scores_the_same_matches(good: Evaluation) -> None:
    assert list(good.scores) == ["opencv", "stfm"]
    for name in good.main:
        a, b = (scores[name] for scores in good.scores.values())
        assert [s.matches for s in a.scores] == [s.matches for s in b.scores] and a.precision == b.precision
        assert (a.solver, b.solver) == ("opencv", "stfm")


def test_pictures_show_what_is_solved_what_fails_and_what_changed(good: Evaluation) -> None:
    titles = [re.split("[:,] (?!though)", shown.title)[0] for shown in good.shown]
    assert titles == [
        "Solved, though hard",
        "Solved, though hard",
        "Failure",
        "Won most",
        "Won most",
        "Lost most",
        "Lost most",
    ]
    assert [shown.leads for shown in good.shown] == [False, False, False, True, False, True, False]
    solved, failure = good.shown[0], good.shown[2]
    assert solved.note.startswith("Little overlap (30%)")  # the pair of least overlap
    assert failure.note.endswith("No matches; no pose.")
    assert all(shown.picture.dtype == np.uint8 and shown.picture.shape[1] > 800 for shown in good.shown)


def test_a_method_with_depth_is_given_it() -> None:
    seen: list[Float32Array | None] = []

    def look(a: ByteArray, b: ByteArray, depth0: Float32Array | None, depth1: Float32Array | None) -> Matches:
        seen.append(depth0)
        return truth(PAIRS[len(seen) - 1].T_0to1)

    found = evaluate_recording("x", {"teacher": WithDepth(look)}, PAIRS, solvers=("opencv", "stfm"))
    assert len(seen) == len(PAIRS) and all(depth is not None and depth.shape == (120, 160) for depth in seen)
    assert found.main["teacher"].auc["5"] > 0.9


# -- what is written ---------------------------------------------------------------------------------


def test_the_page_begins_with_the_loss(run: Path, good: Evaluation, bad: Evaluation) -> None:
    page = training_page(RunFolder.read(run), TrainingReport("t", (good, bad), DATA, notes=("Cut short.",)))
    assert [finding.tone for finding in page.findings] == ["bad", "good", ""]
    assert page.findings[0].text.startswith("office <b> (trained on): after is worse")
    assert page.findings[2].text == "Cut short."
    tones = {figure.label.split(";")[0]: figure.tone for figure in page.figures}
    assert tones["AUC@10, kitchen.mcap"] == "good" and tones["AUC@10, office <b>"] == "bad"
    assert "small, RGB student" in page.subtitle and "200 steps" in page.subtitle


def test_page_record_and_card_say_the_same(run: Path, good: Evaluation, bad: Evaluation) -> None:
    report = TrainingReport("kitchen student", (good, bad), DATA, facts={"training took": "3 min"})
    page, record, card = (path.read_text(encoding="utf-8") for path in write(run, report))
    whole = json.loads(record)
    assert whole["weights"]["licence"] == "Apache-2.0" and whole["weights"]["channels"] == 3
    assert [one["name"] for one in whole["evaluations"]] == ["kitchen.mcap", "office <b>"]
    assert len(whole["evaluations"][0]["scores"]) == 6 and len(whole["evaluations"][0]["scores"][0]["scores"]) == 12
    assert whole["data"][0]["left_out"] == {"no overlap": 31} and whole["log"][-1]["val_fine_px"] == 1.5
    auc = f"{100 * good.main[AFTER].auc['10']:.1f}"
    for text in (page, card):
        for words in (auc, "no overlap", "31", "cd" * 32, "Apache-2.0", "CC BY 4.0", "US 2023/0298307", "{seed: 7}",
                      "after is worse than before", "The terms of office.mcap were not given"):  # fmt: skip
            assert words in text, words
    for words in (
        "Losses",
        "Learning rate",
        "Throughput",
        "Share of pairs below an error",
        "3 min",
        "office &lt;b&gt;",
    ):
        assert words in page
    assert page.count("data:image/jpeg") == len(good.shown) and "office <b>" not in page
    assert "| after | opencv |" in card and "Failure: pair 5, images 0 and 1" in card
    assert card.index("after is worse") < card.index("after is better")


def test_a_run_that_was_not_measured_and_left_no_log_still_has_its_page(run: Path) -> None:
    for name in ("log.jsonl", "config.yaml"):
        (run / name).unlink()
    page, _, card = (path.read_text(encoding="utf-8") for path in write(run, TrainingReport("bare")))
    assert "Licences and patent" in page and "Losses" not in page
    assert "Not measured." in card


def test_a_teacher_is_called_one(run: Path) -> None:
    save_weights(StfmNet(preset("small", 4)), run / "weights.safetensors")
    page, _, card = (path.read_text(encoding="utf-8") for path in write(run, TrainingReport("teacher")))
    assert "RGB-D teacher" in page and card.count("RGB-D teacher (colour and depth)") == 1
    assert "Weights: not stated." in page


def test_a_card_that_cannot_be_written_says_so(run: Path) -> None:
    (run / "README.md").mkdir()
    with pytest.raises(ConfigError, match=r"README.md cannot be written .*; free some space there, then report again"):
        write(run, TrainingReport("t"))


def test_data_of_a_recording_are_what_its_record_says() -> None:
    counts = {"images": 100, "without_depth": 4, "thinned_out": 0, "without_pose": 6, "rejected": {"dark": 2},
              "frames": 88, "frames_held_out": 18, "pairs": 400, "pairs_held_out": 50,
              "pairs_left_out": {"no overlap": 9}}  # fmt: skip
    about = {"sha256": "ef" * 32, "bag": "office.mcap", "poses_from": "/odom", "counts": counts}
    used, held = (Data.of_recording(about, "x", "MIT", out) for out in (False, True))
    assert (used.images, used.pairs, held.images, held.pairs) == (70, 400, 18, 50)
    assert used.left_out == {"without depth": 4, "without pose": 6, "dark": 2, "no overlap": 9}
    assert (used.name, used.licence, used.note) == ("office.mcap", "MIT", "poses from /odom")


def test_the_whole_page_is_made_of_what_it_holds(run: Path, good: Evaluation) -> None:
    """Many lines of log: the plots are smoothed, and neither gaps nor infinities reach the page."""
    rng = np.random.default_rng(0)
    lines = [{"step": i, "loss": float(rng.random()) if i % 7 else float("nan"), "lr": 0.0} for i in range(400)]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = render(training_page(RunFolder.read(run), TrainingReport("t", (good,), DATA)))
    paths = re.findall(r' d="([^"]*)"', page)
    assert len(paths) > 30 and not any("nan" in path or "inf" in path for path in paths)
