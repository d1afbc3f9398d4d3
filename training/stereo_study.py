"""What depth and metres by a second camera are worth: on rendered scenes with exact truth, and on EuRoC's stereo pairs.

    python -m stfm_training.stereo_study --photos FOLDER --cases 60 --out runs/stereo
    python -m stfm_training.stereo_study --euroc FOLDER --out runs/stereo      (cam0/, cam1/, cam0.yaml, cam1.yaml)

Semi-global matching (``stfm_ros.stereo``) stands beside the network's own matches of the same two images, and beside a
depth camera with 1 % of noise and a fifth of holes. Figures go to stereo.json in the folder and to the screen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from stfm_ros import messages
from stfm_ros.bag_types import to_message
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES
from stfm_ros.config import MatcherConfig, OdometryConfig, PoseConfig
from stfm_ros.geometry import DepthNoise, estimate_metric_pose, normalise_points
from stfm_ros.images import to_rgb
from stfm_ros.matcher import Matcher
from stfm_ros.scale import Pair
from stfm_ros.stereo import StereoDepth, StereoScale
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray, Matches, RelativePose
from stfm_training.calibration.cases import noisy_case, rendered_views
from stfm_training.photometric import augment
from stfm_training.sources.homographies import Homographies

BASELINE_M = 0.12
#: motion between the images of a pair, as a share of the scene's median depth
MOTIONS = (0.03, 0.1)
#: rows of a rectified pair may differ by so much in a match of the network
ROWS_PX = 1.5
Figures = dict[str, list[float]]
Step = Callable[[int, int], None]


def rendered(matcher: Matcher, photos: list[ByteArray], cases: int, seed: int, step: Step) -> Figures:
    """Rendered pairs whose second camera is BASELINE_M to the right; every image with light and noise of its own."""
    found: Figures = defaultdict(list)
    for number in range(cases):
        rng = np.random.default_rng([seed, number])
        views = rendered_views(rng, MOTIONS[number % len(MOTIONS)], photos)
        first = views.camera
        P = first.P.copy()
        P[0, 3] = -first.K[0, 0] * BASELINE_M
        second = replace(first, P=P)
        aside = np.eye(4)
        aside[0, 3] = -BASELINE_M
        places = (views.T_world[0], aside @ views.T_world[0], views.T_world[1])
        images = [augment(views.scene.render(first, T).image, rng, 0.5 * rng.random()) for T in places]
        truth = views.depths[0]
        depths = _depths(matcher, images[0], images[1], first, second, found)
        for name, depth in depths.items():
            _judge_depth(name, depth, truth, first.K[0, 0] * BASELINE_M, found)
        matches = matcher.match(images[0], images[2])
        pose = _by_stereo(matches, first, second, images)
        _judge_length("semi-global", pose, views.T_0to1, found)
        noise = StereoDepth(first, second).noise
        sources: tuple[tuple[str, Float32Array | None, DepthNoise], ...] = (
            ("network", depths["network"], replace(noise, quadratic=2 * noise.quadratic)),
            ("depth camera", noisy_case(views, rng, 0.5).depth0, DepthNoise()),
        )
        for name, sensed, how in sources:
            _judge_length(name, estimate_metric_pose(matches, first, first, sensed, noise=how), views.T_0to1, found)
        step(number + 1, cases)
    return found


def euroc(folder: Path, matcher: Matcher, step: Step) -> Figures:
    """Raw images of two distorted cameras. SIFT's matches, of which the rows agree, stand for the truth."""
    first, second, T = _euroc_cameras(folder)
    names = sorted(path.name for path in (folder / "cam0").iterdir())
    found: Figures = defaultdict(list)
    for i, name in enumerate(names):
        pair = [to_rgb(_read(folder / side / name)) for side in ("cam0", "cam1")]
        depth = _depths(matcher, pair[0], pair[1], first, second, found)["semi-global"]
        sift = _sift(pair[0], pair[1])
        shown = {"sift": sift, "network": matcher.match(pair[0], pair[1])}
        for method, matches in shown.items():
            disparity, rows, ahead = _disparities(matches, first, second)
            found[f"{method}: rows px"].append(float(np.median(rows[np.abs(rows) < 5])))
            focal_baseline = first.P[0, 0] * -second.P[0, 3] / second.P[0, 0]
            column, row = np.rint(matches.keypoints0).astype(int).T
            seen = depth[row.clip(0, first.height - 1), column.clip(0, first.width - 1)]
            both = (seen > 0) & (np.abs(rows) < ROWS_PX) & (disparity > 1)
            off = focal_baseline / (seen[both] * ahead[both]) - disparity[both]
            found[f"semi-global less {method} px"].append(float(np.median(off)))
            found[f"semi-global less {method}, spread px"].append(_spread(off))
        pose = estimate_metric_pose(sift, first, second, depth, noise=StereoDepth(first, second).noise)
        if pose.metric:
            found["baseline error %"].append(100 * (float(np.linalg.norm(pose.t) / np.linalg.norm(T[:3, 3])) - 1))
        step(i + 1, len(names))
    return found


def _depths(
    matcher: Matcher, image0: ByteArray, image1: ByteArray, first: Camera, second: Camera, found: Figures
) -> dict[str, Float32Array]:
    stereo = StereoDepth(first, second)
    began = time.perf_counter()
    dense = stereo(image0, image1)
    found["semi-global: ms"].append(1e3 * (time.perf_counter() - began))
    features0 = matcher.features(image0)  # which the tracker has already
    began = time.perf_counter()
    matches = matcher.match_features(features0, matcher.features(image1))
    found["network: ms"].append(1e3 * (time.perf_counter() - began))
    disparity, rows, ahead = _disparities(matches, first, second)
    use = (np.abs(rows) < ROWS_PX) & (disparity > 2)
    sparse = np.zeros_like(dense)
    column, row = np.rint(matches.keypoints0[use]).astype(int).T
    focal_baseline = first.P[0, 0] * -second.P[0, 3] / second.P[0, 0]
    sparse[row, column] = focal_baseline / (disparity[use] * ahead[use])
    return {"semi-global": dense, "network": sparse}


def _disparities(matches: Matches, first: Camera, second: Camera) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(n,) columns and rows of the rectified images that the two points of a match are apart; z of the first's ray."""
    sides = []
    for points, camera in ((matches.keypoints0, first), (matches.keypoints1, second)):
        rays = np.column_stack([normalise_points(points, camera), np.ones(len(points))]) @ camera.R.T
        sides.append((first.P[0, 0] * rays[:, :2] / rays[:, 2:], rays[:, 2]))
    (pixels0, ahead), (pixels1, _) = sides
    return pixels0[:, 0] - pixels1[:, 0], pixels0[:, 1] - pixels1[:, 1], ahead


def _judge_depth(name: str, depth: Float32Array, truth: Float32Array, focal_baseline: float, found: Figures) -> None:
    grid = np.s_[::8, ::8]
    given, true = depth[grid], truth[grid]
    both = (given > 0) & (true > 0)
    if not both.any():
        return
    off = focal_baseline / given[both] - focal_baseline / true[both]
    found[f"{name}: grid with depth %"].append(100 * float(both.sum() / (true > 0).sum()))
    found[f"{name}: disparity bias px"].append(float(np.median(off)))
    found[f"{name}: disparity spread px"].append(_spread(off))
    found[f"{name}: off by over 1 px %"].append(100 * float((np.abs(off) > 1).mean()))
    found[f"{name}: depth error %"].append(100 * float(np.median(np.abs(given[both] / true[both] - 1))))


def _judge_length(name: str, pose: RelativePose, T_0to1: FloatArray, found: Figures) -> None:
    found[f"{name}: metric %"].append(100.0 * pose.metric)
    if not pose.metric:
        return
    position = pose.camera1_in_camera0[1]
    length, true = np.linalg.norm(position), np.linalg.norm(T_0to1[:3, 3])
    direction = position / length
    sigma = np.sqrt(direction @ pose.covariance[:3, :3] @ direction)
    found[f"{name}: length error %"].append(100 * float(abs(length / true - 1)))
    found[f"{name}: length bias %"].append(100 * float(length / true - 1))
    within = abs(length - true) / sigma
    found[f"{name}: length within 1 sigma %"].append(100.0 * (within < 1))
    found[f"{name}: length within 2 sigma %"].append(100.0 * (within < 1.96))


def _by_stereo(matches: Matches, first: Camera, second: Camera, images: list[ByteArray]) -> RelativePose:
    """As the tracker has it: a source that is given messages."""
    scale = StereoScale(OdometryConfig())
    scale.take(to_message(messages.camera_info(0, "right", second), CAMERA_INFO_TYPE))
    scale.take(to_message(messages.image(0, "right", images[1]), IMAGE_TYPES[0]))
    return scale.estimate(Pair(matches, first, first, 0, 1, images[0]), PoseConfig())


def _euroc_cameras(folder: Path) -> tuple[Camera, Camera, FloatArray]:
    """Both cameras with R and P by OpenCV, as a calibrated pair is published, and T_first_to_second."""
    bodies, cameras = [], []
    for name in ("cam0.yaml", "cam1.yaml"):
        about = yaml.safe_load((folder / name).read_text().partition("\n")[2])  # the first line is OpenCV's own
        fx, fy, cx, cy = about["intrinsics"]
        width, height = about["resolution"]
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        cameras.append(Camera(width, height, K, "plumb_bob", np.array(about["distortion_coefficients"])))
        bodies.append(np.reshape(about["T_BS"]["data"], (4, 4)))
    T = np.linalg.inv(bodies[1]) @ bodies[0]
    a, b = cameras
    R1, R2, P1, P2, *_ = cv2.stereoRectify(a.K, a.D, b.K, b.D, (a.width, a.height), T[:3, :3], T[:3, 3], alpha=0)
    rectified = [np.asarray(matrix, np.float64) for matrix in (R1, P1, R2, P2)]
    return replace(a, R=rectified[0], P=rectified[1]), replace(b, R=rectified[2], P=rectified[3]), T


def _sift(image0: ByteArray, image1: ByteArray) -> Matches:
    detector = cv2.SIFT.create(3000)
    (points0, words0), (points1, words1) = (detector.detectAndCompute(image, None) for image in (image0, image1))  # type: ignore[call-overload]
    nearest = cv2.BFMatcher().knnMatch(words0, words1, k=2)
    kept = [one for one, other in nearest if one.distance < 0.75 * other.distance]
    columns = [[points0[one.queryIdx].pt for one in kept], [points1[one.trainIdx].pt for one in kept]]
    ones = np.ones(len(kept), np.float32)
    return Matches(np.array(columns[0], np.float32), np.array(columns[1], np.float32), ones, 0.3 * ones)


def _read(path: Path) -> ByteArray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise SystemExit(f"{path} cannot be read: expected an image")
    return np.asarray(image, np.uint8)


def _spread(values: Any) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for stereo.json")
    parser.add_argument("--photos", type=Path, help="folder of photographs; those that training holds out are textures")
    parser.add_argument("--euroc", type=Path, help="folder of EuRoC's stereo pairs")
    parser.add_argument("--cases", type=int, default=60, help="rendered ones")
    parser.add_argument("--seed", type=int, default=2026, help="another one draws other cases")
    parser.add_argument("--model", default="default", help="a shipped name or an exported folder")
    options = parser.parse_args()
    matcher = Matcher.from_pretrained(MatcherConfig(model=options.model))
    console = Console(stderr=True)
    parts: dict[str, Figures] = {}
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("pairs", total=None)
        step: Step = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        if options.photos:
            photos = Homographies(options.photos, validation=True).photos
            parts["rendered"] = rendered(matcher, photos, options.cases, options.seed, step)
        if options.euroc:
            parts["euroc"] = euroc(options.euroc, matcher, step)
    report = {}
    for name, figures in parts.items():
        table = Table("figure", "mean", "median", title=name)
        report[name] = {key: {"mean": np.mean(v), "median": np.median(v), "n": len(v)} for key, v in figures.items()}
        for key, values in sorted(figures.items()):
            table.add_row(key, f"{np.mean(values):.3f}", f"{np.median(values):.3f}")
        Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "stereo.json").write_text(json.dumps(report, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
