"""What a demo shows: the node's answers joined with the truth by stamp, as numbers, a table, pictures and a page.

The truth of a pair is the pose of the current camera in the reference camera, from the recording's own poses. A turn is
wrong by the angle of the rotation between estimate and truth, a direction by the angle between the two translations
(its sign counts). The length of a translation is not judged: one camera cannot know it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.table import Table as RichTable

from stfm_ros import messages
from stfm_ros.bags import IMAGE_TYPES, BagReader
from stfm_ros.images import decode_image
from stfm_ros.import_rgbd import POSE_TYPE
from stfm_ros.pairs import rotation_angle_deg
from stfm_ros.plots import Series, Span, bar_plot, line_plot, path_plot
from stfm_ros.report import Figure, Picture, Plot, Report, Table, write_report
from stfm_ros.rotation import quaternion_to_matrix
from stfm_ros.types import ByteArray, FloatArray, Matches, PoseStatus, RelativePose
from stfm_ros.visualise import draw_matches

IMAGE_TYPE = IMAGE_TYPES[1]  # compressed: what the player sends
#: the order in which a frame passes them; then the node's own work (decode, publish and what is between the stages),
#: the whole way in the node, and camera to listener
STAGES = ("wait", "decode", "features", "pair", "pose", "publish", "overhead", "total", "end to end")
PICTURES = 3
LEAST_MOTION_M = 0.01  # a shorter true translation has no direction worth judging


@dataclass(frozen=True)
class Recording:
    """What the player wrote down.

    Attributes:
        sent: (stamp in the bag, stamp it was sent with) of each frame, nanoseconds.
        poses: as in ``stfm_ros.nodes.collector``.
        correspondences: by the stamp sent: x0 y0 x1 y1 confidence sigma inlier, (n, 7) float32.
        diagnostics: the node's last lines.
    """

    sent: tuple[tuple[int, int], ...]
    poses: tuple[Mapping[str, Any], ...]
    correspondences: Mapping[int, np.ndarray]
    diagnostics: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Recording:
        """Read ``recording.json`` and ``matches.npz``."""
        record = json.loads((folder / "recording.json").read_text(encoding="utf-8"))
        with np.load(folder / "matches.npz") as arrays:
            correspondences = {int(name): arrays[name] for name in arrays.files}
        sent = tuple((item["source_ns"], item["stamp_ns"]) for item in record["sent"])
        return cls(sent, tuple(record["poses"]), correspondences, record["diagnostics"])


@dataclass(frozen=True)
class Spread:
    """Median and 95th percentile; NaN of nothing."""

    median: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float] | FloatArray) -> Spread:
        """Of any number of values; those that are not finite are left out."""
        kept = np.asarray(values, np.float64)
        kept = kept[np.isfinite(kept)]
        if not len(kept):
            return cls(float("nan"), float("nan"))
        median, p95 = np.percentile(kept, (50, 95))
        return cls(float(median), float(p95))


@dataclass(frozen=True)
class Answer:
    """One relative pose of the node beside the truth; errors in degrees, NaN where the status gives none."""

    source_ns: int
    reference_ns: int
    status: PoseStatus
    matches: int
    inliers: int
    end_to_end_ms: float
    rotation_deg: float
    direction_deg: float
    estimate: FloatArray = field(repr=False)  #: (4, 4) current camera in reference camera
    truth: FloatArray = field(repr=False)  #: (4, 4) the same


@dataclass(frozen=True)
class DemoResult:
    """The demo in numbers.

    Attributes:
        sent: frames that were published.
        received, dropped, failed: by the node: came in, made way for a newer one, gave nothing.
        matched: images with at least one match; ``posed``: those with a rotation.
        rotation_deg, direction_deg: errors against the truth.
        latency_ms: by stage (:data:`STAGES`).
        statuses: how often each pose status came.
        about: model, weights, runtime and why that runtime.
        files: what was written, by kind.
    """

    sent: int
    received: int
    dropped: int
    failed: int
    matched: int
    posed: int
    rotation_deg: Spread
    direction_deg: Spread
    latency_ms: Mapping[str, Spread]
    statuses: Mapping[str, int]
    about: Mapping[str, str]
    files: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether any pose came out."""
        return self.posed > 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        plain: dict[str, Any] = _plain({**asdict(self), "ok": self.ok})
        return plain

    def table(self) -> RichTable:
        """For the terminal."""
        table = RichTable(title="stfm demo", show_header=False, title_style="bold", pad_edge=False)
        table.add_column(style="cyan")
        table.add_column()
        for name, value in self.rows():
            table.add_row(name, value)
        return table

    def rows(self) -> list[tuple[str, str]]:
        """The numbers in words."""
        lost = self.sent - self.received
        frames = f"{self.sent} sent, {self.received} received, {self.matched} matched, {self.dropped} dropped"
        rows = [
            (
                "frames",
                frames
                + (f", {lost} lost on the way" if lost else "")
                + (f", {self.failed} failed" if self.failed else ""),
            ),
            ("poses", f"{self.posed} ({', '.join(f'{n} {name}' for name, n in self.statuses.items())})"),
            ("rotation error", f"median {self.rotation_deg.median:.2f}, p95 {self.rotation_deg.p95:.2f} deg"),
            ("direction error", f"median {self.direction_deg.median:.1f}, p95 {self.direction_deg.p95:.1f} deg"),
        ]
        rows += [(f"{name} latency", f"p50 {s.median:.1f}, p95 {s.p95:.1f} ms") for name, s in self.latency_ms.items()]
        rows += [(name.replace("_", " "), value[:60]) for name, value in self.about.items() if name != "weights_hash"]
        return rows


def truth_of(bag: Path) -> dict[int, FloatArray]:
    """(4, 4) camera in world by stamp, from the bag's PoseStamped topic; empty where it has none."""
    with BagReader(bag) as reader:
        if not any(info.type == POSE_TYPE for info in reader.topics.values()):
            return {}
        poses = {}
        for _, msg, _ in reader.messages([reader.find_topic(POSE_TYPE)]):
            p, q = msg.pose.position, msg.pose.orientation
            poses[messages.stamp_ns(msg.header)] = _transform([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])
        return poses


def answers(recording: Recording, truth: Mapping[int, FloatArray]) -> list[Answer]:
    """The node's poses joined with the truth by stamp, in the order of the recording."""
    source = {sent: stamp for stamp, sent in recording.sent}
    found = []
    for pose in recording.poses:
        stamp, reference = source.get(pose["stamp_ns"]), source.get(pose["reference_stamp_ns"])
        if stamp is None or reference is None:
            continue  # not of this recording
        status = PoseStatus(pose["status"])
        estimate = _transform(pose["position"], pose["orientation"])
        rotation = direction = float("nan")
        true = np.full((4, 4), np.nan)
        if stamp in truth and reference in truth:
            true = np.linalg.inv(truth[reference]) @ truth[stamp]
            if status.has_rotation:
                rotation = rotation_angle_deg(estimate[:3, :3].T @ true[:3, :3])
            if status.has_translation and np.linalg.norm(true[:3, 3]) >= LEAST_MOTION_M:
                direction = _angle_deg(estimate[:3, 3], true[:3, 3])
        latency = (pose["arrival_ns"] - pose["stamp_ns"]) / 1e6
        found.append(
            Answer(
                stamp, reference, status, pose["matches"], pose["inliers"], latency, rotation, direction, estimate, true
            )
        )
    return sorted(found, key=lambda answer: answer.source_ns)


def summarise(recording: Recording, found: Sequence[Answer], files: Mapping[str, list[str]]) -> DemoResult:
    """The numbers of a demo."""
    lines = recording.diagnostics
    latency = {}
    for stage in STAGES[:-1]:
        name = f"latency_ms.{stage}"
        if f"{name}.p50" in lines:
            latency[stage] = Spread(float(lines[f"{name}.p50"]), float(lines[f"{name}.p95"]))
    latency[STAGES[-1]] = Spread.of([answer.end_to_end_ms for answer in found])
    about = {key: lines[key] for key in ("model", "weights_hash", "runtime", "runtime_reason") if lines.get(key)}
    return DemoResult(
        sent=len(recording.sent),
        received=int(lines.get("received", 0)),
        dropped=int(lines.get("dropped", 0)),
        failed=int(lines.get("failed", 0)),
        matched=sum(answer.matches > 0 for answer in found),
        posed=sum(answer.status.has_rotation for answer in found),
        rotation_deg=Spread.of([answer.rotation_deg for answer in found]),
        direction_deg=Spread.of([answer.direction_deg for answer in found]),
        latency_ms=latency,
        statuses=dict(Counter(answer.status.name for answer in found).most_common()),
        about=about,
        files=files,
    )


def chain(found: Sequence[Answer], truth: Mapping[int, FloatArray]) -> dict[int, FloatArray]:
    """Camera in world by stamp, composed from the answers alone but for the lengths, which the truth gives.

    It starts at the true pose of the first reference, and again where a reference was never reached.
    """
    poses: dict[int, FloatArray] = {}
    for answer in found:
        if not answer.status.has_rotation or answer.reference_ns not in truth or not np.isfinite(answer.truth).all():
            continue
        step = answer.estimate.copy()
        length = float(np.linalg.norm(step[:3, 3]))
        step[:3, 3] *= float(np.linalg.norm(answer.truth[:3, 3])) / length if length > 0 else 0.0
        poses.setdefault(answer.reference_ns, truth[answer.reference_ns])
        poses[answer.source_ns] = poses[answer.reference_ns] @ step
    return poses


def pictures(
    bag: Path, recording: Recording, found: Sequence[Answer], count: int = PICTURES
) -> list[tuple[str, ByteArray]]:
    """Title and picture of some pairs with a translation, spread over the recording: the widest of each part."""
    sent = dict(recording.sent)
    usable = [answer for answer in found if answer.matches and sent[answer.source_ns] in recording.correspondences]
    posed = [answer for answer in usable if answer.status.has_translation] or usable
    parts = [part for part in np.array_split(np.arange(len(posed)), count) if len(part)]
    chosen = [max((posed[int(i)] for i in part), key=lambda a: a.source_ns - a.reference_ns) for part in parts]
    wanted = {stamp for answer in chosen for stamp in (answer.source_ns, answer.reference_ns)}
    images: dict[int, ByteArray] = {}
    with BagReader(bag) as reader:
        for _, msg, _ in reader.messages([reader.find_topic(IMAGE_TYPE)]):
            if (stamp := messages.stamp_ns(msg.header)) in wanted:
                images[stamp] = decode_image(msg)
    order = {stamp: i for i, (stamp, _) in enumerate(recording.sent)}
    drawn = []
    for answer in chosen:
        rows = recording.correspondences[sent[answer.source_ns]]
        matches = Matches(rows[:, :2], rows[:, 2:4], rows[:, 4], rows[:, 5])
        inverse = np.asarray(np.linalg.inv(answer.estimate), np.float64)
        pose = RelativePose(inverse[:3, :3], inverse[:3, 3], np.eye(6), rows[:, 6] > 0.5, answer.status, "")
        title = f"Frame {order[answer.source_ns]} against frame {order[answer.reference_ns]}"
        picture = draw_matches(images[answer.reference_ns], images[answer.source_ns], matches, title=title, pose=pose)
        drawn.append((title, picture))
    return drawn


def write_pictures(out: Path, drawn: Sequence[tuple[str, ByteArray]]) -> list[str]:
    """``matches_1.png`` and so on; gives their paths."""
    paths = []
    for i, (_, picture) in enumerate(drawn, 1):
        path = out / f"matches_{i}.png"
        cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        paths.append(str(path))
    return paths


def write_page(
    path: Path,
    result: DemoResult,
    found: Sequence[Answer],
    truth: Mapping[int, FloatArray],
    drawn: Sequence[tuple[str, ByteArray]],
) -> None:
    """The HTML page."""
    start = found[0].source_ns if found else 0
    seconds = np.array([(answer.source_ns - start) / 1e9 for answer in found])
    rotation = np.array([answer.rotation_deg for answer in found])
    direction = np.array([answer.direction_deg for answer in found])
    tone = "good" if result.ok else "bad"
    stages = [Span(name, s.median, s.p95) for name, s in result.latency_ms.items() if np.isfinite(s.median)]
    frames = tuple(
        (name, str(getattr(result, name))) for name in ("sent", "received", "matched", "posed", "dropped", "failed")
    )
    parts: list[Table | Plot | Picture] = [
        Plot(
            "Turn against the truth",
            line_plot([Series("rotation error", seconds, rotation)], "time in the recording, s", "degrees"),
        ),
        Plot(
            "Direction against the truth",
            line_plot(
                [Series("direction error", seconds, direction, points=True)], "time in the recording, s", "degrees"
            ),
            "Angle between the estimated and the true translation; wide while the camera has hardly moved.",
        ),
    ]
    path_of_truth, path_of_estimate = _paths(found, truth)
    if path_of_truth is not None and path_of_estimate is not None:
        parts.append(
            Plot(
                "Trajectory from above",
                path_plot([path_of_truth, path_of_estimate], "m", "m"),
                "Turns and directions are the node's, chained; lengths are the truth's, since one camera gives none.",
            )
        )
    parts += [
        Plot(
            "Latency by stage",
            bar_plot(stages, "ms"),
            "In the node; overhead is its own work (decode, publish, bookkeeping); end to end is from the camera's "
            "stamp to a listener.",
        ),
        Table("Frames", ("", "count"), frames),
        Table("Status of the poses", ("status", "count"), tuple((k, str(v)) for k, v in result.statuses.items())),
    ]
    parts += [Picture(title, picture, "Green agrees with the pose, red does not.") for title, picture in drawn]
    figures = (
        Figure("frames sent", str(result.sent)),
        Figure("with a pose", str(result.posed), tone=tone),
        Figure("dropped for newer", str(result.dropped)),
        Figure("rotation error, median", _number(result.rotation_deg.median, 2), "deg"),
        Figure("direction error, median", _number(result.direction_deg.median, 1), "deg"),
        Figure("in the node, median", _number(_median(result, "total"), 0), "ms"),
    )
    subtitle = "A recording, played by one process into the matcher node in another over DDS"
    write_report(path, Report("stfm demo", subtitle, figures, tuple(parts), result.about))


def _paths(found: Sequence[Answer], truth: Mapping[int, FloatArray]) -> tuple[Series | None, Series | None]:
    """Truth and chained estimate, along the two axes of the world in which the camera moves most."""
    chained = chain(found, truth)
    if len(chained) < 2:
        return None, None
    true = np.array([truth[stamp][:3, 3] for stamp in sorted(truth)])
    estimate = np.array([chained[stamp][:3, 3] for stamp in sorted(chained)])
    a, b = sorted(np.argsort(-np.ptp(true, axis=0))[:2])
    origin = true[0]
    first = Series("truth", true[:, a] - origin[a], true[:, b] - origin[b], dashed=True)
    return first, Series("estimate", estimate[:, a] - origin[a], estimate[:, b] - origin[b])


def _transform(position: Sequence[float], orientation: Sequence[float]) -> FloatArray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = quaternion_to_matrix(np.asarray(orientation, np.float64)), position
    return T


def _angle_deg(a: FloatArray, b: FloatArray) -> float:
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), float(a @ b))))


def _median(result: DemoResult, stage: str) -> float:
    return result.latency_ms[stage].median if stage in result.latency_ms else float("nan")


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "none"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
