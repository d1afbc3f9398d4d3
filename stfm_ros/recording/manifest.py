"""manifest.json: what was recorded, when, by which settings and versions, and how it went.

format, name, about            1; the bag's name; what the caller said of it
started, ended, seconds        ISO 8601 in UTC by this machine's clock; by its monotonic clock, null if interrupted
ended_because                  finished; a limit of the disk; a fault; interrupted
settings, versions             stfm_ros.recording.config by section; of this package and what it is built on
frames                         taken = kept + all of left_out, by reason (stfm_ros/recording/recorder.py)
topics.NAME                    type, role, recorded_as, taken, written, left_out, first_ns, last_ns (of receipt), missed
files[]                        name, sha256, bytes, messages, start_ns, end_ns, in their order
silences[], clock_jumps[]      see stfm_ros/recording/watch.py; null if interrupted
slowest_sync_s                 the longest time that the disk took to have a chunk; null if interrupted
lost                           null, or what an interruption cost (stfm_ros/recording/recover.py)
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from stfm_ros import __version__
from stfm_ros.recording.metadata import StoredFile, write_atomically

MANIFEST_NAME: Final = "manifest.json"
_LIBRARIES = ("mcap", "rosbags", "numpy", "opencv-python-headless", "opencv-python")


def opening(name: str, settings: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """What is known when a recording begins; the first line of its ledger."""
    versions = {"stfm_ros": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "format": 1,
        "name": name,
        "about": dict(about),
        "started": iso_time(time.time_ns()),
        "settings": dict(settings),
        "versions": versions,
    }


def write_manifest(
    folder: Path,
    begun: Mapping[str, Any],
    topics: Mapping[str, Mapping[str, Any]],
    files: Sequence[StoredFile],
    digests: Mapping[str, str],
    **how_it_went: Any,
) -> dict[str, Any]:
    """Write manifest.json, under a temporary name first.

    Args:
        begun: of :func:`opening`.
        topics: the fields of each topic.
        files: what they hold.
        digests: SHA-256 of each, by name.
        how_it_went: the other keys.

    Raises:
        OSError: it cannot be written.
    """
    image = next((topic for topic in topics.values() if topic["role"] == "image"), None)
    frames = image and {"taken": image["taken"], "kept": image["written"], "left_out": image["left_out"]}
    record = {
        **begun,
        **how_it_went,
        "frames": frames,
        "topics": dict(topics),
        "files": [
            {
                "name": file.name,
                "sha256": digests[file.name],
                "bytes": (folder / file.name).stat().st_size,
                "messages": file.count,
                "start_ns": file.start_ns,
                "end_ns": file.end_ns,
            }
            for file in files
        ],
    }
    write_atomically(folder / MANIFEST_NAME, json.dumps(record, indent=2) + "\n")
    return record


def iso_time(time_ns: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(time_ns / 1e9, timezone.utc).isoformat(timespec="milliseconds")
