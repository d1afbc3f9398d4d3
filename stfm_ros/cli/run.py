"""``stfm run``: a bag in; a bag of correspondences and poses, a trajectory and a report out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stfm_ros.cli import shadows, trajectories
from stfm_ros.cli.command import Command, Outcome, Screen, table
from stfm_ros.cli.options import (
    MODEL_FIELDS,
    about_model,
    add_settings,
    baselines,
    load_matcher,
    model_line,
    read_config,
)

if TYPE_CHECKING:
    from stfm_ros.matcher import Matcher
    from stfm_ros.offline import NamedMatcher, RunResult
    from stfm_ros.report import Plot, Table
    from stfm_ros.tracker import Track
    from stfm_ros.types import ByteArray

#: pictures in a report
PICTURES = 4


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or .mcap, .db3 or .bag file")
    parser.add_argument("--out", type=Path, metavar="BAG", help="bag to write: NAME.mcap, or a rosbag2 folder's name")
    parser.add_argument("--trajectory", type=Path, metavar="FILE", help="trajectory to write, in TUM layout")
    parser.add_argument("--report", type=Path, metavar="FILE", help="HTML page to write: figures, plots and pictures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="picture of the matches of an image half-way")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="found where there is only one")
    parser.add_argument("--camera-info-topic", default="", metavar="TOPIC", help="the one beside the image topic")
    parser.add_argument(
        "--scale-topic",
        default="",
        metavar="TOPIC",
        help="found where there is only one; stereo: the second camera's images, told by P of its camera_info",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bag of this name")
    trajectories.arguments(parser)
    shadows.arguments(parser)
    add_settings(parser, "matcher", "pose", "tracker", "odometry")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.bags import BagReader
    from stfm_ros.offline import find_scale, find_topics, run_bag
    from stfm_ros.picture_files import check_picture_name, write_picture

    config = read_config(options)
    beside = baselines(options.methods)
    if options.picture:
        check_picture_name(options.picture)
    with BagReader(options.bag) as bag:  # what is wrong with it is told before the model has taken its time
        of_scale = config.odometry.scale, options.scale_topic
        images, _ = find_topics(bag, options.image_topic, options.camera_info_topic, *of_scale)
        find_scale(bag, *of_scale, images)
        where = trajectories.find_truth(bag, options)
    truth = trajectories.load_truth(options.bag, where, bool(options.ground_truth), screen)
    matcher = load_matcher(config)
    students = shadows.Shadows(options.shadow, config)
    album = _Album()

    def look(track: Track | None, done: int, total: int) -> None:
        album.add(track, done, total)
        students.add(track)

    def walk(method: NamedMatcher, **wanted: Any) -> RunResult:
        watch = wanted.pop("watch", lambda track, done, total: None)
        with screen.progress(f"{method.model_name} on {options.bag.name}") as step:

            def watch_and_step(track: Track | None, done: int, total: int) -> None:
                watch(track, done, total)
                step(done, total)

            topics = {name: getattr(options, name) for name in ("image_topic", "camera_info_topic", "scale_topic")}
            return run_bag(options.bag, method, config, watch=watch_and_step, **topics, **wanted)

    began = time.perf_counter()
    result = walk(matcher, out=options.out, trajectory=options.trajectory, overwrite=options.overwrite, watch=look)
    seconds = time.perf_counter() - began
    rows = [trajectories.judge(f"stfm {matcher.model_name}", result, truth, options.rpe_frames)]
    for name, method in beside.items():
        rows.append(trajectories.judge(name, walk(method), truth, options.rpe_frames))
    written: dict[str, int] = {}
    if options.out:  # what counts is what can be read back
        with BagReader(options.out) as bag:
            written = {name: info.count for name, info in bag.topics.items()}
    pictured = options.picture if album.tracks else None
    if pictured:
        write_picture(pictured, _picture(album.tracks[len(album.tracks) // 2]))
    record = {
        "bag": options.bag,
        "model": about_model(matcher),
        "image_topic": result.image_topic,
        "camera_info_topic": result.camera_info_topic or None,
        "read": result.read,
        "matched": result.matched,
        "unmatched": dict(result.unmatched),
        "poses": result.poses,
        "statuses": dict(result.statuses),
        "keyframes": result.keyframes,
        "faults": {kind: {"count": n, "first": result.first_faults[kind]} for kind, n in result.faults.items()},
        "seconds": seconds,
        "timings_ms": {stage: _spread(values) for stage, values in result.timings_ms.items()},
        "out": {"path": options.out, "topics": written} if options.out else None,
        "scale": {"source": config.odometry.scale, "topic": result.scale_topic or None, "metric": result.metric},
        "trajectory": {"path": options.trajectory, "poses": len(result.trajectory), "breaks": result.breaks},
        "ground_truth": where if truth is not None else None,
        "rpe_frames": options.rpe_frames,
        "methods": [row.record() for row in rows],
        "shadow": students.record(),
        "picture": pictured,
        "report": options.report,
    }
    if options.report:
        _write_report(options.report, record, result, album, rows, shadows.parts(students.summaries()))
    _show(screen, matcher, record)
    trajectories.show(screen, rows, options.rpe_frames)
    shadows.show(screen, students.summaries())
    for kind, reason in result.first_faults.items():
        screen.say(f"stfm: {kind}, {result.faults[kind]} times, first: {reason}")
    return Outcome(record, negative=result.poses == 0)


class _Album:
    """A few tracks, evenly spread over the recording, and what is plotted of all."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.stamps_ns: list[int] = []
        self.matches: list[int] = []
        self.inliers: list[int] = []

    def add(self, track: Track | None, done: int, total: int) -> None:
        if track is None or len(track.matches) == 0:
            return
        self.stamps_ns.append(track.stamp_ns)
        self.matches.append(len(track.matches))
        self.inliers.append(int(track.pose.inliers.sum()))
        if len(self.tracks) < PICTURES and done * PICTURES >= (len(self.tracks) + 0.5) * total:
            self.tracks.append(track)


def _picture(track: Track) -> ByteArray:
    from stfm_ros.visualise import draw_matches

    apart = (track.stamp_ns - track.reference_stamp_ns) / 1e9
    return draw_matches(track.image0, track.image1, track.matches, title=f"{apart:.2f} s apart", pose=track.pose)


def _spread(values: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": float(p50), "p95": float(p95)}


def _counts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The account of all images, as rows of text."""
    rows = [("read", record["read"]), ("matched", record["matched"])]
    rows += [(f"unmatched: {reason}", n) for reason, n in record["unmatched"].items()]
    rows += [(f"status {status}", n) for status, n in record["statuses"].items()]
    return [(name, str(n)) for name, n in [*rows, ("keyframes", record["keyframes"])]]


def _latencies(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(stage, f"{ms['p50']:.1f}", f"{ms['p95']:.1f}") for stage, ms in record["timings_ms"].items()]


def _show(screen: Screen, matcher: Matcher, record: dict[str, Any]) -> None:
    screen.show(model_line(matcher))
    info = record["camera_info_topic"] or "no camera_info: correspondences only, no poses"
    screen.show(f"images of {record['image_topic']}, {info}")
    counts = table("images", "")
    for row in _counts(record):
        counts.add_row(*row)
    screen.show(counts)
    latencies = table("ms an image", "p50", "p95")
    for times in _latencies(record):
        latencies.add_row(*times)
    screen.show(latencies)
    screen.show(f"{record['read']} images in {record['seconds']:.1f} s")
    if record["out"]:
        topics = ", ".join(f"{name} {count}" for name, count in record["out"]["topics"].items())
        screen.show(f"wrote {record['out']['path']}: {topics or 'no messages'}")
    path, placed = record["trajectory"]["path"], record["trajectory"]["poses"]
    if path:
        breaks = f", interrupted {n} times" if (n := record["trajectory"]["breaks"]) else ""
        screen.show(f"wrote {path}: {placed} poses{breaks}; {_scale(record)}")
    for name in ("picture", "report"):
        if record[name]:
            screen.show(f"wrote {record[name]}")


def _scale(record: dict[str, Any]) -> str:
    """What the lengths of the trajectory are worth."""
    scale = record["scale"]
    if scale["topic"] is None:
        return "of one camera, so of unknown scale"
    return f"in metres by {scale['source']} of {scale['topic']}"


def _write_report(
    path: Path,
    record: dict[str, Any],
    result: RunResult,
    album: _Album,
    rows: list[trajectories.Row],
    of_students: list[Table | Plot],
) -> None:
    from stfm_ros.plots import Series, line_plot, path_plot
    from stfm_ros.report import Figure, Picture, Plot, Report, Table, write_report

    parts: list[Table | Plot | Picture] = [
        Table("Images", ("", "count"), tuple(_counts(record))),
        Table("Time an image", ("stage", "p50 ms", "p95 ms"), tuple(_latencies(record))),
    ]
    if album.stamps_ns:
        seconds = (np.array(album.stamps_ns) - album.stamps_ns[0]) / 1e9
        counts = [Series("matches", seconds, np.array(album.matches, float))]
        counts.append(Series("inliers", seconds, np.array(album.inliers, float)))
        parts.append(Plot("Matches over time", line_plot(counts, "s", "count")))
    parts += trajectories.parts(rows, record["rpe_frames"])
    parts += of_students
    if len(result.trajectory) > 1 and not rows[0].sim3:
        positions = np.array(result.trajectory)[:, :3, 3]
        above = [Series("camera", positions[:, 0], positions[:, 2])]
        note = f"From above, in the frame of the first camera; {_scale(record)}."
        parts.append(Plot("Trajectory", path_plot(above, "x", "z"), note))
    parts += [Picture(f"Matches {i}", _picture(track)) for i, track in enumerate(album.tracks, 1)]
    share = f"{100 * record['poses'] / max(record['read'], 1):.0f}"
    figures = (
        Figure("images", str(record["read"])),
        Figure("with a pose", share, "%", "good" if record["poses"] else "bad"),
        Figure("images a second", f"{record['read'] / record['seconds']:.1f}"),
    )
    model = record["model"]
    facts = {"model": f"{model['name']} ({model['weights_hash']})", "runtime": model["runtime"]}
    subtitle = f"{record['image_topic']} of {record['bag']}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, Report(f"Matches of {record['bag'].name}", subtitle, figures, tuple(parts), facts))


COMMAND = Command(
    name="run",
    summary="match a whole bag: correspondences, relative poses and a trajectory out",
    description=(
        "Match every image of a bag against its reference, as the node does but without dropping any. Written are "
        "/matches (stfm_ros/msg/Correspondences) and /relative_pose (stfm_ros/msg/RelativePose) at the images' times, "
        "and a trajectory in TUM layout: camera (optical frame) in the first reference camera, at one unknown scale, "
        "since one camera sees no length. With --odometry.scale it is in metres, by depth, a second camera, an "
        "odometry or a twist that the bag holds, and /odometry (nav_msgs/msg/Odometry) is written too. Every image is "
        "accounted for: read = matched + all of unmatched. Where the true poses are known, the errors of the "
        "trajectory are told (ATE, RPE, by evo), beside those of classical matchers that go the same way "
        "(--methods sift,orb). An RGB-D model (a teacher) takes the depth of the bag with --odometry.scale depth; "
        "--shadow then tells how far students are from it."
    ),
    example="stfm run office.mcap --out matches.mcap --trajectory office.txt --report office.html",
    negative="no image has a pose",
    fields={
        "bag": "what was read",
        **MODEL_FIELDS,
        "image_topic": "topic of the images",
        "camera_info_topic": "topic of their calibration, or null: then there are correspondences but no poses",
        "read": "images that were read",
        "matched": "images with correspondences to their reference",
        "unmatched": "images without, by reason: no_reference (it became the reference), few_matches, lost, image (it "
        "cannot be decoded), tracker, internal",
        "poses": "images whose relative pose has at least a rotation",
        "statuses": "images by the status of their relative pose; see msg/RelativePose.msg",
        "keyframes": "images that became the reference",
        "faults": "what was wrong with the input, by kind: count, and the first message",
        "seconds": "wall time of the run, loading the model apart",
        "timings_ms": "p50 and p95 by stage, ms an image",
        "out": "null, or: path, and messages by topic, read back",
        "scale.source": "the setting odometry.scale",
        "scale.topic": "what gave the metres, or null",
        "scale.metric": "images whose relative pose is in metres",
        "trajectory.path": "what was written, or null",
        "trajectory.poses": "images that were placed",
        "trajectory.breaks": "times the chain of poses was interrupted; it then goes on where it ended",
        **trajectories.FIELDS,
        **shadows.FIELDS,
        "picture": "what --picture wrote, or null",
        "report": "what --report wrote, or null",
    },
    arguments=arguments,
    execute=execute,
)
