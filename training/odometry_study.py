"""``python -m stfm_training.odometry_study --out runs/odometry --bag office.mcap``: what chained covariances are worth.

Bags with depth and true poses (``stfm import-rgbd``) are matched as by ``stfm run``. Then the chain is begun anew at
every reference, and its pose is held against the truth where 1, 2, 4 ... references have been passed: how often the
regions that claim 68 % and 95 % hold it, and how large the errors are beside what is claimed. Beginnings overlap, so
figures of long chains are of few independent ones. Left are odometry.json and a picture of each trajectory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from stfm_ros.config import AppConfig, MatcherConfig
from stfm_ros.import_rgbd import POSE_TOPIC
from stfm_ros.matcher import Matcher
from stfm_ros.odometry import OPTICAL_IN_BODY, Odometer
from stfm_ros.odometry_error import Alignment, compare, true_trajectory
from stfm_ros.offline import NamedMatcher, run_bag
from stfm_ros.posed_bag import nearest
from stfm_ros.tracker import Track
from stfm_ros.trajectory import Trajectory
from stfm_ros.types import FloatArray
from stfm_training.calibration.coverage import Coverage, coverage

#: references that were passed
LENGTHS = (1, 2, 4, 8, 16)
#: called with ``completed`` and ``total``, as a progress bar's update
Step = Callable[..., None]


@dataclass(frozen=True)
class Claim:
    """Chained poses of one length; NEES as of :class:`stfm_training.calibration.coverage.Coverage`.

    Attributes:
        position_m, claimed_m: medians of the error, and of the root of the covariance's trace.
        rotation_deg, claimed_deg: the same of the rotation.
    """

    position: Coverage
    rotation: Coverage
    position_m: float
    claimed_m: float
    rotation_deg: float
    claimed_deg: float


def tracks_of(bag: Path, matcher: NamedMatcher, config: AppConfig, step: Step) -> tuple[Trajectory, list[Track]]:
    """The trajectory of a bag, and its tracks without their images."""
    tracks: list[Track] = []
    nothing = np.zeros((0, 0, 3), np.uint8)

    def watch(track: Track | None, done: int, total: int) -> None:
        if track is not None:
            tracks.append(replace(track, image0=nothing, image1=nothing))
        step(completed=done, total=total)

    return run_bag(bag, matcher, config, watch=watch).placed, tracks


def claims(
    tracks: Sequence[Track], truth: Trajectory, config: AppConfig, truth_deg: float = 0.0, truth_m: float = 0.0
) -> dict[int, Claim]:
    """What metric chains of each of :data:`LENGTHS` claim, against the truth.

    Args:
        truth_deg, truth_m: standard deviation an axis of the truth itself, from one pose to another; added to what is
            claimed.
    """
    usable = [track for track in tracks if track.pose.status.has_rotation]
    stamps = np.array([[track.reference_stamp_ns, track.stamp_ns] for track in usable], np.int64).reshape(-1, 2)
    known = nearest(stamps.ravel(), truth.stamps_ns).reshape(-1, 2)
    noise = np.diag([truth_m**2] * 3 + [np.radians(truth_deg) ** 2] * 3)
    rows: dict[int, list[tuple[float, ...]]] = {length: [] for length in LENGTHS}
    begins = [i for i in range(len(usable)) if i == 0 or stamps[i, 0] != stamps[i - 1, 0]]
    for begin in begins:
        odometer, passed = Odometer(replace(config.odometry, base_frame=""), config.pose), 0
        for i in range(begin, len(usable)):
            estimate = odometer.add(usable[i], usable[i].camera)
            passed += i == begin or stamps[i, 0] != stamps[i - 1, 0]
            if odometer.gaps or passed > LENGTHS[-1] or estimate is None or not estimate.metric:
                break
            last = i + 1 < len(usable) and stamps[i + 1, 0] != stamps[i, 0]
            if last and passed in rows and min(known[begin, 0], known[i, 1]) >= 0:
                motion = np.linalg.inv(truth.poses[known[begin, 0]]) @ truth.poses[known[i, 1]]
                rows[passed].append(_errors(estimate.pose, estimate.covariance + noise, OPTICAL_IN_BODY @ motion))
    return {length: _claim(np.array(found)) for length, found in rows.items() if found}


def draw(laid: Mapping[str, Alignment], title: str, path: Path) -> None:
    """Trajectories over the truth, in the two axes of its world along which it is longest."""
    from matplotlib.figure import Figure

    longest = max(laid.values(), key=lambda alignment: len(alignment.truth)).truth
    across, up = np.sort(np.argsort(-np.ptp(longest, axis=0), kind="stable")[:2]).tolist()
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(longest[:, across], longest[:, up], color="0.35", linestyle="--", linewidth=1.2, label="truth")
    for name, alignment in laid.items():
        label = f"{name}: ATE {alignment.ate_m:.3f} m"
        axes.plot(alignment.positions[:, across], alignment.positions[:, up], linewidth=1.2, label=label)
    axes.plot(*longest[0, [across, up]], marker="o", markersize=6, markerfacecolor="none", color="0.35")
    axes.set(xlabel=f"{'xyz'[across]}, m", ylabel=f"{'xyz'[up]}, m", title=title)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)


def _errors(pose: FloatArray, covariance: FloatArray, truth: FloatArray) -> tuple[float, ...]:
    """Squared errors of position and rotation in units of the covariance, the sizes of both, and what is claimed."""
    moved, turned = pose[:3, 3] - truth[:3, 3], cv2.Rodrigues(pose[:3, :3] @ truth[:3, :3].T)[0].ravel()
    squares = [
        float(error @ np.linalg.solve(block, error))
        for error, block in ((moved, covariance[:3, :3]), (turned, covariance[3:, 3:]))
    ]
    claimed = np.sqrt([np.trace(covariance[:3, :3]), np.trace(covariance[3:, 3:])])
    return (*squares, float(np.linalg.norm(moved)), float(np.linalg.norm(turned)), *claimed.tolist())


def _claim(rows: FloatArray) -> Claim:
    position_m, rotation, claimed_m, claimed = np.median(rows[:, 2:], axis=0).tolist()
    degrees = np.degrees([rotation, claimed]).tolist()
    return Claim(coverage(rows[:, 0], 3), coverage(rows[:, 1], 3), position_m, claimed_m, *degrees)


def show(name: str, found: Mapping[int, Claim]) -> None:
    """A table."""
    lines = Table(
        "references", "chains", "position 68 / 95 %", "NEES", "mm / claimed", "rotation", "NEES", "deg / claimed"
    )
    for length, claim in found.items():
        cells = [str(length), str(claim.position.count)]
        for part, sizes in (
            (claim.position, f"{1e3 * claim.position_m:.0f} / {1e3 * claim.claimed_m:.0f}"),
            (claim.rotation, f"{claim.rotation_deg:.2f} / {claim.claimed_deg:.2f}"),
        ):
            cells += [" / ".join(f"{100 * share:.0f}" for share in part.covered), f"{part.nees_median:.1f}", sizes]
        lines.add_row(*cells)
    Console().print(f"{name}; NEES: median, 2.4 is wanted", lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for odometry.json and the pictures")
    parser.add_argument("--bag", type=Path, nargs="+", required=True, help="bags with depth and true poses")
    parser.add_argument("--model", default="default", help="a shipped name or an exported folder")
    parser.add_argument("--threads", type=int, default=0, help="of the network's runtime")
    parser.add_argument("--factor", type=float, default=1.0, help="odometry.covariance_factor (here 1)")
    parser.add_argument("--truth-deg", type=float, default=0.0, help="deviation of the truth's rotations, an axis")
    parser.add_argument("--truth-m", type=float, default=0.0, help="deviation of the truth's positions, an axis")
    options = parser.parse_args()
    config = AppConfig.from_mapping({"odometry.scale": "depth", "odometry.covariance_factor": options.factor})
    matcher = Matcher.from_pretrained(MatcherConfig(model=options.model, threads=options.threads))
    options.out.mkdir(parents=True, exist_ok=True)
    record = {}
    console = Console(stderr=True)
    for bag in options.bag:
        truth = true_trajectory(bag, POSE_TOPIC)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            update = partial(bar.update, bar.add_task(bag.name, total=None))
            placed, tracks = tracks_of(bag, matcher, config, update)
        found = claims(tracks, truth, config, options.truth_deg, options.truth_m)
        show(bag.name, found)
        draw({options.model: compare(placed, truth, with_scale=False)}, bag.stem, options.out / f"{bag.stem}.png")
        record[bag.name] = {str(length): asdict(claim) for length, claim in found.items()}
    (options.out / "odometry.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
