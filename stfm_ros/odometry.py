"""Chained poses as odometry: where the body is in the odom frame, how well that is known, and how fast it moves.

The odom frame lies where the body was at the first reference: x forward, y left, z up (REP-103), continuous (REP-105).
The body is the camera, or the base that carries it. Covariances are (6, 6) in the order ``x y z rotX rotY rotZ``: of a
pose about the fixed axes of its parent frame, of a twist in the body. They grow by composition along the references,
not along the images between them: an image is as well known as its reference and the one pair that joins the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stfm_ros.chain import Chain, Placed
from stfm_ros.config import OdometryConfig, PoseConfig
from stfm_ros.motion import compose, inverse, logarithm
from stfm_ros.types import Camera, FloatArray

if TYPE_CHECKING:
    from stfm_ros.tracker import Track

#: the optical frame (z forward, x right, y down) in a body frame (x forward, y left, z up) of the same place
OPTICAL_IN_BODY: FloatArray = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
#: variance that says that nothing is known, as in rtabmap
UNKNOWN = 9999.0
#: settings of ``odometry.scale`` by which the matches tell the length too
FROM_MATCHES = ("depth", "stereo")
#: depth of a scene that was never triangulated, which tells how far a camera may move unseen
_FAR = 10.0
#: poses further apart give no twist
_TWIST_S = 2.0


@dataclass(frozen=True)
class Estimate:
    """Odometry of one image.

    Attributes:
        stamp_ns: of the image.
        child_frame: of the body.
        pose, covariance: (4, 4) body to odom, and its (6, 6).
        twist, twist_covariance: (6,) linear and angular velocity in the child frame, m/s and rad/s, and its (6, 6);
            zero with variances of :data:`UNKNOWN` where there is no image before it.
        camera: (4, 4) camera (optical) to odom.
        metric: whether lengths are metres.
        placed: what was triangulated.
    """

    stamp_ns: int
    child_frame: str
    pose: FloatArray
    covariance: FloatArray
    twist: FloatArray
    twist_covariance: FloatArray
    camera: FloatArray
    metric: bool
    placed: Placed


@dataclass(frozen=True)
class _State:
    """A placed body; ``link`` is the (6, 6) of the pair that placed it, about the axes of its reference."""

    stamp_ns: int
    pose: FloatArray
    covariance: FloatArray
    reference_ns: int
    link: FloatArray


class Odometer:
    """Chains tracks.

    Args:
        camera_in_base: (4, 4) camera (optical) to base; None where the body is the camera itself.

    Attributes:
        config, pose_config: may be replaced at any time.
        gaps: how often the chain was interrupted.
        restarts: how often it began anew, since the stamps jumped back or it was asked to.
    """

    _chain: Chain
    _states: dict[int, _State]  # the reference and the newest image, by stamp
    _last: _State | None

    def __init__(
        self, config: OdometryConfig, pose: PoseConfig | None = None, camera_in_base: FloatArray | None = None
    ) -> None:
        self.config = config
        self.gaps = 0
        self.restarts = 0
        self.pose_config = pose or PoseConfig()
        self._camera_in_body = np.eye(4) if camera_in_base is None else camera_in_base
        self._origin = OPTICAL_IN_BODY if camera_in_base is None else np.eye(4)
        self._begin()

    def reset(self) -> None:
        """Begin anew at the origin."""
        self.restarts += 1
        self._begin()

    def add(self, track: Track, camera: Camera | None) -> Estimate | None:
        """Odometry of the track's image; None where its relative pose is of no use, or has no length."""
        if self._last is not None and track.stamp_ns < self._last.stamp_ns:
            self.reset()
        placed = self._chain.add(track, camera) if camera is not None else None
        if placed is None or not (self.config.allow_unscaled or placed.metric or placed.length == 0):
            return None
        reference = self._states.get(track.reference_stamp_ns) or self._after_gap(track.reference_stamp_ns)
        motion, link = self._link(track, camera, placed)
        pose, covariance = compose(reference.pose, reference.covariance, motion, link)
        state = _State(track.stamp_ns, pose, covariance, reference.stamp_ns, link)
        twist, twist_covariance = self._twist(state)
        self._states = {reference.stamp_ns: reference, state.stamp_ns: state}
        self._last = state
        return Estimate(
            track.stamp_ns,
            self.config.base_frame or track.frame_id,
            pose,
            covariance,
            twist,
            twist_covariance,
            pose @ self._camera_in_body,
            placed.metric or placed.length == 0,
            placed,
        )

    def _begin(self) -> None:
        self._chain = Chain()
        self._states = {}
        self._last = None

    def _after_gap(self, stamp_ns: int) -> _State:
        """A reference that was never placed: where the body was last, as uncertain as the time between allows."""
        nothing = np.zeros((6, 6))
        if self._last is None:
            return _State(stamp_ns, self._origin, nothing, stamp_ns, nothing)
        self.gaps += 1
        seconds = (stamp_ns - self._last.stamp_ns) / 1e9
        grown = np.repeat([self.config.gap_speed * seconds, self.config.gap_turn * seconds], 3) ** 2
        return _State(stamp_ns, self._last.pose, self._last.covariance + np.diag(grown), stamp_ns, nothing)

    def _link(self, track: Track, camera: Camera | None, placed: Placed) -> tuple[FloatArray, FloatArray]:
        """The body in the body of the reference, (4, 4), and its (6, 6)."""
        assert camera is not None
        R, direction = track.pose.camera1_in_camera0
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = R, placed.length * direction
        units = np.repeat([placed.length, 1.0], 3)
        stretch = np.sqrt(self.config.covariance_factor) * np.eye(6)
        if self.config.scale not in FROM_MATCHES:  # the length has an error of its own
            along = direction / max(float(np.linalg.norm(direction)), 1e-12)
            stretch[:3, :3] += (1 - stretch[0, 0]) * np.outer(along, along)
        covariance: FloatArray = stretch @ (track.pose.covariance * np.outer(units, units)) @ stretch
        if placed.length:
            covariance[:3, :3] += (placed.share * placed.length) ** 2 * np.outer(direction, direction)
        else:  # it may have moved by what cannot be seen
            unseen = self.pose_config.static_px / float(camera.K[0, 0]) * (placed.depth or _FAR)
            covariance[:3, :3] = np.diag([unseen**2] * 3)
        nothing, T = np.zeros((6, 6)), self._camera_in_body
        return compose(*compose(T, nothing, motion, covariance), inverse(T), nothing)

    def _twist(self, state: _State) -> tuple[FloatArray, FloatArray]:
        before = self._last
        seconds = 0.0 if before is None else (state.stamp_ns - before.stamp_ns) / 1e9
        joined = before is not None and state.reference_ns in (before.stamp_ns, before.reference_ns)
        if before is None or not joined or not 0 < seconds <= _TWIST_S:
            return np.zeros(6), UNKNOWN * np.eye(6)
        twist = logarithm(inverse(before.pose) @ state.pose) / seconds
        link = state.link if state.reference_ns == before.stamp_ns else state.link + before.link
        turn = np.kron(np.eye(2), (inverse(state.pose) @ self._states[state.reference_ns].pose)[:3, :3])
        covariance: FloatArray = turn @ link @ turn.T / seconds**2
        return twist, covariance
