"""``stfm match``: two pictures, their matches, and with a calibration their relative pose."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stfm_ros.cli.command import Command, Outcome, Screen, UsageError
from stfm_ros.cli.options import MODEL_FIELDS, about_model, add_settings, load_matcher, model_line, read_config

if TYPE_CHECKING:
    from stfm_ros.types import ByteArray, Camera, RelativePose

POSE_FIELDS = {
    "pose": "null without a calibration, else:",
    "pose.status": "OK, FEW_MATCHES, STATIC, ROTATION_ONLY, PLANAR or LOW_PARALLAX; see msg/RelativePose.msg",
    "pose.reason": "why, in words",
    "pose.R": "3x3 rotation of T_0to1 (X1 = R X0 + t)",
    "pose.t": "translation of T_0to1: of length 1 (its true length cannot be seen), or zero where the status has none",
    "pose.metric": "whether t is in metres",
    "pose.covariance": "6x6 of the pose of camera 1 in camera 0: x y z rotX rotY rotZ",
    "pose.inliers": "for each match, whether it agrees with the pose",
    "pose.inlier_count": "how many do",
    "pose.parallax_deg": "median parallax of the inliers once the rotation is removed, degrees",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image0", type=Path, metavar="A", help="the reference picture")
    parser.add_argument("image1", type=Path, metavar="B", help="the other picture; any size")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a picture of the matches (.png, .jpg, .webp)")
    parser.add_argument(
        "--camera", type=float, nargs=4, action="append", metavar=("FX", "FY", "CX", "CY"),
        help="pinhole camera, px, for the pose; once for both pictures, or twice, for A and B",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, action="append", metavar="FILE",
        help="calibration file (of camera_calibration, or an echoed CameraInfo) instead; once or twice as well",
    )  # fmt: skip
    parser.add_argument(
        "--no-search", action="store_true",
        help="one look only: do not try the pictures turned and zoomed where they have little in common as they are",
    )  # fmt: skip
    add_settings(parser, "matcher", "pose")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.geometry import estimate_relative_pose
    from stfm_ros.picture_files import check_picture_name, read_picture, write_picture
    from stfm_ros.visualise import draw_matches, pose_words

    config = read_config(options)
    if options.out:
        check_picture_name(options.out)
    images = read_picture(options.image0), read_picture(options.image1)
    cameras = _cameras(options, images)
    matcher = load_matcher(config)
    began = time.perf_counter()
    matches = matcher.match(*images, search=not options.no_search)
    ms = 1e3 * (time.perf_counter() - began)
    pose = estimate_relative_pose(matches, *cameras, config.pose) if cameras else None
    if options.out:
        write_picture(options.out, draw_matches(images[0], images[1], matches, pose=pose))
    screen.show(model_line(matcher))
    screen.show(f"{len(matches)} matches in {ms:.0f} ms" + _confidence(matches.confidence))
    if pose is not None:
        screen.show(f"{int(pose.inliers.sum())} inliers, {pose_words(pose)}: {pose.reason}")
    if options.out:
        screen.show(f"wrote {options.out}")
    record = {
        "image0": _about_image(options.image0, images[0]),
        "image1": _about_image(options.image1, images[1]),
        "model": about_model(matcher),
        "match_ms": ms,
        "match_count": len(matches),
        "keypoints0": matches.keypoints0,
        "keypoints1": matches.keypoints1,
        "confidence": matches.confidence,
        "sigma": matches.sigma,
        "pose": _about_pose(pose),
        "picture": options.out,
    }
    return Outcome(record, negative=len(matches) == 0 or (pose is not None and not pose.status.has_rotation))


def _cameras(options: argparse.Namespace, images: tuple[ByteArray, ByteArray]) -> tuple[Camera, Camera] | None:
    from stfm_ros.calibration import check_size, pinhole, read_camera

    given = options.camera or options.calibration
    if not given:
        return None
    if (options.camera and options.calibration) or len(given) > 2:
        raise UsageError("give --camera or --calibration, once for both pictures or twice, for A and B")
    names = options.image0, options.image1
    cameras = []
    for image, name, one in zip(images, names, (given[0], given[-1])):
        size = image.shape[1], image.shape[0]
        camera = pinhole(one, size) if options.camera else read_camera(one)
        check_size(camera, size, name)
        cameras.append(camera)
    return cameras[0], cameras[1]


def _confidence(values: Any) -> str:
    return f", confidence {values.min():.2f} to {values.max():.2f}" if len(values) else ""


def _about_image(path: Path, image: ByteArray) -> dict[str, Any]:
    return {"path": path, "width": image.shape[1], "height": image.shape[0]}


def _about_pose(pose: RelativePose | None) -> dict[str, Any] | None:
    if pose is None:
        return None
    return {
        "status": pose.status.name,
        "reason": pose.reason,
        "R": pose.R,
        "t": pose.t,
        "metric": pose.metric,
        "covariance": pose.covariance,
        "inliers": pose.inliers,
        "inlier_count": int(pose.inliers.sum()),
        "parallax_deg": pose.parallax_deg,
    }


COMMAND = Command(
    name="match",
    summary="match two pictures; with a calibration, their relative pose",
    description=(
        "Match two pictures of any size, turned or zoomed against each other by any amount. With --camera or "
        "--calibration the relative pose is estimated too."
    ),
    example="stfm match a.jpg b.jpg --out matches.png --camera 525 525 319.5 239.5",
    negative="there is no match, or, with a calibration, no pose",
    fields={
        "image0": "the picture A: path, width and height in px",
        "image1": "the picture B, likewise",
        **MODEL_FIELDS,
        "match_ms": "time to match, both pictures encoded, ms (the first run of a model is slower)",
        "match_count": "n",
        "keypoints0": "n times [x, y] in A, px; the centre of the top-left pixel is (0, 0); best match first",
        "keypoints1": "n times [x, y] in B, px",
        "confidence": "n times, 0 to 1",
        "sigma": "n times 1-sigma of keypoints1, px",
        **POSE_FIELDS,
        "picture": "what --out wrote, or null",
    },
    arguments=arguments,
    execute=execute,
)
