"""What a teacher knows, as a recorder wants it: its relative poses become poses in one frame."""

from __future__ import annotations

from typing import Final

import numpy as np

from stfm_ros.types import FloatArray

#: where a chain breaks, what follows is put so far away, in metres, that every view of it counts as new
FAR_M: Final = 1e6
#: poses that are remembered: a reference is older than its images
_KEPT: Final = 1000


class PoseChain:
    """Puts relative poses in a row, each on the pose of its reference."""

    def __init__(self) -> None:
        self._poses: dict[int, FloatArray] = {}
        self._chains = 0

    def add(self, stamp_ns: int, reference_ns: int, relative: FloatArray) -> FloatArray:
        """The pose of an image, (4, 4) camera to a fixed frame, metres.

        Args:
            stamp_ns, reference_ns: of the image and of its reference.
            relative: (4, 4) camera to reference camera, metres.
        """
        if reference_ns not in self._poses:
            self._chains += 1
            self._poses[reference_ns] = np.eye(4)
            self._poses[reference_ns][0, 3] = FAR_M * self._chains
        pose = self._poses.pop(reference_ns)
        self._poses[reference_ns] = pose  # the newest: a reference outlives the images in between
        self._poses[stamp_ns] = pose @ relative
        while len(self._poses) > _KEPT:
            del self._poses[next(iter(self._poses))]
        return self._poses[stamp_ns]
