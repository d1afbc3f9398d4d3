"""10,000 malformed messages, drawn by hypothesis, into the decoders, the node's callbacks and a node over DDS.

Every run draws the same ones, so that it fails for the change that broke something. ``STFM_FUZZ=100000`` draws so many
others.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from malformed import camera_infos, compressed_images, images, odometries, record, twists

from stfm_ros.config import OdometryConfig
from stfm_ros.errors import CameraError, ImageError
from stfm_ros.fresh_process import run_fresh
from stfm_ros.images import camera_from_info, check_depth, decode_depth, decode_image, fit, is_depth
from stfm_ros.scale import OdometryScale, TwistScale

MESSAGES = int(os.environ.get("STFM_FUZZ", 10_000))
#: messages that are drawn together, which is quicker
BATCH = 10


def drawn(share: float, shrink: bool = True) -> settings:
    """Settings that draw this share of all messages; shrinking what fails takes minutes where a node is asked."""
    return settings(
        max_examples=max(10, round(MESSAGES * share)),
        derandomize="STFM_FUZZ" not in os.environ,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def memory_mb(name: str) -> float:
    """Of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def test_decoders_give_pixels_or_their_own_error() -> None:
    grown_mb = run_fresh(decode_all, environment={"PYTHONPATH": str(Path(__file__).parent)})
    assert grown_mb < 300


def decode_all() -> float:
    """By how much memory the process grew at most; in one of its own, since others leave and take memory too."""
    Path("/proc/self/clear_refs").write_text("5")  # begins VmHWM anew
    before = memory_mb("VmRSS")
    decode()
    return memory_mb("VmHWM") - before


@drawn(0.5 / BATCH)
@given(st.lists(images() | images(("16UC1", "32FC1", "mono16")) | compressed_images(), min_size=BATCH, max_size=BATCH))
def decode(batch: list[dict[str, Any]]) -> None:
    for fields in batch:
        msg = record(fields)
        is_depth(msg)
        check_image(msg)
        check_metres(msg)


def check_image(msg: Any) -> None:
    try:
        rgb = decode_image(msg)
    except ImageError:
        return
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size > 0
    assert np.isfinite(fit(rgb, 64, 96)[0]).all()


def check_metres(msg: Any) -> None:
    """What is refused without being decoded would be refused by decoding it too."""
    refused = False
    try:
        check_depth(msg)
    except ImageError:
        refused = True
    try:
        depth = decode_depth(msg)
    except ImageError:
        return
    assert not refused
    assert depth.dtype == np.float32 and depth.ndim == 2 and np.isfinite(depth).all() and (depth >= 0).all()


@drawn(0.1 / BATCH)
@given(st.lists(camera_infos(), min_size=BATCH, max_size=BATCH))
def test_a_calibration_is_a_camera_or_an_error(batch: list[dict[str, Any]]) -> None:
    for fields in batch:
        try:
            camera = camera_from_info(record(fields))
        except CameraError:
            continue
        assert camera.width > 0 and camera.height > 0 and np.isfinite(camera.K).all() and camera.K[0, 0] > 0


@drawn(0.01)
@given(odometry=st.lists(odometries(), min_size=2, max_size=4), twist=st.lists(twists(), min_size=2, max_size=4))
def test_motions_stay_finite(odometry: list[dict[str, Any]], twist: list[dict[str, Any]]) -> None:
    for source, messages in ((OdometryScale, odometry), (TwistScale, twist)):
        scale = source(OdometryConfig(scale_gap_s=10.0))
        for fields in messages:
            try:
                scale.take(record(fields))
            except ImageError:
                continue
            stamp = fields["header"]["stamp"]
            found = scale._at(stamp["sec"] * 10**9 + stamp["nanosec"])
            assert isinstance(found, str) or np.isfinite(found).all()
