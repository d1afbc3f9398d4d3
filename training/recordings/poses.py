"""Where the camera was at the stamp of each image: from a topic of poses, or from tf.

A pose maps points of a body into a fixed frame; stamps are integer nanoseconds. Between two samples a pose is
interpolated (the rotation about its fixed axis, the position along a line); beyond the first and the last, and
where samples are far apart, there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros import messages
from stfm_ros.errors import BagError
from stfm_ros.posed_bag import rigid
from stfm_ros.types import FloatArray

TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
#: a pose that is wanted within this time before the first or after the last sample is that sample's
EDGE_NS = 10_000_000
#: samples further apart than this say nothing of what was between them
MOST_GAP_NS = 500_000_000


@dataclass(frozen=True)
class Track:
    """Stamped poses of one body, in any order.

    Attributes:
        stamps_ns: (n,) int64.
        poses: (n, 4, 4) float64.
    """

    stamps_ns: NDArray[np.int64]
    poses: FloatArray

    @classmethod
    def of(cls, samples: Sequence[tuple[int, FloatArray]]) -> Track:
        """From stamps and poses, without those that are not finite."""
        good = [(stamp, pose) for stamp, pose in samples if np.isfinite(pose).all()]
        poses = np.array([pose for _, pose in good]).reshape(-1, 4, 4)
        return cls(np.array([stamp for stamp, _ in good], np.int64), poses)

    def at(self, stamps_ns: NDArray[np.int64]) -> FloatArray:
        """(m, 4, 4) poses at (m,) stamps; NaN where there is none."""
        found = np.full((len(stamps_ns), 4, 4), np.nan)
        if len(self.stamps_ns) == 0:
            return found
        order = np.argsort(self.stamps_ns, kind="stable")
        stamps, poses = self.stamps_ns[order], self.poses[order]
        wanted = np.clip(stamps_ns, stamps[0], stamps[-1])
        after = np.searchsorted(stamps, wanted)
        before = np.where(stamps[after] == wanted, after, after - 1)
        for row, (a, b) in enumerate(zip(before.tolist(), after.tolist())):
            gap = int(stamps[b] - stamps[a])
            if abs(int(stamps_ns[row] - wanted[row])) <= EDGE_NS and gap <= MOST_GAP_NS:
                found[row] = interpolate(poses[a], poses[b], int(wanted[row] - stamps[a]) / max(gap, 1))
        return found


def interpolate(first: FloatArray, second: FloatArray, share: float) -> FloatArray:
    """The (4, 4) pose that is ``share`` of the way from the first to the second."""
    turn = np.asarray(cv2.Rodrigues(first[:3, :3].T @ second[:3, :3])[0], np.float64)
    pose = np.eye(4)
    pose[:3, :3] = first[:3, :3] @ np.asarray(cv2.Rodrigues(share * turn)[0])
    pose[:3, 3] = (1 - share) * first[:3, 3] + share * second[:3, 3]
    return pose


class Transforms:
    """The tree of frames that the messages of /tf and /tf_static tell."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._static: dict[str, FloatArray] = {}
        self._moving: dict[str, list[tuple[int, FloatArray]]] = {}
        self._tracks: dict[str, Track] = {}

    def __contains__(self, frame: str) -> bool:
        return plain(frame) in self._parents or plain(frame) in self._parents.values()

    def add(self, message: Any, static: bool) -> None:
        """Take a TFMessage."""
        for stamped in message.transforms:
            child = plain(stamped.child_frame_id)
            pose = rigid(stamped.transform.translation, stamped.transform.rotation)
            self._parents[child] = plain(stamped.header.frame_id)
            if static:
                self._static[child] = pose
            else:
                self._moving.setdefault(child, []).append((messages.stamp_ns(stamped.header), pose))
        self._tracks.clear()

    def moves(self, frame: str) -> bool:
        """Whether the frame, or one above it, moves."""
        return any(child in self._moving for child in self._above(plain(frame))[:-1])

    def root(self, frame: str) -> str:
        """The topmost frame above this one."""
        return self._above(plain(frame))[-1]

    def lookup(self, target: str, source: str, stamps_ns: NDArray[np.int64]) -> FloatArray:
        """(m, 4, 4) that map points of ``source`` into ``target`` at (m,) stamps; NaN where tf does not say.

        Raises:
            BagError: no chain of transforms joins the two; says which frames there are.
        """
        up, down = self._above(plain(source)), self._above(plain(target))
        if up[-1] != down[-1]:
            frames = sorted({*self._parents, *self._parents.values()})
            raise BagError(
                f"tf does not join {source} to {target}: it knows {', '.join(frames) or 'no frame at all'}; record "
                "/tf and /tf_static from the start, or name a frame above the camera's"
            )
        while len(up) > 1 and len(down) > 1 and up[-2] == down[-2]:  # what both share says nothing of the two
            up, down = up[:-1], down[:-1]
        raised, lowered = self._product(up[:-1], stamps_ns), self._product(down[:-1], stamps_ns)
        known = np.isfinite(lowered).all(axis=(1, 2))
        found = np.full_like(raised, np.nan)
        found[known] = np.linalg.inv(lowered[known]) @ raised[known]
        return found

    def _above(self, frame: str) -> list[str]:
        """The frame and those above it, up to the root."""
        chain = [frame]
        while chain[-1] in self._parents and self._parents[chain[-1]] not in chain:
            chain.append(self._parents[chain[-1]])
        return chain

    def _product(self, children: Sequence[str], stamps_ns: NDArray[np.int64]) -> FloatArray:
        """(m, 4, 4) from the first of a chain of frames into the parent of the last."""
        product = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
        for child in children:
            if child in self._moving:
                if child not in self._tracks:
                    self._tracks[child] = Track.of(self._moving[child])
                product = self._tracks[child].at(stamps_ns) @ product
            else:
                product = self._static[child] @ product
        return product


def plain(frame: str) -> str:
    """A frame's name without the leading slash of ROS 1."""
    return frame.removeprefix("/")
