"""The benchmark: readers on tiny data sets, figures against cases known by hand, rows that are kept, and refusals."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sequences import oxford_folder, rgbd_folder

from stfm_ros.cli import main
from stfm_ros.cli.evaluation import COMMAND
from stfm_ros.cli.suite import folded
from stfm_ros.errors import ConfigError, DatasetError
from stfm_ros.suite.cost import draw_cost, place_names, styles
from stfm_ros.suite.definition import Dataset, Suite, read_suite
from stfm_ros.suite.entrants import Entrant, from_callable, models, named
from stfm_ros.suite.measures import Row, coverage, label_distances, measure, reliability, right_of_best
from stfm_ros.suite.page import agreeing
from stfm_ros.suite.readers import View, fingerprint, open_dataset, warp_by_depth
from stfm_ros.suite.runner import Opened, in_order, run
from stfm_ros.suite.summary import Figure, Overall, Quartiles, calibration_error, figures, interval, overall, summarise
from stfm_ros.suite.xfeat import Points, XFeatStar, heatmap, mutual_nearest, pick, sample
from stfm_ros.types import ByteArray, Camera, FloatArray, Matches

SUITE = replace(read_suite(), draws=200)
K = np.array([[300.0, 0, 159.5], [0, 300, 119.5], [0, 0, 1]])
INFINITY = float("inf")


def as_matches(points0: Any, points1: Any, confidence: Any = None, sigma: Any = None) -> Matches:
    ones = np.ones(len(points0), np.float32)
    values = (points0, points1, ones if confidence is None else confidence, ones if sigma is None else sigma)
    return Matches(*(np.asarray(value, np.float32) for value in values))


def shifted(rgb0: ByteArray, rgb1: ByteArray) -> tuple[FloatArray, FloatArray]:
    """Matches of rgbd_folder's wall, whose images move by 30 px a frame; found by comparing the two."""
    y, x = np.mgrid[20:220:20, 130:300:20].reshape(2, -1).astype(np.float64)
    wide = rgb0.shape[1]
    gaps = [np.abs(rgb0[:, 30 * n :].astype(int) - rgb1[:, : wide - 30 * n]).mean() for n in range(4)]
    points = np.column_stack([x, y])
    return points, points - [30.0 * int(np.argmin(gaps)), 0]


def definition(kind: str, **fields: Any) -> Dataset:
    return Dataset("tiny", "tiny", kind, "measure", "none", "a test", **fields)


def row(name: str, error: float = 1.0, **fields: Any) -> Row:
    return Row(name, 0.5, 10, 2.0, 1.0, {"poselib": error, "magsac": error}, **fields)


# -- what is measured on -----------------------------------------------------------------------------


def test_the_fixed_splits_say_what_they_may_be_used_for() -> None:
    suite = read_suite()
    assert suite.version == 1 and len(suite.hash) == 12
    for dataset in suite.datasets.values():
        assert dataset.use in ("train", "measure") and dataset.licence and dataset.about
    trained = {name for name, dataset in suite.datasets.items() if dataset.use == "train"}
    assert trained == {"hololens_office", "icl_livingroom1", "tum_fr1_rpy"}
    assert suite.datasets["sevenscenes_redkitchen"].pairs >= 200
    assert [name for name, one in suite.datasets.items() if one.exact] == ["rendered"]


def test_recorded_pairs_are_drawn_alike_each_time(tmp_path: Path) -> None:
    rgbd_folder(tmp_path / "tiny", 6)
    dataset = definition("rgbd", size="320x240", pairs=6, seed=3, bins=3, overlap=(0.2, 0.97))
    reader = open_dataset(tmp_path, dataset)
    assert reader.names == open_dataset(tmp_path, dataset).names
    view = reader.view(0)
    first, second = map(int, reader.names[0].split())
    assert view.T_0to1 is not None and view.T_0to1[0, 3] == pytest.approx(-0.2 * (second - first))
    assert 0.2 <= view.overlap <= 0.97
    with pytest.raises(DatasetError, match="images of tiny are 320x240, the benchmark is fixed to 640x480"):
        open_dataset(tmp_path, replace(dataset, size="640x480"))


def test_a_sequence_without_depth(tmp_path: Path) -> None:
    folder = rgbd_folder(tmp_path / "tiny", 5)
    (folder / "rgb").rename(folder / "image_left")
    reader = open_dataset(tmp_path, definition("sequence", size="320x240", pairs=10, bins=2, gap=0.2))
    gaps = {int(second) - int(first) for first, second in (name.split() for name in reader.names)}
    assert gaps == {1, 2}
    assert np.isnan(reader.view(0).overlap)


def test_castle(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "images").mkdir(parents=True)
    lines = ["# image width height fx fy cx cy tx ty tz qx qy qz qw"]
    for i in range(5):
        cv2.imwrite(str(tmp_path / "tiny" / "images" / f"{i:04}.jpg"), np.zeros((24, 32, 3), np.uint8))
        half = np.radians(25 * i) / 2  # turned about y by 25 degrees each
        lines.append(f"{i:04}.jpg 32 24 30 30 16 12 {2 * i} 0 0 0 {np.sin(half)} 0 {np.cos(half)}")
    (tmp_path / "tiny" / "cameras.txt").write_text("\n".join(lines))
    reader = open_dataset(tmp_path, definition("strecha", size="32x24", pairs=60, gap=3))
    # two places apart are 50 degrees, three are 75
    assert reader.names == ["0000 0001", "0000 0002", "0001 0002", "0001 0003", "0002 0003", "0002 0004", "0003 0004"]
    T_0to1 = reader.view(0).T_0to1
    assert T_0to1 is not None
    assert T_0to1 @ [2, 0, 0, 1] == pytest.approx([0, 0, 0, 1])  # the second camera's place, seen from itself
    (tmp_path / "tiny" / "cameras.txt").write_text("0000.jpg 32 24\n")
    with pytest.raises(DatasetError, match="rows of another length than 13 numbers"):
        open_dataset(tmp_path, definition("strecha", size="32x24"))


EUROC = """%YAML:1.0
T_BS:
  cols: 4
  rows: 4
  data: [1.0, 0.0, 0.0, {x}, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
resolution: [32, 24]
intrinsics: [30.0, 30.0, 16.0, 12.0]
distortion_coefficients: [-0.28, 0.07, 0.0002, 0.00002]
"""


def test_stereo_with_distorted_images(tmp_path: Path) -> None:
    for camera, x in (("cam0", 0.0), ("cam1", 0.11)):
        (tmp_path / "tiny" / camera).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "tiny" / camera / "17.jpg"), np.zeros((24, 32), np.uint8))
        (tmp_path / "tiny" / f"{camera}.yaml").write_text(EUROC.format(x=x))
    view = open_dataset(tmp_path, definition("stereo", size="32x24", pairs=19)).view(0)
    assert view.T_0to1 is not None and view.cameras is not None
    assert view.T_0to1[:3, 3] == pytest.approx([-0.11, 0, 0])
    assert view.cameras[0].distortion_model == "plumb_bob" and view.images[0].shape == (24, 32, 3)
    # distorted pixels of points 3 m away are on their epipolar lines once the distortion is taken off
    points = np.random.default_rng(0).uniform([-1, -0.8, 2.5], [1, 0.8, 3.5], (50, 3))
    pixels = [
        cv2.projectPoints(points - [x, 0, 0], np.zeros(3), np.zeros(3), camera.K, camera.D)[0][:, 0]
        for x, camera in zip((0.0, 0.11), view.cameras)
    ]
    found = measure("17", view, as_matches(*pixels), (1.0, 1.0))
    assert found.precision == (1.0, 1.0)
    assert found.errors_deg["poselib"] < 1.0
    (tmp_path / "tiny" / "cam1.yaml").write_text("resolution: [32, 24]\n")
    with pytest.raises(DatasetError, match=r"cam1.yaml: 'T_BS'; expected a camera file of EuRoC"):
        open_dataset(tmp_path, definition("stereo", size="32x24"))


def test_oxford_and_labelled_points(tmp_path: Path) -> None:
    oxford_folder(tmp_path / "tiny")
    reader = open_dataset(tmp_path, definition("oxford"))
    assert reader.names == ["1 2", "1 3"]
    view = reader.view(1)
    points = np.array([[50.0, 40], [200, 60], [210, 180], [60, 190], [120, 120]])
    assert view.warp is not None and view.H_0to1 is not None
    right = as_matches(points, view.warp(points))
    found = measure("1 3", view, right, (1.0, 1.0))
    assert found.mma == (1.0, 1.0, 1.0) and found.corner_px is not None and found.corner_px < 0.1
    assert measure("1 3", view, Matches.empty(), (1.0, 1.0)).corner_px == INFINITY
    fits = agreeing(view, as_matches(points, view.warp(points) + [[0, 0], [0, 0], [4, 0], [0, 0], [0, 0]]))
    assert fits is not None and fits.tolist() == [True, True, False, True, True]
    (tmp_path / "tiny" / "3.png").unlink()
    with pytest.raises(DatasetError, match="has no image 3: expected one for each H_1_k"):
        open_dataset(tmp_path, definition("oxford"))

    folder = tmp_path / "tiny" / "alupka"
    folder.mkdir()
    for name in ("01.jpg", "02.jpg"):
        cv2.imwrite(str(folder / name), np.zeros((60, 80, 3), np.uint8))
    np.savetxt(folder / "corrs.txt", np.arange(8.0).reshape(2, 4))
    labels = open_dataset(tmp_path, definition("labelled")).view(0).labels
    assert labels is not None and labels.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_labelled_points_lie_on_the_lines_of_right_matches() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform([-1, -0.8, 2], [1, 0.8, 5], (60, 3))
    pixels0, pixels1 = ((p @ K.T)[:, :2] / p[:, 2:] for p in (points, points - [0.3, 0, 0.05]))
    labels = np.column_stack([pixels0[:20], pixels1[:20]])
    good = label_distances(as_matches(pixels0[20:], pixels1[20:]), labels)
    assert good.max() < 0.5
    moved = labels + [0, 0, 0, 30.0]
    assert np.median(label_distances(as_matches(pixels0[20:], pixels1[20:]), moved)) > 5
    assert (label_distances(Matches.empty(), labels) == INFINITY).all()


def test_depth_tells_where_a_point_lies() -> None:
    """A wall at 4 m, moved across by 0.4 m: 30 px; a bar at 1 m hides what is behind it in the second image."""
    wall = np.full((240, 320), 4.0, np.float32)
    second = wall.copy()
    second[:, 100:120] = 1.0
    T = np.eye(4)
    T[0, 3] = -0.4
    points = np.array([[200.5, 100.25], [140.0, 50], [10, 10], [129.3, 50]])
    landed = warp_by_depth(points, wall, second, K, T)
    assert landed[0] == pytest.approx([170.5, 100.25])
    assert (landed[1] == INFINITY).all()  # hidden
    assert (landed[2] == INFINITY).all()  # out of view
    assert np.isnan(landed[3]).all()  # on the edge of the bar: nobody can tell
    holes = wall.copy()
    holes[100:102, 200:202] = 0
    assert np.isnan(warp_by_depth(points[:1], holes, second, K, T)).all()


# -- figures -----------------------------------------------------------------------------------------


def test_the_interval_of_a_known_case() -> None:
    """The mean of 400 coin tosses: its standard deviation is 1/40, so 95 % are within 0.049."""
    tosses = np.arange(400) % 2
    figure = interval(tosses, lambda values: [float(values.mean())], 2000, 0)[0]
    assert figure.value == 0.5
    assert figure.low == pytest.approx(0.451, abs=0.006) and figure.high == pytest.approx(0.549, abs=0.006)
    assert f"{figure}" == "50 [45-55]"
    assert figure == interval(tosses, lambda values: [float(values.mean())], 2000, 0)[0]


def test_reliability_and_coverage_by_hand() -> None:
    counts = np.array(reliability([0.05, 0.95, 0.95, 0.95, 1.0], [False, True, True, False, True]))
    assert counts[0].tolist() == pytest.approx([1, 0, 0.05])
    assert counts[9].tolist() == pytest.approx([4, 3, 3.85])
    assert calibration_error(counts) == pytest.approx((0.05 + 0.85) / 5)
    errors = np.array([[0.9, -1.1], [1.9, 2.5], [30.0, 0]])
    assert coverage(errors, np.array([1.0, 1.0, 99.0])) == (4, 1, 3)  # the last one is wrong, not imprecise
    honest = np.random.default_rng(0).normal(0, 0.7, (4000, 2))
    total, one, two = coverage(honest, np.full(4000, 0.7))
    assert (one / total, two / total) == pytest.approx((0.683, 0.95), abs=0.012)


def test_the_best_256_by_counting() -> None:
    """Of 400 matches the 256 most confident: 100 off by 0.5 px, 60 by 2, 40 by 4, 56 by 9; the others are not asked."""
    off = np.repeat([0.5, 2.0, 4.0, 9.0, 0.0], [100, 60, 40, 56, 144])
    confidence = np.repeat([0.9, 0.8, 0.7, 0.6, 0.5], [100, 60, 40, 56, 144])
    order = np.random.default_rng(0).permutation(400)
    known = 100 / 256, 160 / 256, 200 / 256
    assert right_of_best(confidence[order], off[order]) == known
    # the order they come in decides where confidence does not: the first count
    assert right_of_best(np.ones(400), off) == known
    assert right_of_best(np.ones(400), off[::-1]) == (144 / 256, 160 / 256, 200 / 256)  # 144, 56, 40, and 16 of the 60
    # who gives 64, all right, is charged for the 192 that are missing
    assert right_of_best(np.ones(64), np.zeros(64)) == (0.25, 0.25, 0.25)
    assert right_of_best(np.zeros(0), np.zeros(0)) == (0.0, 0.0, 0.0)


def test_the_best_256_of_a_plane() -> None:
    """What is nowhere known is passed over for the next best; what is known not to be seen is wrong."""
    points = np.column_stack([np.arange(300.0), np.zeros(300)])
    there = points + [7.0, 0]
    there[:30], there[30:50] = np.nan, np.inf
    black = np.zeros((4, 300, 3), np.uint8)
    view = View((black, black), warp=lambda _: there)
    found = measure("x", view, as_matches(points, points + [7.0, 2.0]), (1.0, 1.0))
    # of the 270 that are known the first 256: 20 are not seen, 236 are off by 2 px
    assert found.best == (0.0, 236 / 256, 236 / 256) and found.mma == (0.0, 250 / 270, 250 / 270)
    value = figures([found, replace(found, best=(0.0, 0.5, 0.5))], SUITE)["best256@3"].value
    assert value == pytest.approx((236 / 256 + 0.5) / 2)


def test_figures_of_rows() -> None:
    rows = [
        row("a", 0.0, precision=(1.0, 1.0), coverage=(10, 7, 9), reliability=((10, 9, 8),) * 10),
        row("b", INFINITY, precision=(0.0, 0.5), coverage=(30, 21, 29), reliability=((0, 0, 0),) * 10),
    ]
    found = figures(rows, SUITE)
    assert found["auc@10 poselib"].value == 0.5 and (found["auc@10 magsac"].low, found["auc@10 magsac"].high) == (0, 1)
    assert found["precision@0.0005"].value == 0.75
    assert found["covered@1"].value == 28 / 40 and found["ece"].value == pytest.approx(0.1)
    assert "mma@3" not in found and "labelled@5" not in found


def test_methods_are_compared_on_the_same_pairs_and_over_all_unseen_data() -> None:
    errors = np.random.default_rng(0).uniform(0, 20, 60).tolist()
    better = [row(str(i), 0.5 * error) for i, error in enumerate(errors)]
    model = [row(str(i), error) for i, error in enumerate(errors)]
    rows = {"model": model, "better": better}
    posed = replace(definition("rgbd"), bins=2, overlap=(0.0, 1.0))
    suite = Suite(1, "", 200, 0, {"tiny": posed, "seen": replace(posed, name="seen", use="train")})
    results = summarise(posed, "pose", rows, "model", suite)
    assert results[0].gain is None and results[1].gain is not None
    assert 0 < results[1].gain.low < results[1].gain.value < results[1].gain.high
    assert [bin.views for bin in results[0].bins] == [60]  # all of overlap 0.5
    entrants = [Entrant(name, lambda a, b: Matches.empty(), {}) for name in rows]
    summary = overall(results, {"tiny": rows, "seen": {}}, entrants, suite)
    assert summary[1].pose is not None and summary[1].pose.value == results[1].figures["auc@10 poselib"].value
    assert summary[0].homography is None and summary[0].gflops is None


def test_rows_survive_their_journey() -> None:
    there = row("a", INFINITY, mma=(0.1, 0.2, 0.3), corner_px=INFINITY, reliability=((1.0, 0.0, 0.5),))
    assert Row.from_json(json.loads(json.dumps(there.to_json(), allow_nan=False))) == there
    unknown = Row.from_json(json.loads(json.dumps(replace(there, overlap=float("nan")).to_json())))
    assert np.isnan(unknown.overlap)
    with pytest.raises(KeyError):
        Row.from_json({"name": "a"})


# -- accuracy against cost ---------------------------------------------------------------------------


def test_precisions_of_a_model_are_a_family() -> None:
    looks = styles(["stfm default", "stfm small", "stfm default@fp32", "sift", "xfeat", "stfm other@fp32"])
    assert styles(["stfm default", "stfm default, two looks"])["stfm default, two looks"].name == "two looks"
    assert [one.name for one in looks.values()] == [
        "stfm default", "stfm small", "@fp32", "sift", "xfeat", "stfm other@fp32",
    ]  # fmt: skip
    first, other, second, classical, peer, lonely = looks.values()
    assert second.first == "stfm default" and second.colour == first.colour and second.marker != first.marker
    assert len({one.colour for one in (first, other, classical, peer, lonely)}) == 5
    assert lonely.marker == first.marker


def test_names_do_not_lie_on_each_other() -> None:
    """Six dots of 8 px in a row, 12 px apart, with names 60 px long; and one in a corner of the frame."""
    points = np.array([*((200.0 + 12 * i, 150.0) for i in range(6)), (395.0, 295.0)])
    sizes, dots = np.tile([60.0, 10.0], (7, 1)), np.hstack([points - 4, points + 4])
    corners = place_names(points, sizes, dots, (0, 0, 400, 300), (6, 18, 32, 46))
    for i in range(7):
        others = np.vstack([np.delete(np.hstack([corners, corners + sizes]), i, axis=0), dots])
        apart = (others[:, :2] >= corners[i] + sizes[i]) | (others[:, 2:] <= corners[i])
        assert apart.any(axis=1).all(), i
    assert (corners >= 0).all() and (corners + sizes <= (400, 300)).all()
    alone = place_names(points[:1], sizes[:1], dots[:1], (0, 0, 400, 300), (6, 18))
    assert np.hypot(*(np.clip(points[0], alone[0], alone[0] + sizes[0]) - points[0])) == pytest.approx(6)


def test_the_picture_of_cost(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    def method(name: str, pose: float | None, ms: float, gflops: float | None = None) -> Overall:
        figure = None if pose is None else Figure(pose, pose - 0.02, pose + 0.02)
        times = Quartiles(ms, 0.9 * ms, 1.2 * ms)
        return Overall(name, figure, None, None, times, times, gflops)

    classical = method("sift", 0.7, 300.0)
    both = draw_cost([classical, method("stfm small", 0.8, 40.0, 28.0)], 2, tmp_path / "both.png")
    one = draw_cost([classical], 2, tmp_path / "one.png")
    assert both is not None and one is not None
    assert both.shape == (one.shape[0], 2 * one.shape[1], 3)  # a second panel where operations are known
    assert (tmp_path / "both.png").is_file()
    half = one.shape[1]
    teal = np.abs(both.astype(int) - [0x0D, 0x94, 0x88]).max(axis=2) < 20
    assert teal[:, :half].sum() > 100 and teal[:, half:].sum() > 100
    grey = np.abs(both.astype(int) - [0x64, 0x74, 0x8B]).max(axis=2) < 8
    assert grey[:, :half].sum() > 100 and not grey[:, half:].sum()  # nobody counted the operations of SIFT
    assert draw_cost([method("sift", None, 300.0)], 2, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


# -- runs --------------------------------------------------------------------------------------------


class Three:
    """Three views of nothing, and how often each was read."""

    measure = "points"
    names = ("a", "b", "c")

    def __init__(self) -> None:
        self.read: list[int] = []

    def view(self, index: int) -> View:
        self.read.append(index)
        black = np.zeros((4, 4, 3), np.uint8)
        return View((black, black), labels=np.zeros((1, 4)))


def test_rows_are_kept_and_thrown_away(tmp_path: Path) -> None:
    calls: list[str] = []

    def entrant(name: str, weights: str = "1") -> Entrant:
        def match(rgb0: ByteArray, rgb1: ByteArray) -> Matches:
            calls.append(name)
            return Matches.empty()

        return Entrant(name, match, {"weights": weights})

    reader = Three()
    opened = Opened(definition("labelled"), reader, "data")
    steps: list[tuple[int, int]] = []
    found = run(opened, [entrant("x")], tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert [one.name for one in found["x"]] == ["a", "b", "c"] and steps == [(1, 3), (2, 3), (3, 3)]
    assert calls == ["x"] * 4 and sorted(reader.read) == [0, 1, 2]  # one call more, before the clock starts

    run(opened, [entrant("x"), entrant("y")], tmp_path)  # x is kept
    assert calls[4:] == ["y"] * 4
    assert len(run(opened, [entrant("x")], tmp_path, most=2)["x"]) == 2
    assert len(calls) == 8
    run(opened, [entrant("x", weights="2")], tmp_path)  # other weights
    run(replace(opened, data="other"), [entrant("x", weights="2")], tmp_path)
    run(replace(opened, dataset=replace(opened.dataset, seed=9)), [entrant("x", weights="2")], tmp_path)
    assert calls[8:] == ["x"] * 12
    file = tmp_path / "rows" / "tiny" / "x.jsonl"
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")  # killed while it wrote
    run(replace(opened, dataset=replace(opened.dataset, seed=9)), [entrant("x", weights="2")], tmp_path)
    assert calls[20:] == ["x"] * 2
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written .* choose another --out"):
        run(opened, [entrant("x")], tmp_path / "file")


def test_fewer_pairs_are_spread() -> None:
    assert in_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert sorted(in_order(200)) == list(range(200)) == sorted(in_order(200, 999))
    assert in_order(1) == [0] and in_order(200, 30) == in_order(200)[:30]
    assert np.diff(sorted(in_order(200, 32))).max() <= 8


def test_other_files_have_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    before = fingerprint(tmp_path)
    (tmp_path / "a.txt").write_text("three")
    assert fingerprint(tmp_path) != before


# -- methods -----------------------------------------------------------------------------------------


@pytest.fixture
def callables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_matcher.py").write_text(
        "import numpy as np\nNUMBER = 3\n"
        "def points(a, b):\n    return np.ones((5, 2)), np.zeros((5, 2))\n"
        "def wrong(a, b):\n    return np.ones((5, 2)), np.zeros((4, 2))\n"
        "def none(a, b):\n    return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_matcher", raising=False)
    return "own_matcher"


def test_a_callable_takes_part(callables: str) -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    found = from_callable(f"mine={callables}:points").match(black, black)
    assert len(found) == 5 and found.keypoints0.dtype == np.float32 and not found.keypoints1.any()
    with pytest.raises(ConfigError, match=r"mine gave points of shapes \(5, 2\) and \(4, 2\): expected \(n, 2\) both"):
        from_callable(f"mine={callables}:wrong").match(black, black)
    with pytest.raises(ConfigError, match="method mine gave a NoneType: expected stfm_ros.types.Matches"):
        from_callable(f"mine={callables}:none").match(black, black)
    for text, words in (
        ("mine", "expected NAME=module:function"),
        (f"mine={callables}:absent", "has no attribute 'absent'"),
        ("mine=no_such_module:f", "No module named 'no_such_module'; is its folder on PYTHONPATH"),
        (f"mine={callables}:NUMBER", "is a int, expected a callable"),
    ):
        with pytest.raises(ConfigError, match=words):
            from_callable(text)


def test_peers_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    entrants, left_out = named("sift,xfeat,xfeat-star,xfeat+lighterglue", tmp_path, 1)
    assert [one.name for one in entrants] == ["sift"]
    assert left_out[0] == f"xfeat: there is no xfeat.onnx in {tmp_path}"
    assert "no xfeat.onnx and no xfeat_dense_match.onnx" in left_out[1]
    assert "no lighterglue_3layers.onnx and no xfeat.onnx" in left_out[2]
    assert named("none", tmp_path, 1) == ([], [])
    with pytest.raises(ConfigError, match="--methods surf: expected some of sift, orb, akaze, xfeat, xfeat"):
        named("surf", tmp_path, 1)


def test_models_with_their_precision() -> None:
    settings = {"matcher.threads": 1, "matcher.runtime": "onnxruntime"}
    (one_look, matcher), (two_looks, _), (searched, _) = models("small@fp32", settings)
    assert [one.name for one in (one_look, two_looks, searched)] == [
        "stfm small@fp32", "stfm small@fp32, two looks", "stfm small@fp32, search",
    ]  # fmt: skip
    assert two_looks.gflops == 2 * one_look.gflops and two_looks.identity != one_look.identity
    assert one_look.gflops == pytest.approx(28.7, abs=0.1) and one_look.claims
    assert "pose" not in searched.measures and searched.identity != one_look.identity
    assert len(one_look.identity["graph"]) == 12  # the same weights may be read by another graph
    assert one_look.identity["weights"] == matcher.weights_hash and one_look.identity["precision"] == "fp32"
    with pytest.raises(ConfigError, match="fp7"):
        models("small@fp7", {})


def test_xfeats_parts_by_hand() -> None:
    logits = np.full((65, 4, 5), -9.0, np.float32)
    logits[64] = 0  # no keypoint anywhere
    logits[8 * 3 + 5, 2, 1] = 9.0  # but at row 3, column 5 of the cell in row 2, column 1
    heat = heatmap(logits)
    assert heat.shape == (32, 40) and np.unravel_index(heat.argmax(), heat.shape) == (19, 13)
    assert pick(heat, np.ones((4, 5), np.float32)).tolist() == [[13, 19]]
    # a ramp is sampled exactly, off the edge
    ramp = np.tile(np.arange(20, dtype=np.float32), (1, 16, 1))
    points = np.array([[40.0, 50], [77.3, 61]], np.float32)
    expected = points[:, 0] / 159 * 20 - 0.5
    assert sample(ramp, points, (160, 128))[:, 0] == pytest.approx(expected, abs=1e-4)
    cubic = sample(np.concatenate([ramp, np.ones_like(ramp)]), points, (160, 128), cubic=True)
    assert cubic[:, 0] == pytest.approx(expected, abs=0.05) and cubic[:, 1] == pytest.approx([1, 1])
    unit = np.eye(64, dtype=np.float32)
    first = Points(np.arange(6, dtype=np.float32).reshape(3, 2), unit[[0, 1, 2]], (9, 9))
    second = Points(np.zeros((2, 2), np.float32), np.stack([unit[2], 0.6 * unit[1] + 0.8 * unit[7]]), (9, 9))
    found = mutual_nearest(first, second)  # the second pair's cosine of .6 is too little
    assert found.keypoints0.tolist() == [[4, 5]] and found.confidence.tolist() == [1.0]


def test_semi_dense_matches_move_in_the_first_image(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    # a third network that, whatever it sees, is sure of the bin in row 5, column 2, among nodes that are not its own
    bias = np.zeros(64, np.float32)
    bias[5 * 8 + 2] = 20.0
    values = {"w0": np.zeros((16, 128), np.float32), "b0": bias[:16], "w1": np.zeros((64, 16), np.float32), "b1": bias}
    nodes = [
        onnx.helper.make_node("Concat", ["first", "second"], ["both"], axis=1),
        onnx.helper.make_node("Gemm", ["both", "w0", "b0"], ["hidden"], transB=1),
        onnx.helper.make_node("Gemm", ["hidden", "w1", "b1"], ["logits"], transB=1),
        onnx.helper.make_node("Softmax", ["logits"], ["shares"]),
    ]
    ends = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1000, 64]) for name in names]
        for names in (["first", "second"], ["shares"])
    ]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "export", *ends, weights), opset_imports=opsets)
    model.ir_version = 8
    onnx.save(model, tmp_path / "xfeat_dense_match.onnx")

    class Cells:
        """Features that tell cells by where they are, so that each finds itself; the last row is the most reliable."""

        def planes(self, rgb: Any) -> tuple[Any, Any, Any]:
            rows, columns = rgb.shape[0] // 32 * 4, rgb.shape[1] // 32 * 4
            angles = np.arange(rows * columns).reshape(rows, columns) / 1000 + (rgb.shape[0] > 100) * 2
            reliability = np.tile(np.arange(rows, dtype=np.float32)[:, None], columns)
            return np.stack([np.cos(angles), np.sin(angles), *[0 * angles] * 62]).astype(np.float32), None, reliability

    matcher = XFeatStar(Cells(), tmp_path / "xfeat_dense_match.onnx", threads=1)  # type: ignore[arg-type]
    image = np.zeros((160, 320, 3), np.uint8)  # 96x192 and 208x416 pixels, the latter taken for 192x416
    found = matcher(image, image)
    assert len(found.keypoints0) == 12 * 24 + 24 * 52 and (found.confidence > 0.999).all()
    moved = {tuple(step.round(3).tolist()) for step in (found.keypoints0 - found.keypoints1).astype(float)}
    assert moved == {(-3.333, 1.667), (-1.538, 0.769)}  # two bins left, one down, at scales 0.6 and 1.3
    last = found.keypoints1.max(axis=0)
    assert last == pytest.approx([51 * 8 / 1.3, 23 * 8 / 1.3 * 208 / 192], abs=1e-3)


# -- the command -------------------------------------------------------------------------------------


def data_folder(root: Path) -> Path:
    oxford_folder(root / "pairs" / "oxford_affine" / "graf")
    return root


def test_the_command_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_folder(tmp_path / "data")
    arguments = ["eval", "--suite", data, "--models", "small", "--method", "mine=test_suite:shifted"]
    arguments += ["--runtime", "onnxruntime", "--threads", "1", "--out", tmp_path / "out", "--json"]
    assert main([str(one) for one in arguments]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    suite = record["suite"]
    assert record["model"] is None and record["inputs"] == []
    documented = {key.split(".")[1].removesuffix("[]") for key in COMMAND.fields if key.startswith("suite.")}
    assert documented == set(suite)
    assert [one["name"] for one in suite["datasets"]] == ["oxford_graf"]
    names = ["stfm small", "stfm small, two looks", "stfm small, search", "sift", "orb", "akaze", "mine"]
    assert [one["method"] for one in suite["results"]] == names
    mma = {one["method"]: one["figures"]["mma@3"]["value"] for one in suite["results"]}
    assert mma["stfm small"] > 0.8 and mma["sift"] > 0.8 and mma["mine"] < 0.1
    assert any(line.startswith("sevenscenes_redkitchen: there is no folder") for line in suite["left_out"])
    assert any(line.startswith("xfeat: there is no xfeat.onnx") for line in suite["left_out"])
    assert "left out: sevenscenes_redkitchen" in shown.err
    assert json.loads((tmp_path / "out" / "suite.json").read_text(encoding="utf-8"))["hash"] == SUITE.hash
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "oxford_graf" in page and "best: 1 " in page and "worst: 1 " in page


def test_times_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    castle = tmp_path / "data" / "pairs" / "strecha" / "castle-P19"
    (castle / "images").mkdir(parents=True)
    lines = []
    for i, picture in enumerate(sorted((rgbd_folder(tmp_path / "wall", 3) / "rgb").iterdir())):
        large = cv2.resize(cv2.imread(str(picture)), (1024, 683))
        cv2.imwrite(str(castle / "images" / f"{i:04}.jpg"), large)
        lines.append(f"{i:04}.jpg 1024 683 960 854 512 341 {0.2 * i} 0 0 0 0 0 1")
    (castle / "cameras.txt").write_text("\n".join(lines))
    common = ["eval", "--suite", tmp_path / "data", "--models", "small", "--methods", "orb", "--pairs", "1", "--json"]
    common += ["--runtime", "onnxruntime"]

    def suite(*arguments: object) -> Any:
        assert main([str(one) for one in (*common, *arguments)]) == 0
        return json.loads(capsys.readouterr().out)["suite"]

    def times(of: Any) -> list[Any]:
        return [(one["method"], one["ms"], one["cpu_ms"]) for one in of["summary"]]

    idle = suite("--threads", 1, "--out", tmp_path / "idle")
    busy = suite("--threads", 1, "--out", tmp_path / "busy")
    after = suite("--threads", 1, "--out", tmp_path / "busy", "--times", tmp_path / "idle" / "suite.json")
    assert times(busy) != times(idle) == times(after)
    assert busy["times"] is None and after["times"]["json"] == "suite.json"
    assert after["results"] == busy["results"]
    other = [*common, "--threads", 2, "--out", tmp_path / "other", "--times", tmp_path / "idle" / "suite.json"]
    assert main([str(one) for one in other]) == 2
    assert "it did not time stfm small, stfm small, two looks as here" in capsys.readouterr().err
    (tmp_path / "no.json").write_text("{}", encoding="utf-8")
    assert main([str(one) for one in (*common, "--times", tmp_path / "no.json")]) == 2
    assert "expected the suite.json of a run with --suite" in capsys.readouterr().err


def test_refusals_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["eval", "--suite", tmp_path, "--models", "small"]
    there = ["eval", "--suite", data_folder(tmp_path / "data"), "--models", "small"]
    for arguments, words in (
        (["eval"], "nothing to evaluate: name bags or folders, or run the benchmark with --suite DATA"),
        (["eval", "x.mcap", "--models", "small"], "--models belongs to the benchmark: add --suite DATA"),
        (["eval", "x.mcap", "--suite", "data"], "x.mcap beside --suite: the benchmark measures on its own data"),
        (["eval", "--suite", "data", "--seed", "3"], "--seed beside --suite: the benchmark fixes that"),
        (["eval", "--suite", "data", "--model", "small"], "name it by --models"),
        ([*small], "holds none of the benchmark's data sets"),
        ([*small, "--datasets", "imagenet"], "--datasets imagenet: expected some of sevenscenes_redkitchen"),
        ([*there, "--method", "sift=cv2:imread"], "two methods are called sift: give each another name"),
        ([*there, "--methods", "sift,surf"], "--methods surf: expected some of sift, orb, akaze, xfeat, xfeat"),
    ):
        assert main([str(one) for one in arguments]) == 2, arguments
        assert words in capsys.readouterr().err


def test_a_wide_table_is_folded() -> None:
    heads, lines = ("method", "one", "three", "4"), [("sift", "1", "12345678", "1"), ("orb", "2", "3", "")]
    assert folded(heads, lines, 27) == [([*heads], [[*line] for line in lines])]  # 6 + 3 + 8 + 1, and 3 between them
    first, second = folded(heads, lines, 26)
    assert first == (["method", "one", "three"], [["sift", "1", "12345678"], ["orb", "2", "3"]])
    assert second == (["method", "4"], [["sift", "1"], ["orb", ""]])
    assert [block[0][1] for block in folded(heads, lines, 1)] == ["one", "three", "4"]  # nothing is left out


def test_a_wall_is_measured_with_poses(tmp_path: Path) -> None:
    rgbd_folder(tmp_path / "tiny", 4)
    reader = open_dataset(tmp_path, definition("rgbd", size="320x240", pairs=3, overlap=(0.2, 0.97)))
    entrant = from_callable("mine=test_suite:shifted")
    opened = Opened(definition("rgbd"), reader, "")
    rows = run(opened, [entrant], tmp_path / "out")["mine"]
    assert all(one.precision == (1.0, 1.0) and one.matches == 90 for one in rows)
    assert all(set(one.errors_deg) == {"poselib", "magsac"} and one.cpu_ms >= 0 for one in rows)


def test_a_camera_is_needed_for_nothing_else() -> None:
    """A view that knows nothing gives a row that claims nothing."""
    black = np.zeros((4, 4, 3), np.uint8)
    found = measure("x", View((black, black)), as_matches(np.zeros((3, 2)), np.zeros((3, 2))), (1.0, 1.0), True, True)
    assert (found.errors_deg, found.precision, found.mma, found.coverage) == ({}, (), (), ())
    assert agreeing(View((black, black)), Matches.empty()) is None
    assert Camera(4, 4, np.eye(3)).distortion_model == "none"
