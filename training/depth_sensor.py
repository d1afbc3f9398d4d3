"""What a depth camera would give of a scene whose exact depth is known.

    >>> sensor = DepthSensor.random(rng)
    >>> measured = sensor.measure(exact, image, focal_px, rng)     # (H, W) float32 metres, 0 where there is none

Three families, told apart by their figures alone: structured light and active stereo (error and step grow with the
square of the distance, a shadow on one side of what is near), time of flight (error linear, dark or far surfaces
give too little light, mixed values at edges), and depth brought over from a smaller depth camera (its narrower view,
a lattice of pixels that nothing fell on). Sources:

- Khoshelham, Elberink: Accuracy and resolution of Kinect depth data for indoor mapping applications, Sensors 2012:
  error 1.425e-3 z^2 m, step 2.85e-3 z^2 m (z in metres).
- Nguyen, Izadi, Lovell: Modeling Kinect sensor noise for improved 3D reconstruction and tracking, 3DIMPVT 2012:
  lateral error .8 px; both errors grow with theta / (pi/2 - theta)^2, hardly anything is measured above 70-80 degrees.
- Handa, Whelan, McDonald, Davison: A benchmark for RGB-D visual odometry, 3D reconstruction and SLAM (ICL-NUIM),
  ICRA 2014: pixels displaced at random first, then noise and steps in disparity.
- Fankhauser et al.: Kinect v2 for mobile robot navigation, ICAR 2015: time of flight, error of some mm that grows
  with distance and angle; dark surfaces and edges.

Everything follows from the generator that is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.types import ByteArray, Float32Array

Generator = np.random.Generator

#: share of pairs whose depth is left exact, and of those where one of the two images has none
EXACT, BLIND = 0.08, 0.06


@dataclass(frozen=True)
class DepthSensor:
    """The figures of one depth camera.

    Attributes:
        near_m, far_m: nothing is measured outside.
        noise_m, noise_per_m, noise_per_m2: error (one sigma) at z metres is the sum of these times 1, z, z^2, in m.
        step_per_m2: neighbouring values differ by this times z^2, m; 0 for none.
        baseline_m: from camera to projector, to the right; 0 without one. What the projector does not see has no
            depth.
        steepest_deg: surfaces at a larger angle of incidence, and edges, have no depth.
        mixes: edges give values in between instead of none.
        weakest: luma in 0..1 over z^2 under which too little light comes back; 0 for none.
        blobs: share of the image without depth in patches (shine, glass).
        dropout: share of single pixels without depth.
        lateral_px: error of position.
        offset_px: (x, y) misalignment with the image.
        margins: left, top, right, bottom: share of the image that the depth camera does not see.
        lattice: share of rows and columns that nothing fell on when brought over from another camera.
    """

    near_m: float = 0.4
    far_m: float = 8.0
    noise_m: float = 0.0
    noise_per_m: float = 0.0
    noise_per_m2: float = 0.0
    step_per_m2: float = 0.0
    baseline_m: float = 0.0
    steepest_deg: float = 85.0
    mixes: bool = False
    weakest: float = 0.0
    blobs: float = 0.0
    dropout: float = 0.0
    lateral_px: float = 0.0
    offset_px: tuple[float, float] = (0.0, 0.0)
    margins: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    lattice: float = 0.0

    @classmethod
    def random(cls, rng: Generator) -> DepthSensor:
        """Another camera."""
        flight = rng.random() < 0.4
        brought_over = rng.random() < (0.5 if flight else 0.3)
        cut = rng.uniform(0, 0.12, 4) * (rng.random(4) < 0.6) if brought_over else np.zeros(4)
        offset = rng.normal(0, 0.5, 2)
        aligned = float(offset[0]), float(offset[1])
        margins = (float(cut[0]), float(cut[1]), float(cut[2]), float(cut[3]))
        common: dict[str, Any] = {
            "blobs": float(rng.uniform(0, 0.12)) if rng.random() < 0.6 else 0.0,
            "dropout": float(rng.uniform(0, 0.02)),
            "lateral_px": float(rng.uniform(0.2, 1.0)),
            "lattice": float(rng.uniform(0.03, 0.15)) if brought_over and rng.random() < 0.4 else 0.0,
        }
        if flight:
            return cls(
                near_m=float(rng.uniform(0.1, 0.5)),
                far_m=float(rng.uniform(4, 9)),
                noise_m=float(rng.uniform(0.0005, 0.002)),
                noise_per_m=float(rng.uniform(0.001, 0.004)),
                steepest_deg=float(rng.uniform(78, 87)),
                mixes=bool(rng.random() < 0.5),
                weakest=float(np.exp(rng.uniform(np.log(0.002), np.log(0.02)))),
                offset_px=aligned,
                margins=margins,
                **common,
            )
        finer = float(np.exp(rng.uniform(np.log(0.3), np.log(1.5))))  # of the first Kinect's error
        return cls(
            near_m=float(rng.uniform(0.2, 0.7)),
            far_m=float(np.exp(rng.uniform(np.log(3.5), np.log(20)))),
            noise_m=0.0005,
            noise_per_m2=1.425e-3 * finer,
            step_per_m2=2.85e-3 * finer if rng.random() < 0.7 else 0.0,
            baseline_m=float(rng.uniform(0.03, 0.09) * rng.choice([-1, 1])),
            steepest_deg=float(rng.uniform(70, 84)),
            weakest=float(rng.uniform(0.0005, 0.003)) if rng.random() < 0.5 else 0.0,
            offset_px=aligned,
            margins=margins,
            **common,
        )

    def measure(self, exact: Float32Array, image: ByteArray | None, focal_px: float, rng: Generator) -> Float32Array:
        """What this camera gives.

        Args:
            exact: (H, W) float32 metres, 0 where there is nothing.
            image: (H, W, 3) uint8 RGB of the same pixels; without one nothing is too dark.
            focal_px: of that image.
        """
        height, width = exact.shape
        smooth = _noise(rng, height, width, 4)
        depth = self._displaced(exact, rng)
        present = depth > 0
        inverse = np.divide(1, depth, out=np.zeros_like(depth), where=present)
        across = cv2.Sobel(inverse, cv2.CV_32F, 1, 0, scale=0.125 * focal_px)
        down = cv2.Sobel(inverse, cv2.CV_32F, 0, 1, scale=0.125 * focal_px)
        # inverse depth is linear over a plane; its slope times z is about the tangent of the angle of incidence
        # (not cv2.magnitude: its last bit depends on where in memory an array lies)
        slope = np.sqrt(across * across + down * down) * depth
        steepest = np.float32(np.tan(np.radians(self.steepest_deg)))
        steep = slope > steepest * np.exp(np.float32(0.25) * smooth)
        if self.mixes:
            # only between two surfaces: a mean with nothing is no depth
            whole = cv2.erode(present.view(np.uint8), _SQUARE) > 0
            depth = np.where(steep & whole, np.asarray(cv2.blur(depth, (3, 3))), depth)
            steep &= ~whole
        known = present & ~steep & (depth > self.near_m) & (depth < self.far_m)
        if self.baseline_m:
            known &= ~_shadow(inverse, self.baseline_m * focal_px)
        if self.weakest and image is not None:
            luma = cv2.boxFilter(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F, (5, 5))
            known &= luma > np.float32(255 * self.weakest) * depth * depth * np.exp(np.float32(0.5) * smooth)
        if self.blobs:
            patches = _noise(rng, height, width, max(height // 12, 1))
            known &= patches < np.float32(NormalDist().inv_cdf(1 - self.blobs))
        if self.dropout:
            count = int(rng.binomial(depth.size, self.dropout))
            known.reshape(-1)[rng.integers(0, depth.size, count)] = False
        if self.lattice:
            known &= ~_lattice(inverse, self.lattice, rng)
        left, top, right, bottom = (round(share * n) for share, n in zip(self.margins, (width, height) * 2))
        known[:top] = known[height - bottom :] = False
        known[:, :left] = known[:, width - right :] = False
        noise = _noise(rng, height, width, 2)
        sigma = self.noise_m + depth * (np.float32(self.noise_per_m) + np.float32(self.noise_per_m2) * depth)
        sigma = sigma * (1 + np.float32(0.2) * np.minimum(slope, steepest))
        depth = np.maximum(depth + sigma * noise, np.float32(self.near_m))
        if self.step_per_m2:
            step = np.float32(self.step_per_m2)  # the same everywhere in inverse depth
            depth = 1 / np.maximum(np.rint(1 / (depth * step)) * step, step)
        return np.asarray(depth * known, np.float32)

    def _displaced(self, depth: Float32Array, rng: Generator) -> Float32Array:
        """Each pixel takes the depth of one close by."""
        if not self.lateral_px and self.offset_px == (0.0, 0.0):
            return depth
        height, width = depth.shape
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        moved = [
            place + np.float32(offset) + np.float32(self.lateral_px) * _noise(rng, height, width, 3)
            for place, offset in zip((x, y), self.offset_px)
        ]
        taken = cv2.remap(depth, moved[0], moved[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(taken, np.float32)


def measured_pair(
    exact: tuple[Float32Array, Float32Array], images: tuple[ByteArray, ByteArray], focal_px: float, rng: Generator
) -> tuple[Float32Array, Float32Array]:
    """Both views of a pair through one camera chosen at random.

    In a share of the pairs (``EXACT``) the depth is left as it is, and in a share (``BLIND``) one of the two has
    none, so that nobody learns to rely on it.
    """
    chance = rng.random()
    if chance < EXACT:
        return exact
    sensor = DepthSensor.random(rng)
    first, second = (sensor.measure(depth, image, focal_px, rng) for depth, image in zip(exact, images))
    if chance > 1 - BLIND / 2:
        return np.zeros_like(first), second
    if chance > 1 - BLIND:
        return first, np.zeros_like(second)
    return first, second


_SQUARE = np.ones((3, 3), np.uint8)


def _noise(rng: Generator, height: int, width: int, cell: int) -> Float32Array:
    """(height, width) about normal, of unit deviation, alike over ``cell`` pixels."""
    small = rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
    # a bilinear mean of neighbours has less spread than they have: (2/3)^2 of the variance
    wide = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide * np.float32(1.5), np.float32)


def _shadow(inverse: Float32Array, reach: float) -> NDArray[np.bool_]:
    """Pixels that a projector at ``reach`` (baseline times focal length, px m) to the right does not see.

    In the projector a pixel lies at ``x - reach / z``. What is nearer moves further, and hides what it moves over.
    """
    x = np.arange(inverse.shape[1], dtype=np.float32)
    place = x - np.float32(reach) * inverse
    if reach > 0:
        first = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
        return np.asarray(first < place - 0.5, bool)
    last = np.maximum.accumulate(place, axis=1)
    return np.asarray(last > place + 0.5, bool)


def _lattice(inverse: Float32Array, share: float, rng: Generator) -> NDArray[np.bool_]:
    """Rows and columns, bent by depth, that fall between the pixels of a smaller depth image brought over."""
    height, width = inverse.shape
    bend = np.float32(rng.uniform(0.5, 3)) * inverse
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    holes = np.zeros(inverse.shape, bool)
    for place in (x, y):
        period = float(2 / share)  # half of the share each way
        phase = bend + (place / np.float32(period) + np.float32(rng.random()))
        holes |= phase - np.floor(phase) < np.float32(1 / period)
    return holes
