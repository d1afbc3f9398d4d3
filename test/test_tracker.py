"""The tracker with a stand-in matcher whose matches follow a known motion."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from stfm_ros.config import AppConfig
from stfm_ros.errors import ImageError
from stfm_ros.scale import DepthScale
from stfm_ros.tracker import Track, Tracker
from stfm_ros.types import ByteArray, Camera, FloatArray, Matches, PoseStatus

K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
CAMERA = Camera(640, 480, K)
BLACK = 255
STEP_NS = 100_000_000


def image(number: int, width: int = 640, height: int = 480) -> ByteArray:
    """The image of the ``number``-th place; the stand-in reads it off the first pixel."""
    return np.full((height, width, 3), number, np.uint8)


class Standin:
    """Sees points 2-6 m ahead from ``number * step`` metres to the right; ``BLACK`` sees nothing."""

    def __init__(self, step: float = 0.02, points: int = 400) -> None:
        rng = np.random.default_rng(0)
        self.points: FloatArray = rng.uniform([-1.5, -1.0, 2.0], [1.5, 1.0, 6.0], (points, 3))
        self.step = step
        self.encoded: list[int] = []

    def features(self, picture: ByteArray) -> int:
        if picture.size == 0:
            raise ImageError("the image is 0x0")
        self.encoded.append(int(picture[0, 0, 0]))
        return self.encoded[-1]

    def match_features(self, features0: Any, features1: Any) -> Matches:
        if BLACK in (features0, features1):
            return Matches.empty()
        sides = []
        for number in (features0, features1):
            seen = (self.points - [number * self.step, 0, 0]) @ K.T
            sides.append((seen[:, :2] / seen[:, 2:]).astype(np.float32))
        ones = np.ones(len(self.points), np.float32)
        return Matches(sides[0], sides[1], ones, ones)


def tracker(matcher: Standin | None = None, **settings: object) -> Tracker:
    return Tracker(matcher or Standin(), AppConfig.from_mapping({f"tracker.{k}": v for k, v in settings.items()}))


def run(tracking: Tracker, numbers: list[int], camera: Camera | None = CAMERA) -> list[Track]:
    return [tracking.track(image(n), camera, i * STEP_NS, "camera") for i, n in enumerate(numbers)]


def test_the_first_image_has_no_reference() -> None:
    (first,) = run(tracker(), [0])
    assert first.pose.status is PoseStatus.NO_REFERENCE and first.pose.reason == "first image"
    assert first.new_keyframe and len(first.matches) == 0
    assert first.reference_stamp_ns == first.stamp_ns == 0 and first.size0 == first.size1 == (640, 480)


def test_a_pair_gives_the_motion_and_says_of_what() -> None:
    _, track = run(tracker(), [0, 5])
    assert track.pose.status is PoseStatus.OK, track.pose.reason
    assert (track.stamp_ns, track.reference_stamp_ns) == (STEP_NS, 0)
    assert (track.frame_id, track.reference_frame_id) == ("camera", "camera")
    R, position = track.pose.camera1_in_camera0
    assert np.degrees(np.linalg.norm(cv2.Rodrigues(R)[0])) < 0.05
    assert position == pytest.approx([1, 0, 0], abs=0.01)
    assert set(track.timings_ms) == {"features", "pair", "pose"} and track.timings_ms["pose"] > 0
    assert track.image0[0, 0, 0] == 0 and track.image1[0, 0, 0] == 5


class DepthStandin(Standin):
    """An RGB-D model: it is given the depth of each image too."""

    def __init__(self) -> None:
        super().__init__()
        self.depths: list[Any] = []

    def features(self, picture: ByteArray, depth: Any = None) -> int:
        self.depths.append(depth)
        return super().features(picture)

    def depth(self, number: int) -> Any:
        """(480, 640) metres of its points in the ``number``-th place, and of nothing else."""
        places = self.points - [number * self.step, 0, 0]
        pixels = places @ K.T
        column, row = np.rint(pixels[:, :2] / pixels[:, 2:]).astype(int).T
        metres = np.zeros((480, 640), np.float32)
        seen = (column >= 0) & (column < 640) & (row >= 0) & (row < 480)
        metres[row[seen], column[seen]] = places[seen, 2]
        return metres


def test_depth_goes_to_the_model_and_gives_the_metres() -> None:
    matcher = DepthStandin()
    config = AppConfig.from_mapping({"odometry.scale": "depth"})
    given, none = (Tracker(matcher, config, DepthScale(config.odometry)) for _ in range(2))
    depths = [matcher.depth(number) for number in (0, 10)]
    for i, depth in enumerate(depths):
        track = given.track(image(10 * i), CAMERA, i * STEP_NS, "camera", depth)
    assert matcher.depths[0] is depths[0] and matcher.depths[1] is depths[1]
    assert track.depth0 is depths[0] and track.depth1 is depths[1]
    assert track.pose.metric, track.pose.reason
    assert track.pose.camera1_in_camera0[1] == pytest.approx([0.2, 0, 0], abs=0.005)
    _, track = run(none, [0, 10])
    assert matcher.depths[2:] == [None, None] and track.depth0 is None and track.depth1 is None
    assert not track.pose.metric and "no metric length: no depth image within" in track.pose.reason


def test_each_image_is_encoded_once() -> None:
    matcher = Standin()
    run(tracker(matcher), [0, 1, 2, 3, 4])
    assert matcher.encoded == [0, 1, 2, 3, 4]


def test_the_previous_image_as_reference() -> None:
    tracks = run(tracker(reference="previous"), [0, 3, 6, 9])
    assert [track.reference_stamp_ns // STEP_NS for track in tracks] == [0, 0, 1, 2]
    assert all(track.new_keyframe for track in tracks)


def test_a_keyframe_stays_until_parallax() -> None:
    tracks = run(tracker(keyframe_parallax_deg=4.0), list(range(0, 40, 4)))
    assert [track.reference_stamp_ns // STEP_NS for track in tracks][:3] == [0, 0, 0]
    replaced = [i for i, track in enumerate(tracks) if track.new_keyframe]
    assert replaced[0] == 0 and 1 < len(replaced) < len(tracks)
    for i in replaced[1:]:
        assert tracks[i].pose.parallax_deg > 4.0  # the old reference was matched once more before it went
        if i + 1 < len(tracks):
            assert tracks[i + 1].reference_stamp_ns == tracks[i].stamp_ns


def test_a_keyframe_goes_with_age_and_with_few_inliers() -> None:
    aged = run(tracker(keyframe_age_s=0.25, keyframe_parallax_deg=90.0), [0, 1, 2, 3, 4])
    assert [track.new_keyframe for track in aged] == [True, False, False, True, False]
    few = run(tracker(Standin(points=60), keyframe_parallax_deg=90.0), [0, 5, 10])
    assert all(track.new_keyframe for track in few) and few[2].pose.status is PoseStatus.OK


class ShortSighted(Standin):
    """Loses 30 of 400 points a place, and all of them from one place on to the next but one behind a ``wall``."""

    def __init__(self, wall: int = 1000) -> None:
        super().__init__()
        self.wall = wall

    def match_features(self, features0: Any, features1: Any) -> Matches:
        seen = super().match_features(features0, features1)
        apart = abs(features1 - features0)
        if features0 < self.wall <= features1:
            apart *= 6
        return seen.take(np.arange(len(seen)) < 400 - 30 * apart)


def test_the_last_image_that_had_enough_in_common_becomes_the_keyframe() -> None:
    settings: dict[str, object] = {"keyframe_share": 0.0, "keyframe_parallax_deg": 90.0, "keyframe_age_s": 100.0}
    settings["keyframe_inliers"] = 100
    tracks = run(tracker(ShortSighted(), **settings), list(range(0, 28, 2)))
    references = [track.reference_stamp_ns // STEP_NS for track in tracks]
    # the tenth place has 100 points in common with the first, the twelfth 40; and so on from the tenth
    assert references == [0] * 6 + [5] * 5 + [10] * 3
    assert [i for i, track in enumerate(tracks) if track.moved_on] == [6, 11]
    assert not any(track.new_keyframe for track in tracks[1:]), "no image is the keyframe before it is well joined"
    assert min(int(track.pose.inliers.sum()) for track in tracks[1:]) >= 100
    assert all(track.moved_on is False for track in run(tracker(Standin(points=60), **settings), [0, 5, 10]))


def test_a_keyframe_goes_when_a_share_of_its_best_pair_is_left() -> None:
    settings: dict[str, object] = {"keyframe_share": 0.5, "keyframe_parallax_deg": 90.0, "keyframe_age_s": 100.0}
    tracks = run(tracker(ShortSighted(), keyframe_inliers=20, **settings), list(range(0, 20, 2)))
    # of the 340 points that the next image but one shows 160 are left at the eighth place, and so on from the sixth
    assert [track.reference_stamp_ns // STEP_NS for track in tracks] == [0] * 4 + [3] * 3 + [6] * 3
    still = run(tracker(ShortSighted(), keyframe_inliers=20, **settings), [0, 0, 0])
    assert not any(track.new_keyframe for track in still[1:])


def test_a_sudden_change_is_bridged_by_the_image_before() -> None:
    tracks = run(tracker(ShortSighted(wall=5), keyframe_inliers=100, keyframe_parallax_deg=90.0), [0, 4, 6])
    assert tracks[2].pose.status.has_translation and tracks[2].moved_on
    assert tracks[2].reference_stamp_ns == STEP_NS
    assert tracks[2].new_keyframe, "it is weak against the image before too: the next one goes by it"


def test_a_keyframe_that_was_asked_for_is_taken_although_the_reference_moved_on() -> None:
    tracking = tracker(ShortSighted(), keyframe_inliers=100, keyframe_parallax_deg=90.0)
    run(tracking, [0, 10])
    tracking.renew()
    track = tracking.track(image(12), CAMERA, 2 * STEP_NS, "camera")
    assert track.moved_on and track.new_keyframe


def test_a_black_image_does_not_become_the_reference() -> None:
    for reference in ("previous", "keyframe"):
        tracks = run(tracker(reference=reference), [0, BLACK, 5])
        assert tracks[1].pose.status is PoseStatus.FEW_MATCHES and not tracks[1].new_keyframe
        assert tracks[2].pose.status is PoseStatus.OK and tracks[2].reference_stamp_ns == 0


def test_lost_replaces_the_reference() -> None:
    tracks = run(tracker(lost_after=3), [BLACK, 1, 2, 3, 8, 9])
    statuses = [track.pose.status for track in tracks]
    few, lost = PoseStatus.FEW_MATCHES, PoseStatus.LOST
    assert statuses[:4] == [PoseStatus.NO_REFERENCE, few, few, lost]
    assert tracks[3].new_keyframe and not tracks[2].new_keyframe
    assert tracks[3].pose.reason == (
        "3 pairs in a row without a pose (0 usable matches, fewer than 20): the reference is replaced"
    )
    assert tracks[4].pose.status is PoseStatus.OK and tracks[4].reference_stamp_ns == 3 * STEP_NS


def test_without_a_camera_matches_are_delivered() -> None:
    tracks = run(tracker(), [0, 5, 6], camera=None)
    for track in tracks[1:]:
        assert track.pose.status is PoseStatus.NO_CAMERA_INFO and len(track.matches) == 400
        assert not track.pose.inliers.any() and not track.new_keyframe
    assert "publish camera_info" in tracks[1].pose.reason


def test_without_a_camera_a_black_reference_goes_too() -> None:
    tracks = run(tracker(lost_after=2), [BLACK, 1, 2, 3], camera=None)
    assert [track.new_keyframe for track in tracks] == [True, False, True, False]
    assert len(tracks[3].matches) == 400


def test_a_calibration_that_comes_late_serves_the_reference_too() -> None:
    tracking = tracker()
    tracking.track(image(0), None, 0, "camera")
    assert tracking.track(image(5), CAMERA, STEP_NS, "camera").pose.status is PoseStatus.OK


def test_a_calibration_of_another_size_is_refused() -> None:
    tracks = run(tracker(), [0, 5], camera=Camera(1280, 720, K))
    assert tracks[1].pose.status is PoseStatus.NO_CAMERA_INFO
    assert tracks[1].pose.reason == ("camera_info is of 1280x720, the image is 640x480: publish the one of this image")


def test_another_image_size_starts_anew() -> None:
    tracking = tracker()
    run(tracking, [0, 1])
    track = tracking.track(image(2, 320, 240), None, 2 * STEP_NS, "camera")
    assert track.pose.status is PoseStatus.NO_REFERENCE and track.new_keyframe
    assert track.pose.reason == "the image size changed from 640x480 to 320x240: a new reference is taken"
    assert track.size0 == track.size1 == (320, 240)


def test_another_camera_starts_anew() -> None:
    tracking = tracker()
    run(tracking, [0, 1])
    track = tracking.track(image(2), CAMERA, 2 * STEP_NS, "left")
    assert track.pose.status is PoseStatus.NO_REFERENCE
    assert track.pose.reason == "the frame changed from 'camera' to 'left': a new reference is taken"


def test_a_stamp_that_jumps_back_starts_anew() -> None:
    tracking = tracker()
    run(tracking, [0, 1, 2])
    back = tracking.track(image(3), CAMERA, STEP_NS // 2, "camera")
    assert back.pose.status is PoseStatus.NO_REFERENCE
    assert back.pose.reason == "the stamp jumped back by 0.150 s: a new reference is taken"
    again = tracking.track(image(8), CAMERA, STEP_NS, "camera")
    assert again.pose.status is PoseStatus.OK and again.reference_stamp_ns == STEP_NS // 2


def test_an_image_that_cannot_be_used_changes_nothing() -> None:
    tracking = tracker()
    run(tracking, [0, 1])
    with pytest.raises(ImageError, match="0x0"):
        tracking.track(np.zeros((0, 0, 3), np.uint8), CAMERA, 2 * STEP_NS, "camera")
    track = tracking.track(image(6), CAMERA, 3 * STEP_NS, "camera")
    assert track.pose.status is PoseStatus.OK and track.reference_stamp_ns == 0


def test_reset_forgets() -> None:
    tracking = tracker()
    run(tracking, [0, 1])
    tracking.reset("asked for")
    track = tracking.track(image(2), CAMERA, 0, "camera")
    assert track.pose.status is PoseStatus.NO_REFERENCE and track.pose.reason == "asked for"


def test_a_camera_that_stands_still_is_not_lost() -> None:
    tracks = run(tracker(lost_after=2), [4] * 6)
    assert {track.pose.status for track in tracks[1:]} == {PoseStatus.STATIC}
    assert not any(track.new_keyframe for track in tracks[1:])


def test_a_camera_that_stands_still_keeps_its_keyframe_and_a_creep_adds_up() -> None:
    settings = {"keyframe_age_s": 0.25, "keyframe_inliers": 1000, "keyframe_parallax_deg": 90.0}
    for reference in ("keyframe", "previous"):
        still = run(tracker(reference=reference, **settings), [4] * 8)
        assert not any(track.new_keyframe or track.moved_on for track in still[1:])
        # 0.25 px an image at 4 m: no pair of neighbours shows it
        creep = run(tracker(Standin(step=0.0025), reference=reference, **settings), list(range(10)))
        assert [track.pose.status for track in creep[1:3]] == [PoseStatus.STATIC] * 2
        first = next(track for track in creep[1:] if track.pose.status is not PoseStatus.STATIC)
        assert first.reference_stamp_ns == 0


def test_when_lost_the_old_view_is_known_again() -> None:
    tracks = run(tracker(lost_after=3), [0, 5, *[BLACK] * 7, 6, 7])
    few, lost = PoseStatus.FEW_MATCHES, PoseStatus.LOST
    assert [track.pose.status for track in tracks[2:9]] == [few, few, lost, lost, lost, lost, lost]
    assert tracks[9].pose.status is PoseStatus.STATIC or tracks[9].pose.status.has_translation
    assert tracks[9].reference_stamp_ns == STEP_NS, "the last image that had a pose"
    assert tracks[9].moved_on and tracks[10].reference_stamp_ns == STEP_NS


class TwoRooms(Standin):
    """From place 100 on it sees another room."""

    def match_features(self, features0: Any, features1: Any) -> Matches:
        if (features0 < 100) != (features1 < 100):
            return Matches.empty()
        return super().match_features(features0, features1)


def test_when_lost_a_new_view_is_taken_up_with_its_second_image() -> None:
    tracks = run(tracker(TwoRooms(), lost_after=3), [0, 5, *[BLACK] * 4, 101, 104, 106])
    assert tracks[6].pose.status is PoseStatus.LOST and tracks[6].new_keyframe
    assert tracks[7].pose.status is PoseStatus.OK and tracks[7].reference_stamp_ns == 6 * STEP_NS
    assert tracks[8].pose.status is PoseStatus.OK and tracks[8].reference_stamp_ns == 6 * STEP_NS
