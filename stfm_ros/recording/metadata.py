"""metadata.yaml of a rosbag2 folder, from what its mcap files hold: the same after a recording and after a recovery.

Version 8: its QoS profiles are text with numbers, which ROS 2 Humble reads too; Jazzy and later take it as their own
version 9.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from mcap.reader import make_reader

from stfm_ros.errors import BagError

METADATA_NAME: Final = "metadata.yaml"
_VERSION: Final = 8


@dataclass(frozen=True)
class StoredTopic:
    """A topic in an mcap file."""

    name: str
    type: str
    qos: str
    type_hash: str
    count: int


@dataclass(frozen=True)
class StoredFile:
    """What an mcap file says of itself; times are of receipt, nanoseconds since the epoch, 0 where it is empty."""

    name: str
    start_ns: int
    end_ns: int
    topics: tuple[StoredTopic, ...]

    @property
    def count(self) -> int:
        """Messages."""
        return sum(topic.count for topic in self.topics)


def mcap_files(folder: Path) -> list[Path]:
    """The files of a bag in the order of recording: NAME_2.mcap comes before NAME_10.mcap."""

    def number(path: Path) -> tuple[int, str]:
        digits = re.search(r"_(\d+)$", path.stem)
        return (int(digits.group(1)) if digits else -1, path.name)

    return sorted(folder.glob("*.mcap"), key=number)


def stored(path: Path) -> StoredFile:
    """What a whole mcap file says of itself.

    Raises:
        BagError: it says nothing, since it was cut off.
    """
    with path.open("rb") as file:
        try:
            summary = make_reader(file).get_summary()
        except Exception as fault:  # damaged bytes surface as any error of the parser
            raise BagError(f"{path} is cut off or damaged ({fault}): run `stfm recover {path.parent}`") from fault
    if summary is None or summary.statistics is None:
        raise BagError(f"{path} has no summary: run `stfm recover {path.parent}`, or `mcap recover`")
    counts = summary.statistics.channel_message_counts
    topics = tuple(
        StoredTopic(
            channel.topic,
            summary.schemas[channel.schema_id].name,
            channel.metadata.get("offered_qos_profiles", ""),
            channel.metadata.get("topic_type_hash", ""),
            counts.get(channel.id, 0),
        )
        for channel in summary.channels.values()
    )
    return StoredFile(path.name, summary.statistics.message_start_time, summary.statistics.message_end_time, topics)


def write_metadata(folder: Path) -> list[StoredFile]:
    """Write metadata.yaml for the files of a folder, under a temporary name first.

    Returns:
        What the files hold.

    Raises:
        BagError: there is no file, or one of them is cut off.
        OSError: it cannot be written.
    """
    files = [stored(path) for path in mcap_files(folder)]
    if not files:
        raise BagError(f"{folder} has no .mcap file: name the folder of a recording")
    write_atomically(folder / METADATA_NAME, yaml.safe_dump(_document(files), sort_keys=False))
    return files


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all, whatever happens."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _document(files: list[StoredFile]) -> dict[str, Any]:
    topics: dict[tuple[str, str], StoredTopic] = {}
    counts: dict[tuple[str, str], int] = {}
    for file in files:
        for topic in file.topics:
            key = topic.name, topic.type
            topics.setdefault(key, topic)
            counts[key] = counts.get(key, 0) + topic.count
    filled = [file for file in files if file.count]
    start = min((file.start_ns for file in filled), default=0)
    end = max((file.end_ns for file in filled), default=0)
    about = {
        "version": _VERSION,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": sum(counts.values()),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": topic.qos,
                    "type_description_hash": topic.type_hash,
                },
                "message_count": counts[key],
            }
            for key, topic in topics.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.name for file in files],
        "files": [
            {
                "path": file.name,
                "starting_time": {"nanoseconds_since_epoch": file.start_ns},
                "duration": {"nanoseconds": file.end_ns - file.start_ns},
                "message_count": file.count,
            }
            for file in files
        ],
        "custom_data": None,
        "ros_distro": "",
    }
    return {"rosbag2_bagfile_information": about}
