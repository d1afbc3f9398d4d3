"""A bag looked at before training: read once, a few frames decoded, everything measured, judged at the end.

inspection = inspect_bag(Path("office.mcap"))
for problem in inspection.problems: print(problem)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stfm_ros.bags import IMAGE_TYPES
from stfm_ros.errors import StfmError
from stfm_ros.images import decode_depth, decode_image
from stfm_ros.posed_bag import nearest
from stfm_ros.types import Camera
from stfm_training.inspection.clock import Sync, TopicFacts, intervals, sync
from stfm_training.inspection.digest import READ_TYPES, Digest
from stfm_training.inspection.edges import Alignment, EdgeMap, Lag, align, edge_map, find_lag
from stfm_training.inspection.judge import judge
from stfm_training.inspection.motion import PoseCheck, check_poses
from stfm_training.inspection.outlook import Outlook, by_matches, by_poses
from stfm_training.inspection.problem import ERROR, WARNING, Problem
from stfm_training.inspection.samples import Decoder, Samples, look, spread_rows
from stfm_training.inspection.selection import Selection, candidates, select
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.estimate import Match
from stfm_training.recordings.frames import to_size

FRAMES = 48
#: frames for choosing among several topics
_FEW = 8
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        path: the bag.
        duration_s: from the first to the last time of receipt.
        topics: all of them.
        selection: what is taken for what, and which frames belong together.
        sync: by ``depth`` and ``camera_info``: their stamps against those of the images.
        samples: the frames that were looked at.
        alignment, lag: of depth with the image; None where there is no depth, or too few edges.
        pose_check: None where there are no poses, or no depth.
        outlook: None where the distillation could not read the bag.
        problems: the worst first.
    """

    path: Path
    duration_s: float
    topics: tuple[TopicFacts, ...]
    selection: Selection
    sync: dict[str, Sync]
    samples: Samples
    alignment: Alignment | None
    lag: Lag | None
    pose_check: PoseCheck | None
    outlook: Outlook | None
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether nothing was found that makes training useless."""
        return all(problem.severity != ERROR for problem in self.problems)


def inspect_bag(
    bag: Path | str,
    config: RecordingConfig | None = None,
    frames: int = FRAMES,
    match: Callable[[], Match] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Inspection:
    """Look at a bag.

    Args:
        bag: a rosbag2 folder, or an .mcap, .db3 or .bag file.
        config: how the distillation would read it.
        frames: at most so many are decoded, evenly spread.
        match: makes the matcher that estimates motions where no poses are recorded; called only then. Without it no
            training pairs are foretold for such a bag.

    Raises:
        BagError: the bag is missing, or cannot be opened at all.
    """
    config = config or RecordingConfig()
    with Digest(bag, lambda done, total: progress("reading", done, total)) as digest:
        best, chosen = _choose(digest, config)
        selection, problems = select(digest, config, best)
        decoder = Decoder(digest, selection, config)
        samples = look(decoder, selection, frames, lambda done, total: progress("frames", done, total))
        posed, forecast = _with_motion(decoder, selection, samples, config, match, progress)
        inspection = Inspection(
            path=Path(bag),
            duration_s=_duration_s(digest),
            topics=_topics(digest, selection),
            selection=selection,
            sync=_sync(digest, selection, config),
            samples=samples,
            alignment=align([one.edges for one in samples.frames if one.edges]),
            lag=find_lag([one.lags for one in samples.frames if one.lags]),
            pose_check=posed,
            outlook=forecast,
        )
        damage = [Problem(ERROR, "bag", digest.damage, "a whole bag", "see what it says")] if digest.damage else []
    found = [*damage, *problems, *chosen, *judge(inspection, config)]
    return replace(inspection, problems=tuple(sorted(found, key=lambda one: one.rank)))


def _with_motion(
    decoder: Decoder,
    selection: Selection,
    samples: Samples,
    config: RecordingConfig,
    match: Callable[[], Match] | None,
    progress: Progress,
) -> tuple[PoseCheck | None, Outlook | None]:
    """What depends on the motion between frames."""
    camera, poses = selection.camera, selection.poses
    if camera is None or len(samples.depths) < 2 or any(_size(one) != _size(camera) for one in samples.frames):
        return None, None
    if poses is not None:
        step: Callable[[int, int], None] = lambda done, total: progress("poses", done, total)  # noqa: E731
        checked = check_poses(decoder, camera, poses, samples.frames, step)
        return checked, by_poses(samples.depths, camera, poses, config)
    if match is None or not selection.poses_from:
        return None, None
    return None, by_matches(decoder, camera, match(), config, lambda done, total: progress("pairs", done, total))


def _size(of: Any) -> tuple[int, int]:
    return of.width, of.height


def _choose(digest: Digest, config: RecordingConfig) -> tuple[tuple[str, str] | None, list[Problem]]:
    """Where several topics could be meant: the image and the depth whose edges agree best."""
    images, depths = candidates(digest)
    images = [config.image_topic] if config.image_topic in digest.topics else images
    depths = [config.depth_topic] if config.depth_topic in digest.topics else depths
    if not images or (len(images) == 1 and len(depths) <= 1):
        return None, []
    scores = {(image, depth): _agreement(digest, image, depth, config) for image in images for depth in depths}
    best = max(scores, key=lambda pair: scores[pair]) if scores else (images[0], "")
    told = ", ".join(f"{image} with {depth} {score:.2f}" for (image, depth), score in scores.items())
    of = " and ".join(
        f"{len(names)} topics of {kind}" for kind, names in (("images", images), ("depth", depths)) if names
    )
    next_step = f"name them: --recording.image_topic {best[0]}" + (
        f" --recording.depth_topic {best[1]}" if best[1] else ""
    )
    value = f"{of}; agreement of edges: {told}" if told else of
    return best, [Problem(WARNING, "topics", value, "one of each, or to be told which", next_step)]


def _agreement(digest: Digest, image: str, depth: str, config: RecordingConfig) -> float:
    """Agreement of edges without displacement, of a few frames; 0 where the two cannot be laid upon each other."""
    stamps, others = digest.times(image)[0], digest.times(depth)[0]
    partner = nearest(stamps, others, round(config.tolerance_s * 1e9))
    rows = np.flatnonzero(partner >= 0)
    maps: list[EdgeMap] = []
    for k in spread_rows(len(rows), _FEW):
        try:
            picture = decode_image(digest.image(image, int(rows[k])))
            metres = decode_depth(digest.image(depth, int(partner[rows[k]])))
        except StfmError:
            continue
        if (found := edge_map(picture, to_size(metres, picture.shape[1], picture.shape[0]))) is not None:
            maps.append(found)
    alignment = align(maps)
    return alignment.here if alignment else 0.0


def _topics(digest: Digest, selection: Selection) -> tuple[TopicFacts, ...]:
    roles = {name: role for role, name in selection.topics.items() if name}
    facts = []
    for name, info in digest.topics.items():
        role = roles.get(name, "")
        about = TopicFacts(name, info.type, info.count, role, selection.why.get(role, ""))
        if info.type in READ_TYPES and (first := digest.first(name)) is not None:
            about = replace(about, **intervals(*digest.times(name)))  # type: ignore[arg-type]
            frame = first.header.frame_id if hasattr(first, "header") else ""
            size = digest.bytes_of[name] / 1e6 if info.type in IMAGE_TYPES else float("nan")
            about = replace(about, frame_id=frame, megabytes=size)
        facts.append(about)
    return tuple(facts)


def _sync(digest: Digest, selection: Selection, config: RecordingConfig) -> dict[str, Sync]:
    """Of depth and calibration to the images."""
    image = selection.topics.get("image", "")
    if not image:
        return {}
    stamps = digest.times(image)[0]
    found = {}
    for role in ("depth", "camera_info"):
        if (name := selection.topics.get(role)) and (
            one := sync(stamps, digest.times(name)[0], round(config.tolerance_s * 1e9))
        ):
            found[role] = one
    return found


def _duration_s(digest: Digest) -> float:
    times = [receipt for _, _, receipt in digest.messages()]
    return (max(times) - min(times)) / 1e9 if times else 0.0


def to_record(inspection: Inspection) -> dict[str, Any]:
    """For JSON; docs/cli.md documents the keys."""
    one = inspection
    frames = one.samples.frames
    depths = [frame.depth for frame in frames if frame.depth]
    camera: Camera | None = one.selection.camera
    without = ("agreement", "px", "overlaps")
    return {
        "bag": one.path,
        "usable": one.usable,
        "problems": [asdict(problem) for problem in one.problems],
        "duration_s": one.duration_s,
        "topics": [asdict(topic) for topic in one.topics],
        "taken": {role: name or None for role, name in one.selection.topics.items()},
        "poses_from": one.selection.poses_from or None,
        "counts": one.selection.counts,
        "sync": {role: asdict(value) for role, value in one.sync.items()},
        "camera": None if camera is None else asdict(camera),
        "frames": [
            {
                "second": frame.second,
                "blur": frame.blur,
                **frame.exposure._asdict(),
                "flow_px": frame.flow_px,
                "depth_valid": frame.depth.valid if frame.depth else None,
                "depth_m": frame.depth.median_m if frame.depth else None,
            }
            for frame in frames
        ],
        "undecodable": dict(one.samples.faults),
        "depth": {
            "valid": float(np.median([depth.valid for depth in depths])),
            "low_m": float(np.nanmedian([depth.low_m for depth in depths])),
            "median_m": float(np.nanmedian([depth.median_m for depth in depths])),
            "high_m": float(np.nanmedian([depth.high_m for depth in depths])),
        }
        if any(np.isfinite(depth.median_m) for depth in depths)
        else None,
        "alignment": _without(one.alignment, without),
        "lag": _without(one.lag, without),
        "poses": _without(one.pose_check, without),
        "pairs": None
        if one.outlook is None
        else {**_without(one.outlook, without), "overlap_histogram": one.outlook.histogram},
    }


def _without(of: Any, names: tuple[str, ...]) -> Any:
    return None if of is None else {key: value for key, value in asdict(of).items() if key not in names}
