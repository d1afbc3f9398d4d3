"""A good bag passes the inspection, and each fault is found, named and given a next step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagWriter
from stfm_ros.baselines import orb
from stfm_ros.cli import main
from stfm_ros.errors import BagError
from stfm_ros.quality import blur, exposure
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray
from stfm_training.inspection import ERROR, WARNING, Inspection, inspect_bag
from stfm_training.inspection.clock import intervals
from stfm_training.inspection.edges import EdgeMap, align, edge_map, find_lag, lag_maps
from stfm_training.inspection.faults import FAULTS, corrupt, depths, later, of_depth
from stfm_training.inspection.page import make_page
from stfm_training.recordings import RecordingConfig, prepare

FRAMES, PERIOD_NS = 12, 100_000_000
CAMERA = Camera(320, 240, np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]]))


class Cards:
    """Textured cards before a wall, seen by a camera that moves across them: images, exact depth, poses."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.cards = [(3.0, -3.0, -3.0, 6.0, 6.0, _texture(rng, 500, 500))]
        for z in np.linspace(2.6, 1.4, 14):
            x, y, w, h = rng.uniform((-1.2, -0.9, 0.15, 0.15), (1.2, 0.9, 0.4, 0.4))
            self.cards.append((float(z), x, y, w, h, _texture(rng, 60, 60)))
        turn = np.linspace(0, 1.5 * np.pi, FRAMES)
        self.centres = np.column_stack([0.45 * np.sin(turn), 0.25 * np.cos(1.7 * turn), np.zeros(FRAMES)])
        self.frames = [self.seen(centre) for centre in self.centres]

    def seen(self, centre: FloatArray) -> tuple[ByteArray, Float32Array]:
        image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
        depth = np.zeros((CAMERA.height, CAMERA.width), np.float32)
        for z, x, y, w, h, texture in self.cards:
            scale = np.array([w, h]) * 300 / z / texture.shape[1::-1]
            corner = (np.array([x, y]) - centre[:2]) * 300 / z + [159.5, 119.5]
            A = np.array([[scale[0], 0, corner[0]], [0, scale[1], corner[1]]])
            drawn = cv2.warpAffine(texture, A, image.shape[1::-1], flags=cv2.INTER_LINEAR)
            covers = cv2.warpAffine(np.ones(texture.shape[:2], np.float32), A, image.shape[1::-1]) > 0.5
            image[covers], depth[covers] = drawn[covers], z
        return image, depth


def _texture(rng: np.random.Generator, height: int, width: int) -> ByteArray:
    colour = rng.integers(40, 200, 3)
    noise = cv2.resize(rng.normal(0, 22, (height // 5, width // 5, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def cards() -> Cards:
    return Cards()


def write(bag: Path, cards: Cards, with_depth: bool = True, with_poses: bool = True) -> Path:
    with BagWriter(bag) as writer:
        for i, (image, depth) in enumerate(cards.frames):
            stamp, pose = 1_000_000_000 + i * PERIOD_NS, np.eye(4)
            pose[:3, 3] = cards.centres[i]
            writer.write("/camera/image", IMAGE_TYPES[0], messages.image(stamp, "camera", image), stamp)
            if with_depth:
                writer.write("/camera/depth", IMAGE_TYPES[0], messages.depth_image(stamp, "camera", depth), stamp)
            writer.write("/camera/camera_info", CAMERA_INFO_TYPE, messages.camera_info(stamp, "camera", CAMERA), stamp)
            if with_poses:
                told = messages.pose_stamped(stamp, "world", pose)
                writer.write("/camera/pose", "geometry_msgs/msg/PoseStamped", told, stamp)
    return bag


@pytest.fixture(scope="module")
def good(cards: Cards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bags") / "good.mcap", cards)


def faulty(good: Path, folder: Path, name: str, frames: int = 8) -> Inspection:
    corrupt(good, folder / "faulty.mcap", FAULTS[name].make)
    return inspect_bag(folder / "faulty.mcap", frames=frames)


def checks(inspection: Inspection, *severities: str) -> list[str]:
    return [problem.check for problem in inspection.problems if problem.severity in severities]


# ---- whole bags


@pytest.fixture(scope="module")
def passed(good: Path) -> Inspection:
    return inspect_bag(good)


def test_a_good_bag_passes_and_its_pairs_are_foretold(good: Path, passed: Inspection, tmp_path: Path) -> None:
    inspection = passed
    assert inspection.usable
    assert checks(inspection, ERROR, WARNING) in ([], ["pairs"])  # twelve frames make few pairs
    assert inspection.selection.topics == {
        "image": "/camera/image", "depth": "/camera/depth", "camera_info": "/camera/camera_info",
        "poses": "/camera/pose",
    }  # fmt: skip
    assert inspection.alignment is not None and inspection.alignment.distance_px < 1
    assert inspection.lag is not None and inspection.lag.frames == 0
    assert inspection.pose_check is not None and inspection.pose_check.scale == pytest.approx(1, abs=0.02)
    assert inspection.topics[2].rate_hz == pytest.approx(10)
    # all frames were looked at, so what is expected is what the distillation makes
    assert inspection.outlook is not None
    assert inspection.outlook.pairs == len(prepare(good, tmp_path / "prepared").train)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("depth 12 px to the right", "depth lies +12"),
        ("depth of the next frame", "depth is of 1 frames later, +100 ms"),
        ("depth / 1000 (32FC1)", "the median depth is 0.00"),
    ],
)
def test_a_fault_of_depth_is_an_error(good: Path, tmp_path: Path, fault: str, told: str) -> None:
    inspection = faulty(good, tmp_path, fault, FRAMES)
    assert not inspection.usable
    problem = next(one for one in inspection.problems if one.check in FAULTS[fault].checks)
    assert problem.severity == ERROR
    assert problem.value.startswith(told)
    assert problem.next_step


def test_the_factor_that_mends_the_unit_is_told(good: Path, tmp_path: Path) -> None:
    corrupt(good, tmp_path / "mm.mcap", depths(lambda depth: depth * np.float32(5)))
    told = next(one for one in inspect_bag(tmp_path / "mm.mcap", frames=8).problems if one.check == "unit")
    assert told.severity == ERROR and told.value.startswith("depth makes the camera move 5 times as far")
    assert "--recording.depth_factor 0.2" in told.next_step
    mended = inspect_bag(tmp_path / "mm.mcap", RecordingConfig(depth_factor=0.2), frames=8)
    assert mended.usable and "unit" not in checks(mended, ERROR, WARNING)


def test_a_swapped_topic_is_named(good: Path, tmp_path: Path) -> None:
    swapped = faulty(good, tmp_path, "names of image and depth swapped")
    told = [problem.value for problem in swapped.problems if problem.check == "topics"]
    assert any(text.startswith("/camera/depth holds rgb8, no depth") for text in told)
    assert any(text.startswith("/camera/image holds 16UC1, depth") for text in told)
    picture = faulty(good, tmp_path, "a picture as depth")
    assert not picture.usable
    assert picture.problems[0].value == "/camera/depth holds rgb8, no depth"


def test_of_two_depth_topics_the_one_that_fits_is_taken(cards: Cards, good: Path, tmp_path: Path) -> None:
    def second(rows: list) -> list:  # type: ignore[type-arg]
        mirrored = depths(lambda depth: np.ascontiguousarray(depth[:, ::-1]))(rows)
        return rows + [row._replace(topic="/a_rear/depth") for row in mirrored if "depth" in row.topic]

    corrupt(good, tmp_path / "two.mcap", second)
    inspection = inspect_bag(tmp_path / "two.mcap", frames=4)
    assert inspection.selection.topics["depth"] == "/camera/depth"
    told = next(problem for problem in inspection.problems if problem.check == "topics")
    assert told.next_step == "name them: --recording.image_topic /camera/image --recording.depth_topic /camera/depth"


def test_depth_that_is_missing_or_stamped_late(good: Path, tmp_path: Path) -> None:
    half = faulty(good, tmp_path, "half of the depth missing")
    assert "50% of the images have depth within 20 ms" in next(p.value for p in half.problems if p.check == "sync")
    corrupt(good, tmp_path / "late.mcap", later(0.05, of_depth, receipt=False))
    late = inspect_bag(tmp_path / "late.mcap", frames=4)
    assert not late.usable
    assert "0% of the images have depth" in next(p.value for p in late.problems if p.check == "sync")


def test_a_bag_without_depth_or_poses(cards: Cards, tmp_path: Path) -> None:
    mono = inspect_bag(write(tmp_path / "mono.mcap", cards, with_depth=False))
    assert not mono.usable
    assert len(mono.samples.frames) == FRAMES and mono.alignment is None
    unposed = inspect_bag(write(tmp_path / "unposed.mcap", cards, with_poses=False), frames=4, match=lambda: orb)
    assert unposed.outlook is not None and unposed.outlook.by == "matches"
    assert unposed.outlook.pairs > 0 and unposed.selection.poses_from == "estimate"


def test_a_bag_that_cannot_be_opened_is_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="does not exist"):
        inspect_bag(tmp_path / "none.mcap")
    (tmp_path / "cut.mcap").write_bytes(good.read_bytes()[:2000])
    with pytest.raises(BagError, match="truncated or damaged"):
        inspect_bag(tmp_path / "cut.mcap")


def test_the_command_prints_what_it_documents_and_writes_a_page(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stfm_ros.cli.inspect import COMMAND

    corrupt(good, tmp_path / "shifted.mcap", FAULTS["depth 12 px to the right"].make)
    report = tmp_path / "page" / "report.html"
    assert main(["inspect", str(tmp_path / "shifted.mcap"), "--report", str(report), "--frames", "6", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["usable"] is False
    documented = {
        name.removeprefix("bags[].").removesuffix("[]") for name in COMMAND.fields if name.startswith("bags[].")
    }
    assert set(record["bags"][0]) == documented
    page = report.read_text(encoding="utf-8")
    assert "depth lies +12" in page and "Alignment of depth" in page
    assert page.count("data:image/") == 4


# ---- parts


def maps(cards: Cards, change: tuple[int, int] = (0, 0)) -> list[EdgeMap]:
    found = [edge_map(image, np.roll(depth, change, (1, 0))) for image, depth in cards.frames]
    return [one for one in found if one is not None]


@pytest.mark.parametrize("shift", [(0, 0), (12, 0), (0, -12), (-5, 7)])
def test_a_displacement_is_measured_to_half_a_pixel(cards: Cards, shift: tuple[int, int]) -> None:
    found = align(maps(cards, shift))
    assert found is not None
    assert found.offset_px == pytest.approx(shift, abs=0.6)
    assert found.best > 2 * found.elsewhere


def test_depth_of_other_images_agrees_nowhere(cards: Cards) -> None:
    others = [
        edge_map(image, cards.frames[FRAMES - 1 - i][1][::-1].copy()) for i, (image, _) in enumerate(cards.frames)
    ]
    found = align([one for one in others if one is not None])
    assert found is not None and found.best < 1.25 * found.elsewhere
    assert align([]) is None


def test_depth_of_a_wall_has_no_edges() -> None:
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    assert edge_map(image, np.full((120, 160), 2.0, np.float32)) is None
    assert edge_map(image, np.zeros((120, 160), np.float32)) is None


@pytest.mark.parametrize("lag", [-1, 0, 1])
def test_a_lag_is_measured_in_frames(cards: Cards, lag: int) -> None:
    found = []
    for i in range(1, FRAMES - 1):
        pictures = [cards.frames[k][0] for k in (i - 1, i, i + 1)]
        one = lag_maps(*pictures, cards.frames[i + lag][1])
        found += [one] if one else []
    told = find_lag(found)
    assert told is not None and told.frames == pytest.approx(lag, abs=0.5)


def test_intervals_gaps_and_clocks() -> None:
    stamps = np.array([0, 100, 200, 300, 700, 800, 790, 900]) * 1_000_000 + 1_000_000_000
    found = intervals(stamps, stamps + 30_000_000)
    assert found["rate_hz"] == pytest.approx(10)
    assert (found["gaps"], found["backwards"]) == (1, 1)
    assert found["longest_gap_s"] == pytest.approx(0.4)
    assert found["delay_ms"] == pytest.approx(30)
    assert intervals(stamps[:1], stamps[:1]) == {}


def test_blur_grows_with_blur(cards: Cards) -> None:
    image = cards.frames[0][0]
    values: Sequence[float] = [blur(np.asarray(cv2.GaussianBlur(image, (0, 0), s))) for s in (0.5, 1, 2, 4)]
    assert sorted(values) == list(values) and values[-1] > values[0] + 0.15
    assert blur(np.full((40, 40, 3), 7, np.uint8)) == 1.0


def test_exposure_counts_what_is_clipped() -> None:
    image = np.full((40, 40, 3), 128, np.uint8)
    image[:10], image[30:] = 0, 255
    found = exposure(image)
    assert (found.dark, found.bright) == (0.25, 0.25)
    assert found.span == 255


def test_the_page_of_a_good_bag_says_so(passed: Inspection) -> None:
    page = make_page([passed])
    assert [finding.tone for finding in page.findings if finding.text.endswith("nothing is wrong with it.")] in (
        ["good"], [],
    )  # fmt: skip
    assert page.figures[0].value == "1 of 1"
