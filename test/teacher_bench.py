"""The teacher node over DDS against recorded motion, beside PnP on SIFT's matches with the same depth.

    python test/teacher_bench.py rpy.mcap office.mcap livingroom.mcap --model teacher --out teacher.json

Each bag (stfm import-rgbd makes them) is played as the topics of a depth camera into a teacher node, a process of its
own: stamps of the depth are off, messages come late by different times, so that a depth may come before its image, and
some images and depths never come. The depth of the first bag goes as 16UC1, of the second as 32FC1, then as PNG, then
as compressedDepth. Topics are reliable, and the next frame is sent when the node is done with all but two of those
before it: as fast as the machine matches. So what is lost was lost on purpose, and every image can be accounted for.
With --rate frames are sent at that rate, and the node keeps the newest image alone, as on a robot.

Every relative pose that the node publishes is compared with the recorded motion between the same two images. So are the
poses by estimate_metric_pose from the matches of SIFT (and of further models) on the same two images with the same
depth. Errors are over the pairs in which each of them has a pose in metres; the share of those is beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from rich.progress import Progress
from ros_bench import Observer, observer, running
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from stfm_ros import messages
from stfm_ros.baselines import BASELINES
from stfm_ros.config import MatcherConfig, PoseConfig
from stfm_ros.geometry import estimate_metric_pose
from stfm_ros.machine import about_machine
from stfm_ros.motion import inverse
from stfm_ros.msg import RelativePose
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.offline import NamedMatcher
from stfm_ros.posed_bag import PosedBag, rigid
from stfm_ros.types import Float32Array, FloatArray, PoseStatus

FRAME = "camera_optical_frame"
QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
SLOP_NS = 20_000_000
#: shorter motions have no length to be wrong by a share of
MOVED_M = 0.05
PNG_HEADER = bytes(12)


def as_16uc1(stamp_ns: int, depth: Float32Array) -> Any:
    return to_ros(Image, messages.depth_image(stamp_ns, FRAME, depth))


def as_32fc1(stamp_ns: int, depth: Float32Array) -> Any:
    fields = messages.depth_image(stamp_ns, FRAME, depth)
    data = np.where(depth > 0, depth, np.nan).astype(np.float32).view(np.uint8).ravel()
    return to_ros(Image, {**fields, "encoding": "32FC1", "step": 4 * depth.shape[1], "data": data})


def as_png(stamp_ns: int, depth: Float32Array, form: str = "16UC1; png compressed ", before: bytes = b"") -> Any:
    data = cv2.imencode(".png", (1000 * depth).round().astype(np.uint16))[1].tobytes()
    return to_ros(CompressedImage, messages.compressed_image(stamp_ns, FRAME, form, before + data))


def as_compressed_depth(stamp_ns: int, depth: Float32Array) -> Any:
    return as_png(stamp_ns, depth, "16UC1; compressedDepth png", PNG_HEADER)


#: node.depth_transport, the type of its messages, and what makes one
TRANSPORTS: tuple[tuple[str, str, Any, Callable[[int, Float32Array], Any]], ...] = (
    ("16UC1", "raw", Image, as_16uc1),
    ("32FC1", "raw", Image, as_32fc1),
    ("PNG", "compressed", CompressedImage, as_png),
    ("compressedDepth", "compressedDepth", CompressedImage, as_compressed_depth),
)


@dataclass
class Sent:
    """What was played: frames of the bag by the stamps that they were sent with."""

    images: dict[int, int] = field(default_factory=dict)
    depths: dict[int, int] = field(default_factory=dict)
    images_lost: int = 0
    depths_lost: int = 0
    depth_first: int = 0

    def depth_of(self, image_ns: int) -> int | None:
        """The frame whose depth is the nearest within the slop."""
        stamp = min(self.depths, key=lambda other: abs(other - image_ns), default=None)
        return None if stamp is None or abs(stamp - image_ns) > SLOP_NS else self.depths[stamp]


class Player:
    """Plays a bag as a depth camera."""

    def __init__(self, watch: Observer, bag: PosedBag, transport: int, args: argparse.Namespace) -> None:
        _, name, kind, self._encode = TRANSPORTS[transport]
        self._watch = watch
        self._bag = bag
        self._args = args
        self._rng = np.random.default_rng(args.seed)
        self._images = watch.create_publisher(Image, "image", QOS)
        self._infos = watch.create_publisher(CameraInfo, "camera_info", QOS)
        self._depths = watch.create_publisher(kind, "depth" if name == "raw" else f"depth/{name}", QOS)

    def play(self, tick: Callable[[], None]) -> Sent:
        """Send every frame; returns when the node is done with all."""
        for publisher in (self._images, self._infos, self._depths):
            self._watch.until("subscriber", lambda one=publisher: one.get_subscription_count() == 1)
        time.sleep(1.0)  # the other side may still be about to match
        sent = Sent()
        began = time.monotonic()
        for number, k in enumerate(range(0, len(self._bag), self._args.every)):
            self._frame(k, sent)
            if self._args.rate:
                time.sleep(max(0.0, began + (number + 1) / self._args.rate - time.monotonic()))
            else:
                self._watch.until("room", lambda: len(sent.images) - self._done() <= 2)
            tick()
        self._watch.until("end", lambda: self._done() == len(sent.images))
        return sent

    def _done(self) -> int:
        return self._watch.count("processed") + self._watch.count("dropped")

    def close(self) -> None:
        for publisher in (self._images, self._infos, self._depths):
            self._watch.destroy_publisher(publisher)

    def _frame(self, k: int, sent: Sent) -> None:
        stamp = round(self._bag.stamps[k] * 1e9)
        depth_stamp = stamp + round(1e6 * self._rng.uniform(-self._args.offset_ms, self._args.offset_ms))
        late = self._rng.uniform(0, self._args.late_ms / 1e3, 2)
        lost_image, lost_depth = self._rng.random(2) < self._args.drop
        depth = self._bag.depth(k)
        assert depth is not None
        due: list[tuple[float, Publisher, Any]] = []
        if lost_image:
            sent.images_lost += 1
        else:
            sent.images[stamp] = k
            info = to_ros(CameraInfo, messages.camera_info(stamp, FRAME, self._bag.camera))
            image = to_ros(Image, messages.image(stamp, FRAME, self._bag.image(k)))
            due += [(late[0], self._infos, info), (late[0], self._images, image)]
        if lost_depth:
            sent.depths_lost += 1
        else:
            sent.depths[depth_stamp] = k
            due.append((late[1], self._depths, self._encode(depth_stamp, depth)))
        sent.depth_first += bool(not lost_image and not lost_depth and late[1] < late[0])
        began = time.monotonic()
        for at, publisher, message in sorted(due, key=lambda one: one[0]):
            time.sleep(max(0.0, began + at - time.monotonic()))
            publisher.publish(message)


@dataclass(frozen=True)
class Error:
    """Of one pose in metres against the recorded motion."""

    rotation_deg: float
    translation_m: float
    scale: float  #: share by which the length is wrong; NaN of a short motion
    nees: float  #: squared error in its covariance's units, 6 where that is right

    @staticmethod
    def of(found: FloatArray, covariance: FloatArray, true: FloatArray) -> Error:
        """Of camera 1 in camera 0, (4, 4), with its covariance (6, 6)."""
        turn = cv2.Rodrigues(found[:3, :3] @ true[:3, :3].T)[0].ravel()
        shift = found[:3, 3] - true[:3, 3]
        length = float(np.linalg.norm(true[:3, 3]))
        scale = abs(float(np.linalg.norm(found[:3, 3])) / length - 1) if length >= MOVED_M else np.nan
        error = np.concatenate([shift, turn])
        nees = float(error @ np.linalg.pinv(covariance) @ error) if covariance.any() else np.nan
        return Error(float(np.degrees(np.linalg.norm(turn))), float(np.linalg.norm(shift)), scale, nees)


def of_message(pose: RelativePose, true: FloatArray) -> Error | None:
    """The error of what the node said; None where it has no metres."""
    if not pose.metric and pose.status != RelativePose.STATIC:
        return None
    covariance = np.reshape(pose.pose.covariance, (6, 6))
    return Error.of(rigid(pose.pose.pose.position, pose.pose.pose.orientation), covariance, true)


class Beside:
    """Another matcher on the same images with the same depth, through the same estimator."""

    def __init__(self, matcher: NamedMatcher, bag: PosedBag) -> None:
        self._matcher = matcher
        self._bag = bag
        self._features = lru_cache(maxsize=8)(lambda k: matcher.features(bag.image(k)))

    def error(self, k0: int, k1: int, depth: Float32Array, true: FloatArray) -> Error | None:
        matches = self._matcher.match_features(self._features(k0), self._features(k1))
        pose = estimate_metric_pose(matches, self._bag.camera, self._bag.camera, depth, PoseConfig())
        if not pose.metric and pose.status is not PoseStatus.STATIC:
            return None
        found = np.eye(4)
        found[:3, :3], found[:3, 3] = pose.camera1_in_camera0
        return Error.of(found, pose.covariance, true)


def summary(errors: list[Error | None], everywhere: list[bool]) -> dict[str, Any]:
    """Of one method: its share of poses, and its errors where all methods have one."""
    both = [error for error, use in zip(errors, everywhere) if use and error is not None]
    lines: dict[str, Any] = {"metric_share": float(np.mean([error is not None for error in errors]))}
    for name in ("rotation_deg", "translation_m", "scale"):
        values = np.array([getattr(error, name) for error in both])
        values = values[np.isfinite(values)]
        lines[name] = {"count": len(values)}
        if len(values):
            lines[name] |= {"median": float(np.median(values)), "p90": float(np.percentile(values, 90))}
    nees = np.array([error.nees for error in both])
    lines["nees_median"] = float(np.nanmedian(nees)) if np.isfinite(nees).any() else None
    return lines


def bench(path: Path, transport: int, args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Play one bag, and score what came of it."""
    name, depth_transport, _, _ = TRANSPORTS[transport]
    parameters = {
        "matcher.model": args.model, "matcher.threads": 1, "node.reliability": "reliable",
        "node.scale_reliability": "reliable", "node.policy": "newest" if args.rate else "keep_all",
        "node.depth_transport": depth_transport,
    }  # fmt: skip
    parameters |= dict(word.split(":=", 1) for word in args.set)
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
    poses: list[RelativePose] = []
    with PosedBag(path) as bag, observer() as watch:
        watch.most_in_flight = 200
        watch.create_subscription(RelativePose, "relative_pose", poses.append, 200)
        frames = len(range(0, len(bag), args.every))
        playing = progress.add_task(f"{path.stem}: playing", total=frames)
        with redirect_stdout(sys.stderr), running(*words, pair_ms=None, node="teacher"):
            player = Player(watch, bag, transport, args)
            began = time.monotonic()
            sent = player.play(lambda: progress.advance(playing))
            took_s = time.monotonic() - began
            said = dict(watch.values)
            watch.until("last pose", lambda: len(poses) == int(said["processed"]) - int(said["failed"]))
        result = {
            "bag": path.stem, "depth_as": name, "frames": frames, "images_sent": len(sent.images),
            "images_lost": sent.images_lost, "depths_lost": sent.depths_lost, "depth_first": sent.depth_first,
            "without_depth": sum(sent.depth_of(stamp) is None for stamp in sent.images), "seconds": took_s,
            "diagnostics": said,
        }  # fmt: skip
        return result | score(bag, sent, poses, args, progress)


def score(
    bag: PosedBag, sent: Sent, poses: list[RelativePose], args: argparse.Namespace, progress: Progress
) -> dict[str, Any]:
    """The errors of the node's poses and of the other matchers on the same pairs."""
    others = {name: Beside(named(name), bag) for name in args.beside}
    errors: dict[str, list[Error | None]] = {"teacher": [], **{name: [] for name in others}}
    lengths = []
    pairs = [pose for pose in poses if pose.status != RelativePose.NO_REFERENCE]
    task = progress.add_task("  beside it", total=len(pairs))
    for pose in pairs:
        stamps = (messages.stamp_ns(type(pose.header)(stamp=pose.reference_stamp)), messages.stamp_ns(pose.header))
        k0, k1 = (sent.images[stamp] for stamp in stamps)
        k_depth = sent.depth_of(stamps[0])
        assert k_depth is not None, "a reference without depth"
        depth = bag.depth(k_depth)
        assert depth is not None
        true = inverse(bag.poses[k0]) @ bag.poses[k1]
        lengths.append(float(np.linalg.norm(true[:3, 3])))
        errors["teacher"].append(of_message(pose, true))
        for name, other in others.items():
            errors[name].append(other.error(k0, k1, depth, true))
        progress.advance(task)
    everywhere = [all(error is not None for error in row) for row in zip(*errors.values())]
    return {
        "pairs": len(pairs),
        "pairs_all_metric": sum(everywhere),
        "motion_m": {"median": float(np.median(lengths)), "p90": float(np.percentile(lengths, 90))},
        "methods": {name: summary(found, everywhere) for name, found in errors.items()},
    }


def named(name: str) -> NamedMatcher:
    """A classical matcher, or an RGB model by its name."""
    if name in BASELINES:
        return BASELINES[name]
    from stfm_ros.matcher import Matcher

    return Matcher.from_pretrained(MatcherConfig(model=name, threads=1))


def accounts(result: dict[str, Any]) -> list[str]:
    """What does not add up; empty where every image is accounted for."""
    said = {key: int(value) for key, value in result["diagnostics"].items() if value.isdigit()}
    equal = {
        "received = sent": (said["received"], result["images_sent"]),
        "received = processed + dropped": (said["received"], said["processed"] + said["dropped"]),
        "failed = images without depth": (said["failed"], result["without_depth"]),
        "depth_missing = images without depth": (said["depth_missing"], result["without_depth"]),
    }
    return [f"{what}: {a} and {b}" for what, (a, b) in equal.items() if a != b]


def tables(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    rows = [
        "| recording | method | metric | rotation, median / p90 | translation, median / p90 | length, median / p90 |",
        "|---|---|---|---|---|---|",
    ]
    for one in results:
        for name, found in one["methods"].items():
            cells = [spread(found[key], factor, unit) for key, factor, unit in
                     (("rotation_deg", 1, "deg"), ("translation_m", 100, "cm"), ("scale", 100, "%"))]  # fmt: skip
            about = f"{one['bag']}, {one['pairs']} pairs" if name == "teacher" else ""
            rows.append(f"| {about} | {name} | {100 * found['metric_share']:.1f} % | {' | '.join(cells)} |")
    rows += [
        "",
        "| recording | depth as | images sent | never sent: images, depths | received = processed + dropped | failed "
        "| sync rate | offset p50 / p95 | coverage p50 / p10 | depth first |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        said = one["diagnostics"]
        rows.append(
            f"| {one['bag']} | {one['depth_as']} | {one['images_sent']} | {one['images_lost']}, {one['depths_lost']} "
            f"| {said['received']} = {said['processed']} + {said['dropped']} | {said['failed']} "
            f"| {said['depth_sync_rate']} | {said['depth_offset_ms.p50']} / {said['depth_offset_ms.p95']} ms "
            f"| {said['depth_coverage.p50']} / {said['depth_coverage.p10']} | {one['depth_first']} |"
        )
    return "\n".join(rows)


def spread(found: dict[str, float], factor: float, unit: str) -> str:
    if "median" not in found:
        return "-"
    return f"{factor * found['median']:.2f} / {factor * found['p90']:.2f} {unit} ({found['count']:.0f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bags", nargs="+", type=Path)
    parser.add_argument("--model", default="teacher", help="RGB-D model of the node (default: teacher)")
    parser.add_argument("--beside", nargs="*", default=["sift"], help="sift, orb, akaze or RGB models (default: sift)")
    parser.add_argument("--every", type=int, default=1, help="play every so manieth frame (default: all)")
    parser.add_argument("--rate", type=float, default=0.0, help="frames a second (default: as fast as it matches)")
    parser.add_argument("--drop", type=float, default=0.05, help="share of images, and of depths, that never come")
    parser.add_argument("--offset-ms", type=float, default=10.0, help="largest offset of a depth's stamp")
    parser.add_argument("--late-ms", type=float, default=30.0, help="largest delay of a message")
    parser.add_argument("--set", nargs="*", default=[], metavar="PARAMETER:=VALUE", help="of the node")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON of everything")
    args = parser.parse_args()
    with Progress(console=Console(stderr=True)) as progress:
        results = [bench(path, k % len(TRANSPORTS), args, progress) for k, path in enumerate(args.bags)]
    wrong = [f"{one['bag']}: {text}" for one in results for text in accounts(one)]
    settings = {key: value for key, value in vars(args).items() if key not in ("bags", "out")}
    record = {"settings": settings, "machine": about_machine(), "results": results, "does_not_add_up": wrong}
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(tables(results))
    print("\n".join(wrong) or "\nEvery image is accounted for.")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
