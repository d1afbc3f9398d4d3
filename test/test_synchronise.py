"""Which depth belongs to which image: the same tests for the package's own matching and for message_filters."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from stfm_ros import messages
from stfm_ros.errors import ImageError
from stfm_ros.scale import DEPTHS, DepthPairs, NearestStamp

MS = 1_000_000
STEP = 33 * MS
SLOP = 20 * MS


def header(stamp_ns: int) -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(**messages.time(stamp_ns)), frame_id="camera")


def depth(stamp_ns: int) -> Any:
    return SimpleNamespace(header=header(stamp_ns), of=stamp_ns)


@pytest.fixture(params=["own", "message_filters"])
def pairs(request: pytest.FixtureRequest) -> DepthPairs:
    if request.param == "own":
        return NearestStamp()
    if find_spec("message_filters") is None:
        pytest.skip("message_filters is not on PyPI: source an installed ROS 2; docs/node.md has the last run")
    from stfm_ros.nodes.synchronise import Synchroniser

    return Synchroniser()


def found(pairs: DepthPairs, stamp_ns: int, slop_ns: int = SLOP) -> int | None:
    depth = pairs.find(stamp_ns, slop_ns)
    return None if depth is None else depth.of


@pytest.mark.parametrize("depth_first", [True, False])
@pytest.mark.parametrize(
    ("apart", "slop", "fits"), [(0, 0, True), (1, 0, False), (7, 20, True), (-20, 20, True), (21, 20, False)]
)
def test_a_stamp_within_the_slop_belongs(
    pairs: DepthPairs, depth_first: bool, apart: int, slop: int, fits: bool
) -> None:
    image, other = 10**18, 10**18 + apart * MS
    if depth_first:
        pairs.add_depth(depth(other), slop * MS)
    pairs.add_image(header(image), slop * MS)
    if not depth_first:
        assert found(pairs, image, slop * MS) is None, "an image does not wait"
        pairs.add_depth(depth(other), slop * MS)
    assert found(pairs, image, slop * MS) == (other if fits else None)


def test_of_several_the_nearest_belongs(pairs: DepthPairs) -> None:
    for at in (-15, 4, 12):
        pairs.add_depth(depth(at * MS), SLOP)
    pairs.add_image(header(0), SLOP)
    assert found(pairs, 0) == 4 * MS


def test_depth_that_comes_late_or_never(pairs: DepthPairs) -> None:
    """Every other image has depth, 10 images late; the last that are kept are found."""
    for k in range(100):
        pairs.add_image(header(k * STEP), SLOP)
        if k >= 10 and k % 2 == 0:
            pairs.add_depth(depth((k - 10) * STEP + 3 * MS), SLOP)
    there = [k for k in range(100) if found(pairs, k * STEP) is not None]
    assert there == list(range(90 - 2 * DEPTHS, 90, 2))
    assert found(pairs, 88 * STEP) == 88 * STEP + 3 * MS


def test_the_slop_may_change(pairs: DepthPairs) -> None:
    for k, slop in enumerate((5 * MS, 15 * MS)):
        pairs.add_image(header(k * STEP), slop)
        pairs.add_depth(depth(k * STEP + 10 * MS), slop)
        assert (found(pairs, k * STEP, slop) is not None) == (k == 1)


def test_a_recording_that_starts_again(pairs: DepthPairs) -> None:
    for _ in range(2):
        for k in range(50):
            pairs.add_image(header(k * STEP), SLOP)
            pairs.add_depth(depth(k * STEP + MS), SLOP)
        assert found(pairs, 49 * STEP) == 49 * STEP + MS


def test_odd_stamps(pairs: DepthPairs) -> None:
    """Of the year 2038, and of before 1970: what follows is brought together all the same."""
    for stamp in ((2**31 - 1) * 10**9, -(2**31) * 10**9, -5, 10**18):
        pairs.add_image(header(stamp), SLOP)
        pairs.add_depth(depth(stamp), SLOP)
        assert found(pairs, stamp) == stamp
    broken = depth(0)
    broken.header.stamp.nanosec = 10**9
    with pytest.raises(ImageError, match="1000000000 nanoseconds beside its 0 s"):
        pairs.add_depth(broken, SLOP)


def test_it_is_asked_from_another_thread(pairs: DepthPairs) -> None:
    seen: list[int | None] = []
    asking = threading.Thread(target=lambda: seen.extend(found(pairs, k % 300 * STEP) for k in range(3000)))
    asking.start()
    for k in range(300):
        pairs.add_depth(depth(k * STEP), SLOP)
        pairs.add_image(header(k * STEP), SLOP)
    asking.join()
    assert len(seen) == 3000 and found(pairs, 299 * STEP) == 299 * STEP


def test_message_filters_is_used_where_it_is_installed() -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
    from stfm_ros.nodes.synchronise import Synchroniser, depth_pairs

    assert isinstance(depth_pairs(), NearestStamp if find_spec("message_filters") is None else Synchroniser)
