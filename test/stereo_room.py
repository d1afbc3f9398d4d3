"""A textured wall that stands askew, seen by any camera, with its exact depth; stereo recordings of it.

As a script: the matcher node with a matcher that needs no weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagWriter
from stfm_ros.geometry import normalise_points
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray, Matches

#: pixels of the texture for each metre of the wall, and its size in metres
PER_M, SIDE_M = 250, 12.0
#: the wall: points with NORMAL . X = OFFSET in the first camera; near at the left
NORMAL, OFFSET = np.array([0.25, 0.1, 1.0]), 2.5
K = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
PERIOD_NS = 100_000_000


def texture() -> ByteArray:
    """Noise at several scales, (n, n, 3) uint8."""
    rng = np.random.default_rng(3)
    side = int(PER_M * SIDE_M)
    picture = np.zeros((side, side, 3), np.float32)
    for cells, weight in ((40, 60), (160, 70), (600, 90)):
        noise = rng.random((cells, cells, 3), np.float32)
        picture += weight * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


TEXTURE = texture()


def view(camera: Camera, T_world_to_camera: FloatArray) -> tuple[ByteArray, Float32Array]:
    """Image (H, W, 3) and exact depth (H, W) in metres; the world is the first camera."""
    shape = camera.height, camera.width
    pixels = np.indices(shape)[::-1].reshape(2, -1).T
    rays = np.column_stack([normalise_points(pixels, camera), np.ones(len(pixels))])
    R, t = T_world_to_camera[:3, :3], T_world_to_camera[:3, 3]
    z = (OFFSET + NORMAL @ R.T @ t) / (rays @ R @ NORMAL)  # along the optical axis
    world = (rays * z[:, None] - t) @ R
    places = ((world[:, :2] + SIDE_M / 2) * PER_M).astype(np.float32).reshape(*shape, 2)
    image = cv2.remap(TEXTURE, places[..., 0], places[..., 1], cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(image, np.uint8), z.reshape(shape).astype(np.float32)


def moved(x: float = 0.0, z: float = 0.0, turn: tuple[float, float, float] = (0, 0, 0)) -> FloatArray:
    """T_world_to_camera of a camera at (x, 0, z), turned."""
    T = np.eye(4)
    T[:3, :3] = np.asarray(cv2.Rodrigues(np.array(turn, np.float64))[0])
    T[:3, 3] = -T[:3, :3] @ (x, 0, z)
    return T


def rectified_pair(baseline_m: float = 0.12) -> tuple[Camera, Camera]:
    """Two cameras side by side as a rectified pair is published."""
    P = np.hstack([K, [[-300.0 * baseline_m], [0], [0]]])
    return Camera(320, 240, K), Camera(320, 240, K, P=P)


def raw_pair(model: str = "plumb_bob") -> tuple[tuple[Camera, Camera], FloatArray]:
    """Two distorted cameras that stand askew, calibrated by OpenCV; and T_first_to_second."""
    D = {"plumb_bob": [-0.28, 0.07, 2e-4, 2e-5], "equidistant": [-0.01, 0.02, -0.01, 0.002]}[model]
    first = Camera(320, 240, K, model, np.array(D))
    second = Camera(320, 240, K + [[4, 0, 3], [0, 4, -2], [0, 0, 0]], model, np.array(D) * 1.02)
    T = moved(0.12, turn=(0.01, -0.02, 0.015))
    maps = cv2.fisheye if model == "equidistant" else cv2
    arguments = (first.K, first.D, second.K, second.D, (320, 240), T[:3, :3], T[:3, 3])
    R1, R2, P1, P2, *_ = maps.stereoRectify(*arguments, flags=cv2.CALIB_ZERO_DISPARITY)
    return (
        Camera(320, 240, first.K, model, first.D, R1, P1),
        Camera(320, 240, second.K, model, second.D, R2, P2),
    ), T


def stereo_bag(bag: Path, frames: int = 4, step_m: float = 0.03, baseline_m: float = 0.12) -> Path:
    """A rectified pair that moves sideways, each camera with image and camera_info."""
    cameras = rectified_pair(baseline_m)
    with BagWriter(bag) as writer:
        for i in range(frames):
            stamp = 1_000_000_000 + i * PERIOD_NS
            for name, camera, x in zip(("left", "right"), cameras, (0.0, baseline_m), strict=True):
                image, _ = view(camera, moved(i * step_m + x))
                writer.write(f"/{name}/image", IMAGE_TYPES[0], messages.image(stamp, name, image), stamp)
                info = messages.camera_info(stamp, name, camera)
                writer.write(f"/{name}/camera_info", CAMERA_INFO_TYPE, info, stamp)
    return bag


class FlowMatcher:
    """The shape of ``stfm_ros.matcher.Matcher``, on corners and optical flow: quick, and to a fraction of a pixel."""

    model_name = "flow"
    weights_hash = "0" * 64
    runtime_name = "opencv"
    reason = "asked for by the test"
    takes_depth = False
    height, width = 240, 320

    def features(self, image: ByteArray) -> ByteArray:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)

    def match_features(self, features0: ByteArray, features1: ByteArray) -> Matches:
        corners = cv2.goodFeaturesToTrack(features0, 300, 0.01, 6)
        found, status, _ = cv2.calcOpticalFlowPyrLK(features0, features1, corners, None, winSize=(15, 15), maxLevel=3)
        back, _, _ = cv2.calcOpticalFlowPyrLK(features1, features0, found, None, winSize=(15, 15), maxLevel=3)
        keep = (status.ravel() == 1) & (np.abs(back - corners).max(axis=(1, 2)) < 0.3)
        ones = np.ones(int(keep.sum()), np.float32)
        return Matches(corners[keep, 0], found[keep, 0], ones, 0.3 * ones)


if __name__ == "__main__":
    from stfm_ros.nodes.matcher import main

    sys.exit(main(load=lambda config: FlowMatcher()))  # type: ignore[arg-type, return-value]
