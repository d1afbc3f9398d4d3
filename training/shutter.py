"""A rolling shutter: rows exposed one after the other while the camera moves.

    >>> rendering, view = shutter.expose(lambda camera: scene.render(camera, T_world_to_camera), camera)

The pose of a picture is that of its middle row, the *reference*. The scene is drawn once, from there and a little wider
than asked for; then each pixel takes what its own row's camera sees, which is searched along the pixel's ray through
the drawn depth. Depth stays that of the reference, z in metres, and the view takes points from pixels and back, so
whoever asks a :class:`RollingView` as any other view gets the truth of the picture. Where the search finds no single
surface (on the edges of what is near, and outside what was drawn) there is no depth, and so nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from stfm_ros.geometry import project_points
from stfm_ros.types import Camera, Float32Array, FloatArray
from stfm_training.raster import Rendering
from stfm_training.supervision import View

MARGIN = 0.06  #: of the width, by which the scene is drawn wider on each side
ROUNDS = 3  #: of the search; what the camera moves during an exposure is small against the depth
SETTLED_PX = 0.05  #: the search has found a pixel when it would move no further than this
ONE_SURFACE = 0.03  #: relative difference of inverse depth between neighbouring pixels of one surface


@dataclass(frozen=True, eq=False)
class Shutter:
    """How a camera moves from its first row to its last: both vectors in the axes of the reference.

    Attributes:
        turn: (3,) rotation vector, radians. A point X of the reference is ``R (X - s step)`` to the camera of a row
            that is exposed at ``s`` of the time (-0.5 first row, 0 middle, 0.5 last), R the turn by ``s turn``.
        step: (3,) metres.
    """

    turn: FloatArray
    step: FloatArray

    def rotations(self, share: FloatArray) -> FloatArray:
        """(n,) shares of the time to (n, 3, 3) rotations from the reference to the camera of then."""
        angle = float(np.linalg.norm(self.turn))
        x, y, z = self.turn / max(angle, 1e-12)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turned = angle * np.asarray(share, np.float64)[:, None, None]
        return np.asarray(np.eye(3) + np.sin(turned) * cross + (1 - np.cos(turned)) * (cross @ cross))

    def expose(self, draw: Callable[[Camera], Rendering], camera: Camera) -> tuple[Rendering, RollingView]:
        """Take a picture.

        Args:
            draw: what a camera at the reference sees at once; it is asked for a wider one than ``camera``.
            camera: pinhole.

        Returns:
            The picture with its depth, and how its pixels and points belong together.
        """
        margin = math.ceil(MARGIN * camera.width)
        wider = np.array([[0, 0, margin], [0, 0, margin], [0, 0, 0]])
        still = draw(Camera(camera.width + 2 * margin, camera.height + 2 * margin, camera.K + wider))
        inverse = np.where(still.depth > 0, 1 / np.maximum(still.depth, 1e-6), 0).astype(np.float32)
        shown, found = self._search(inverse, camera, margin)
        x, y = (axis + np.float32(margin) for axis in shown)
        image = np.asarray(cv2.remap(still.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)
        depth = np.where(found > 0, 1 / np.maximum(found, 1e-6), 0).astype(np.float32)
        return Rendering(image, depth), RollingView(camera, shutter=self, shown=np.stack(shown, -1))

    def _search(
        self, inverse: Float32Array, camera: Camera, margin: int
    ) -> tuple[tuple[Float32Array, Float32Array], Float32Array]:
        """For each pixel the pixel of the reference that shows the same (x and y, (H, W) each), and the inverse depth
        there; 0 where there is none, or more than one."""
        fx, fy, cx, cy = (np.float32(camera.K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        x = ((np.arange(camera.width, dtype=np.float32) - cx) / fx)[None]
        y = ((np.arange(camera.height) - float(cy)) / float(fy))[:, None]
        share = _share(np.arange(camera.height, dtype=np.float64), camera.height)
        back = self.rotations(share).transpose(0, 2, 1)
        # the pixel's ray in the reference, (H, W) for each axis, and where its row's camera is, (H, 1)
        ray = [
            back[:, k, :1].astype(np.float32) * x + (back[:, k, 1:2] * y + back[:, k, 2:]).astype(np.float32)
            for k in range(3)
        ]
        place = [(share[:, None] * self.step[k]).astype(np.float32) for k in range(3)]

        def at(w: Float32Array | float) -> tuple[Float32Array, Float32Array]:
            # with depth 1 / w in the reference a point of the ray is ray / far + place, where far is its own 1 / depth
            far = w * ray[2] / (1 - w * place[2])
            third = 1 / (ray[2] + far * place[2])
            return fx * (ray[0] + far * place[0]) * third + cx, fy * (ray[1] + far * place[1]) * third + cy

        def look(shown: tuple[Float32Array, Float32Array], how: int) -> Float32Array:
            left, top = (axis + np.float32(margin) for axis in shown)
            return np.asarray(cv2.remap(inverse, left, top, how, borderValue=0), np.float32)

        shown = at(0.0)
        for _ in range(ROUNDS):
            used = look(shown, cv2.INTER_LINEAR)
            shown = at(used)
        w = look(shown, cv2.INTER_LINEAR)
        reach = (abs(share)[:, None] * float(np.linalg.norm(self.step)) * float(fx)).astype(np.float32)
        settled = abs(w - used) * reach < SETTLED_PX
        settled &= abs(w - look(shown, cv2.INTER_NEAREST)) <= ONE_SURFACE * w
        return shown, np.where(settled, w, np.float32(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class RollingView(View):
    """The picture of a rolling shutter; rays and points are those of its reference.

    Attributes:
        shutter: how the camera moved.
        shown: (H, W, 2) float32, the pixel of the reference that shows what a pixel shows.
    """

    shutter: Shutter
    shown: Float32Array

    def rays(self, points: FloatArray) -> FloatArray:
        """(n, 2) whole pixels to (n, 3) rays with z = 1."""
        x, y = np.rint(points).astype(int).T
        return super().rays(self.shown[y, x].astype(np.float64))

    def project(self, points: FloatArray) -> FloatArray:
        """(n, 3) points to (n, 2) pixels: in the row whose camera sees it in that row; NaN where none does."""
        row = np.full(len(points), (self.camera.height - 1) / 2)
        pixels = np.full((len(points), 2), np.nan)
        for _ in range(2 * ROUNDS):
            share = np.clip(_share(row, self.camera.height), -1, 1)
            moved = points - share[:, None] * self.shutter.step
            pixels = project_points(np.einsum("nij,nj->ni", self.shutter.rotations(share), moved), self.camera)
            row = np.where(np.isfinite(pixels[:, 1]), pixels[:, 1], row)
        return pixels


def _share(row: FloatArray, height: int) -> FloatArray:
    """When a row is exposed: -0.5 at the upper border of the image, 0.5 at the lower one."""
    return np.asarray((row - (height - 1) / 2) / height, np.float64)
