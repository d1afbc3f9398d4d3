"""Frozen records that travel between the rooms of the package.

Conventions, everywhere outside ``stfm_ros.model``:

* Pixels: ``(x, y)``, x to the right, y down; the centre of the top-left pixel is ``(0, 0)`` (as in
  OpenCV and in ROS's ``sensor_msgs/CameraInfo``).
* Camera frames are optical frames (REP-103): z forward, x right, y down. Metres.
* Image 0 is the reference (earlier) image, image 1 the current one.
* ``T_0to1`` maps points of camera 0 into camera 1: ``X1 = R X0 + t``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import CameraError, brief

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]

#: number of distortion coefficients by model (REP-104; order as in sensor_msgs/CameraInfo.D)
DISTORTION_MODELS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}


@dataclass(frozen=True)
class Camera:
    """A calibrated camera.

    Args:
        width, height: size of the image in pixels.
        K: (3, 3) float64 intrinsic matrix in pixels.
        distortion_model: one of :data:`DISTORTION_MODELS` (``none`` for a rectified image).
        D: (n,) float64 distortion coefficients in CameraInfo order.
        R: (3, 3) float64 rotation into the rectified frame, which the cameras of a stereo pair share.
        P: (3, 4) float64 projection from there into the rectified image; ``P[0, 3]`` is -fx times the metres that
            the camera is to the right of the first of its pair. Zeros stand for a single camera.

    Raises:
        CameraError: a value is not finite, a focal length is not positive, the model is unknown or
            the number of coefficients does not fit it.
    """

    width: int
    height: int
    K: FloatArray
    distortion_model: str = "none"
    D: FloatArray = field(default_factory=lambda: np.zeros(0))
    R: FloatArray = field(default_factory=lambda: np.eye(3))
    P: FloatArray = field(default_factory=lambda: np.zeros((3, 4)))

    def __post_init__(self) -> None:
        K = np.asarray(self.K, dtype=np.float64).reshape(3, 3)
        D = np.asarray(self.D, dtype=np.float64).ravel()
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "D", D)
        alone = {"R": np.eye(3), "P": np.hstack([K, np.zeros((3, 1))])}
        for name, single in alone.items():  # many drivers leave them at zero
            given = np.asarray(getattr(self, name), dtype=np.float64)
            told = bool(np.isfinite(given).all() and given.any())
            object.__setattr__(self, name, given.reshape(single.shape) if told else single)
        if not np.isfinite(K).all() or not np.isfinite(D).all():
            raise CameraError(
                f"camera_info holds values that are not finite: K={K.ravel().tolist()}, "
                f"D={brief(D.tolist(), 200)}; calibrate the camera or fix its driver"
            )
        if K[0, 0] <= 0 or K[1, 1] <= 0:
            raise CameraError(
                f"focal lengths fx={K[0, 0]}, fy={K[1, 1]} must be positive; an all-zero K means "
                "that the camera is not calibrated: run camera_calibration"
            )
        if self.distortion_model not in DISTORTION_MODELS:
            raise CameraError(
                f"distortion model {brief(self.distortion_model)} is not one of "
                f"{', '.join(DISTORTION_MODELS)}; rectify the image upstream (image_proc)"
            )
        if D.size not in DISTORTION_MODELS[self.distortion_model]:
            counts = " or ".join(map(str, DISTORTION_MODELS[self.distortion_model]))
            raise CameraError(
                f"distortion model {self.distortion_model!r} takes {counts} coefficients, "
                f"got {D.size}; check D in camera_info"
            )


@dataclass(frozen=True)
class Matches:
    """Correspondences of two images, best first.

    Attributes:
        keypoints0, keypoints1: (n, 2) float32, pixels of the images that were given.
        confidence: (n,) float32 in (0, 1], the chance of being right; 1 where nothing is known of it.
        sigma: (n,) float32, 1-sigma of ``keypoints1`` in pixels of image 1, per axis.
    """

    keypoints0: Float32Array
    keypoints1: Float32Array
    confidence: Float32Array
    sigma: Float32Array

    def __len__(self) -> int:
        return len(self.confidence)

    def take(self, index: NDArray[Any]) -> Matches:
        """The matches at ``index`` (integers or a boolean mask)."""
        return Matches(self.keypoints0[index], self.keypoints1[index], self.confidence[index], self.sigma[index])

    @staticmethod
    def joined(first: Matches, second: Matches) -> Matches:
        """Those of ``first``, then those of ``second``."""
        columns = zip(first.columns, second.columns)
        return Matches(*(np.concatenate(both) for both in columns))

    @property
    def columns(self) -> tuple[Float32Array, ...]:
        """The fields in order."""
        return self.keypoints0, self.keypoints1, self.confidence, self.sigma

    @staticmethod
    def empty() -> Matches:
        """No matches at all."""
        points = np.zeros((0, 2), np.float32)
        return Matches(points, points, np.zeros(0, np.float32), np.zeros(0, np.float32))


class PoseStatus(IntEnum):
    """Why a relative pose is as it is; equals the constants of ``msg/RelativePose.msg``."""

    OK = 0
    FEW_MATCHES = 1
    STATIC = 2
    ROTATION_ONLY = 3
    PLANAR = 4
    LOW_PARALLAX = 5
    LOST = 6
    NO_CAMERA_INFO = 7
    NO_REFERENCE = 8
    TWO_MOTIONS = 9

    @property
    def has_rotation(self) -> bool:
        """Whether the rotation may be used."""
        return self in _WITH_ROTATION

    @property
    def has_translation(self) -> bool:
        """Whether the direction of translation may be used."""
        return self in (PoseStatus.OK, PoseStatus.PLANAR, PoseStatus.LOW_PARALLAX, PoseStatus.TWO_MOTIONS)


_WITH_ROTATION = (
    PoseStatus.OK,
    PoseStatus.STATIC,
    PoseStatus.ROTATION_ONLY,
    PoseStatus.PLANAR,
    PoseStatus.LOW_PARALLAX,
    PoseStatus.TWO_MOTIONS,
)


@dataclass(frozen=True)
class RelativePose:
    """Motion between two images: ``X1 = R X0 + t``.

    Attributes:
        R: (3, 3) float64 rotation of T_0to1.
        t: (3,) float64 translation of T_0to1; metres where ``metric``, else of unit length, or zero
            where the status has no translation.
        covariance: (6, 6) float64 of the pose that is published (camera 1 in camera 0), row-major
            ``x y z rotX rotY rotZ`` (REP-103; rotation vector about the fixed axes of camera 0).
            Translation in metres^2 where ``metric``, else in units of the unit vector.
        inliers: (n,) bool, one for each match that was given.
        status, reason: what the pose is worth, as a constant and in words.
        parallax_deg: median parallax of the inliers after the rotation is removed.
        metric: whether ``t`` is in metres.
    """

    R: FloatArray
    t: FloatArray
    covariance: FloatArray
    inliers: BoolArray
    status: PoseStatus
    reason: str
    parallax_deg: float = 0.0
    metric: bool = False

    @property
    def camera1_in_camera0(self) -> tuple[FloatArray, FloatArray]:
        """(R, t) of the current camera in the reference camera, the inverse of T_0to1."""
        return self.R.T, -self.R.T @ self.t


@dataclass(frozen=True)
class EngineSpec:
    """What an exported model is; kept in ``spec.json`` beside the graphs and in their metadata.

    Attributes:
        name: of the model, as in messages.
        preset: of the architecture.
        height, width: of the fitted image, pixels.
        k: rows that come out of the pair graph.
        weights_hash: first 12 hex digits over all weights.
        sigma_scale: what the network's sigma is multiplied with (calibrated on held-out scenes).
        files: SHA-256 of each file of the export.
        made_with: versions of the package and of the exporter.
        channels: of the fitted image: 3 is RGB; 4 is RGB-D, the fourth being depth / 10 m, 0 where there is none.
        gflops: 1e9 floating-point operations of each graph: those of its matrix products and convolutions, a
            multiply-add being two; empty in exports that did not count them.
    """

    name: str
    preset: str
    height: int
    width: int
    k: int
    weights_hash: str
    sigma_scale: float = 1.0
    files: dict[str, str] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)
    channels: int = 3
    gflops: dict[str, float] = field(default_factory=dict)
