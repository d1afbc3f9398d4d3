"""From a bag to a folder of frames and checked pairs: read once, used by every later run.

    recording = prepare(Path("office.mcap"), Path("prepared/office"))

1. Find the topics; read stamps, calibration and poses (``index``). 2. Write each image that has depth, and a pose where
poses are recorded, into the folder (``frames``). 3. Make and check pairs (``pairs``). What is left out is counted by
reason. The folder appears under its name only once it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stfm_ros.bags import BagReader
from stfm_ros.errors import DatasetError
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.estimate import Match
from stfm_training.recordings.frames import Progress, write_frames
from stfm_training.recordings.index import Index
from stfm_training.recordings.pairs import estimated_pairs, held_out_frames, posed_pairs
from stfm_training.recordings.recording import MOTIONS, RECORD, VERSION, Recording


def prepare(
    bag: Path | str,
    folder: Path | str,
    config: RecordingConfig | None = None,
    match: Match | None = None,
    match_name: str = "",
    progress: Progress = lambda stage, done, total: None,
) -> Recording:
    """Read a bag into a folder, or take the folder as it is if it was made from this bag in this way.

    Args:
        bag: a rosbag2 folder, or an .mcap, .db3 or .bag file.
        folder: is replaced if it is a prepared recording, and of another bag or another config.
        match: makes matches of two images where motions are estimated; the shipped student if not given.
        match_name: of ``match``; another name makes a prepared folder out of date.

    Raises:
        BagError: the bag is damaged, lacks a topic, or has stamps that do not pair.
        CameraError, ImageError: the calibration, or the images, cannot be used.
        DatasetError: depth is not registered, in another unit, or nowhere; poses contradict it; no two frames overlap
            as they should; or the folder cannot be written.
    """
    bag, folder, config = Path(bag), Path(folder), config or RecordingConfig()
    with BagReader(bag) as reader:
        made_from = {"version": VERSION, "sha256": hash_bag(bag), "config": asdict(config), "match": match_name}
        if _made_from(folder) == made_from:
            return Recording(folder)
        index = Index(reader, config)
        with _complete_or_nothing(folder) as part:
            frames, rows, rejected = write_frames(reader, index, part, config, progress)
            held_out = held_out_frames(len(frames), config.held_out)
            if index.poses is None:
                poses = np.full((len(frames), 4, 4), np.nan)
                poses_from = f"matches of {match_name or 'a matcher'}"
                if match is None:
                    match, poses_from = _shipped_student()
                pairs, left_out = estimated_pairs(frames, match, held_out, config, progress)
            else:
                poses, poses_from = index.poses[rows], index.poses_from
                pairs, left_out = posed_pairs(frames, poses, poses_from, held_out, config)
            outside = int(held_out[pairs.index0].sum())
            counts = {
                **index.counts,
                "rejected": dict(rejected),
                "frames": len(frames),
                "frames_held_out": int(held_out.sum()),
                "pairs": len(pairs) - outside,
                "pairs_held_out": outside,
                "pairs_left_out": dict(left_out),
            }
            stamps_ns = index.stamps_ns[rows]
            np.savez(part / MOTIONS, stamps_ns=stamps_ns, poses=poses, held_out=held_out, **vars(pairs))
            camera = {
                name: value.tolist() if isinstance(value, np.ndarray) else value
                for name, value in asdict(index.camera).items()
            }
            record = {
                "bag": bag.name,
                "topics": index.topics,
                "poses_from": poses_from,
                "camera": camera,
                "counts": counts,
                "made_from": made_from,
                "images": frames.names,
            }
            (part / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return Recording(folder)


def hash_bag(bag: Path) -> str:
    """SHA-256 over the files of a bag, in name order."""
    digest = hashlib.sha256()
    for path in [bag] if bag.is_file() else sorted(p for p in bag.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def _complete_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder to write into, that takes its name once it is complete, or vanishes."""
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(
            f"{folder} is in the way and no prepared recording, so it is not replaced: name another folder"
        )
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        part.chmod(0o755)
        yield part
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    except OSError as fault:
        raise DatasetError(
            f"{folder} cannot be written ({fault}): free some space there, or name another folder; "
            "nothing is left of it"
        ) from fault
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _made_from(folder: Path) -> Any:
    """What a prepared folder was made from, None where there is none that is whole."""
    try:
        return Recording(folder).record.get("made_from")
    except DatasetError:
        return None


def _shipped_student() -> tuple[Match, str]:
    from stfm_ros.matcher import Matcher

    matcher = Matcher.from_pretrained()
    return matcher.match, f"matches of {matcher.model_name} ({matcher.weights_hash})"
