"""Two-view cases with exact truth: points of rendered scenes, seen from two places, with noise that is known.

    >>> views = rendered_views(np.random.default_rng(7), baseline=0.1)
    >>> case = noisy_case(views, np.random.default_rng(8), noise_px=0.5)
    >>> pose = estimate_relative_pose(case.matches, case.camera, case.camera)

Every number follows from the generators that are given. Noise is of image 1 alone, as that of the network, whose points
of image 0 are the corners of its grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stfm_ros.matcher import Matcher
from stfm_ros.types import BoolArray, ByteArray, Camera, Float32Array, FloatArray, Matches
from stfm_training.photometric import augment
from stfm_training.render import Scene, random_pair_views
from stfm_training.supervision import CELL, MATCHED, UNKNOWN, View, grid, warp_by_depth

WIDTH, HEIGHT = 640, 480
#: share of the grid that must be seen again
MIN_SEEN = 0.25
#: a match of the network further from the truth is an outlier
RIGHT_PX = 3.0


@dataclass(frozen=True, eq=False)
class Views:
    """Two views of a rendered scene and where its grid lies in both.

    Attributes:
        scene: the scene, to draw its pictures.
        camera: of both images.
        T_world: T_world_to_camera (4, 4) of image 0 and 1.
        depths: (H, W) float32 metres of both, exact.
        points0, points1: (n, 2) float64 pixels, exact, of the grid points that are seen in both.
        baseline: as a share of image 0's median depth.
    """

    scene: Scene
    camera: Camera
    T_world: tuple[FloatArray, FloatArray]
    depths: tuple[Float32Array, Float32Array]
    points0: FloatArray
    points1: FloatArray
    baseline: float

    @property
    def T_0to1(self) -> FloatArray:
        """(4, 4) the true motion: maps points of camera 0 into camera 1."""
        motion: FloatArray = self.T_world[1] @ np.linalg.inv(self.T_world[0])
        return motion


@dataclass(frozen=True, eq=False)
class Case:
    """Matches whose noise is known.

    Attributes:
        matches: with the sigma they were drawn with.
        camera: of both images.
        T_0to1: (4, 4) the true motion.
        depth0: (H, W) float32 metres with the noise of a sensor, 0 where it gave none; None where there is no sensor.
        right: (n,) False for an outlier, and where nothing is known of the truth.
        errors_px: (n, 2) of the points of image 1; NaN where nothing is known.
    """

    matches: Matches
    camera: Camera
    T_0to1: FloatArray
    depth0: Float32Array | None
    right: BoolArray
    errors_px: FloatArray


def rendered_views(rng: np.random.Generator, baseline: float, textures: Sequence[ByteArray] = ()) -> Views:
    """Two views of a new scene whose baseline is ``baseline`` times image 0's median depth."""
    while True:
        scene = Scene.random(rng, list(textures))
        focal = WIDTH * rng.uniform(0.6, 1.1)
        K = np.array([[focal, 0, (WIDTH - 1) / 2], [0, focal, (HEIGHT - 1) / 2], [0, 0, 1.0]])
        camera = Camera(WIDTH, HEIGHT, K)
        for _ in range(4):
            T0, T1 = random_pair_views(scene, rng, camera, rng.uniform(0.1, 0.6))
            depth0 = scene.depth(camera, T0)
            if np.linalg.norm(_place(T1) - _place(T0)) < 1e-6:  # a scene too crowded to move in
                continue
            T1 = _at_distance(T0, T1, baseline * float(np.median(depth0[depth0 > 0])))
            if not scene.is_free(_place(T1)):
                continue
            depth1 = scene.depth(camera, T1)
            warp = warp_by_depth(depth0, View(camera), depth1, View(camera), T1 @ np.linalg.inv(T0))
            seen = warp.state == MATCHED
            if seen.mean() >= MIN_SEEN:
                points0, points1 = grid(HEIGHT, WIDTH)[seen], warp.points[seen].astype(np.float64)
                return Views(scene, camera, (T0, T1), (depth0, depth1), points0, points1, baseline)


def noisy_case(
    views: Views,
    rng: np.random.Generator,
    noise_px: float,
    count: int = 300,
    outliers: float = 0.0,
    depth_noise: float = 0.01,
) -> Case:
    """Some of the views' points with Gaussian noise in image 1.

    Args:
        noise_px: median sigma an axis; those of single matches differ by a factor of about 1.5 (lognormal).
        count: matches, as far as the views have so many.
        outliers: share of matches that lie anywhere in image 1.
        depth_noise: relative noise of depth at each pixel; a fifth of the image has none.
    """
    index = rng.permutation(len(views.points0))[:count]
    sigma = noise_px * np.exp(0.4 * rng.standard_normal(len(index)))
    points1 = views.points1[index] + rng.standard_normal((len(index), 2)) * sigma[:, None]
    right = rng.random(len(index)) >= outliers
    points1[~right] = rng.uniform([0, 0], [WIDTH, HEIGHT], (int((~right).sum()), 2))
    numbers = (views.points0[index], points1, np.full(len(index), 0.9), sigma)
    return Case(
        Matches(*(np.asarray(column, np.float32) for column in numbers)),
        views.camera,
        views.T_0to1,
        _sensed(views.depths[0], rng, depth_noise),
        right,
        points1 - views.points1[index],
    )


def network_case(views: Views, rng: np.random.Generator, matcher: Matcher, depth_noise: float = 0.01) -> Case:
    """What a network matches on the views' pictures, which differ in light, exposure and noise."""
    light = views.scene.relight(rng) if rng.random() < 0.4 else None
    pictures = (
        views.scene.render(views.camera, views.T_world[0]).image,
        views.scene.render(views.camera, views.T_world[1], light).image,
    )
    image0, image1 = (augment(picture, rng, 0.5 * rng.random()) for picture in pictures)
    matches = matcher.match(image0, image1)
    view = View(views.camera)
    warp = warp_by_depth(views.depths[0], view, views.depths[1], view, views.T_0to1)
    column, row = np.rint(matches.keypoints0.T / CELL).astype(int)
    cell = row * (WIDTH // CELL) + column
    errors = (matches.keypoints1 - warp.points[cell]).astype(np.float64)
    errors[warp.state[cell] == UNKNOWN] = np.nan
    right = (warp.state[cell] == MATCHED) & (np.hypot(errors[:, 0], errors[:, 1]) < RIGHT_PX)
    depth0 = _sensed(views.depths[0], rng, depth_noise)
    return Case(matches, views.camera, views.T_0to1, depth0, right, errors)


def _sensed(depth: Float32Array, rng: np.random.Generator, noise: float) -> Float32Array:
    """Depth as a plain sensor gives it: noise at each pixel, holes in blocks of 8 by 8."""
    height, width = depth.shape
    holes = rng.random((-(-height // 8), -(-width // 8))) < 0.2
    sensed = depth * (1 + noise * rng.standard_normal(depth.shape))
    sensed[np.kron(holes, np.ones((8, 8), bool))[:height, :width]] = 0
    return np.asarray(sensed, np.float32)


def _at_distance(T0: FloatArray, T1: FloatArray, baseline_m: float) -> FloatArray:
    """View 1 moved along its own baseline to a given length."""
    place0, place1 = _place(T0), _place(T1)
    moved = np.eye(4)
    moved[:3, :3] = T1[:3, :3]
    moved[:3, 3] = -T1[:3, :3] @ (place0 + (place1 - place0) * baseline_m / float(np.linalg.norm(place1 - place0)))
    return moved


def _place(T_world_to_camera: FloatArray) -> FloatArray:
    """(3,) where a camera is."""
    place: FloatArray = -T_world_to_camera[:3, :3].T @ T_world_to_camera[:3, 3]
    return place
