"""A recording that a kill or a power cut ended becomes a whole bag, and says what it lost.

What its files hold up to the last whole chunk stays; the rest, at most what came in the last moments, cannot be read
and is cut. The ledger tells how much that was: ``counted`` messages had been taken, by its last line, and are not in
the files; what came between that line and the end is in no ledger, and ``uncounted_about`` is what usually came in
such a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stfm_ros.errors import BagError
from stfm_ros.recording.bag import RESERVE_NAME, digest
from stfm_ros.recording.ledger import is_recording, read_ledger
from stfm_ros.recording.manifest import MANIFEST_NAME, iso_time, write_manifest
from stfm_ros.recording.metadata import METADATA_NAME, StoredFile, mcap_files, stored, write_metadata
from stfm_ros.recording.seal import is_whole, seal


@dataclass(frozen=True)
class TopicLoss:
    """Messages of a topic that were taken and would have been written, but are not in the bag."""

    counted: int
    uncounted_about: int


@dataclass(frozen=True)
class Recovery:
    """What a recovery did.

    Attributes:
        bag: the folder or file.
        messages: in the bag now, by topic.
        sealed: files that had been cut off, and the bytes that were cut from each.
        damaged: files of which nothing could be read; they are named ``*.damaged`` now.
        lost: by the topic that was taken; None where there is no ledger to tell.
    """

    bag: Path
    messages: dict[str, int]
    sealed: dict[str, int]
    damaged: list[str]
    lost: dict[str, TopicLoss] | None


def is_interrupted(folder: Path) -> bool:
    """Whether a folder holds a recording that was not finished, and that nobody writes to now."""
    if not folder.is_dir() or (folder / METADATA_NAME).is_file() or is_recording(folder):
        return False
    return bool(mcap_files(folder))


def interrupted(parent: Path) -> list[Path]:
    """The recordings in a folder that were not finished, sorted: what a recorder may recover when it starts."""
    return sorted(folder for folder in parent.iterdir() if is_interrupted(folder)) if parent.is_dir() else []


def recover(bag: Path) -> Recovery:
    """Finish a bag whose recording was interrupted; one that is whole stays as it is.

    Args:
        bag: the folder of a recording, or a single .mcap file.

    Raises:
        BagError: it is no mcap recording, is still being written, or holds nothing that can be read.
        OSError: it cannot be written.
    """
    if bag.suffix == ".mcap" and bag.is_file():
        sealed = {} if is_whole(bag) else {bag.name: seal(bag)}
        return Recovery(bag, _messages([stored(bag)]), sealed, [], None)
    files = mcap_files(bag) if bag.is_dir() else []
    if not files:
        raise BagError(f"{bag} holds no .mcap file: name the folder or the .mcap file of a recording")
    if is_recording(bag):
        raise BagError(f"{bag} is being recorded now: stop its recorder first")
    sealed, damaged = {}, []
    for file in files:
        if is_whole(file):
            continue
        try:
            sealed[file.name] = seal(file)
        except BagError:  # its first bytes never reached the disk
            file.rename(file.with_name(f"{file.name}.damaged"))
            damaged.append(file.name)
    if len(damaged) == len(files):
        raise BagError(f"{bag} holds nothing that can be read: no file of it had reached the disk")
    (bag / RESERVE_NAME).unlink(missing_ok=True)
    begun, *lines = read_ledger(bag) or [{}]
    if (bag / METADATA_NAME).is_file() and not sealed and not damaged:
        held = [stored(file) for file in files]
    else:
        held = write_metadata(bag)
    lost = None
    if lines and not (bag / MANIFEST_NAME).is_file():
        topics = lines[-1]["topics"]
        lost = _losses(begun, lines, _messages(held))
        _write_manifest(bag, begun, lines[-1], topics, held, lost)
    return Recovery(bag, _messages(held), sealed, damaged, lost)


def _losses(
    begun: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], messages: Mapping[str, int]
) -> dict[str, TopicLoss]:
    last = lines[-1]
    if "ended" in last:  # all is accounted for
        return {name: TopicLoss(0, 0) for name in last["topics"]}
    found: dict[str, TopicLoss] = {}
    for name, topic in last["topics"].items():
        here = messages.get(topic["recorded_as"], 0)
        waiting = topic["taken"] - sum(topic["left_out"].values())
        # a chunk that was closed after that line holds messages that it does not count
        found[name] = TopicLoss(max(0, waiting - here), math.ceil(_usual(begun, lines, name)))
    return found


def _usual(begun: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], name: str) -> float:
    """How many messages of a topic came in the time between two lines, at its rate of late."""
    recent = [line for line in lines if name in line["topics"]][-20:]
    seconds = (recent[-1]["at_ns"] - recent[0]["at_ns"]) / 1e9
    if seconds <= 0:
        return 0.0
    rate = (recent[-1]["topics"][name]["taken"] - recent[0]["topics"][name]["taken"]) / seconds
    return max(0.0, float(rate) * float(begun["settings"]["storage"]["flush_s"]))


def _write_manifest(
    bag: Path,
    begun: Mapping[str, Any],
    last: Mapping[str, Any],
    topics: Mapping[str, dict[str, Any]],
    held: Sequence[StoredFile],
    lost: Mapping[str, TopicLoss],
) -> None:
    messages = _messages(held)
    for topic in topics.values():
        topic["written"] = messages.get(topic["recorded_as"], 0)
        # the count of the ledger ends before that of the files does
        topic["taken"] = max(topic["taken"], topic["written"] + sum(topic["left_out"].values()))
    write_manifest(
        bag,
        begun,
        topics,
        held,
        {file.name: digest(bag / file.name) for file in held},
        ended=iso_time(last["at_ns"]),
        seconds=None,
        ended_because=last.get("ended", "interrupted: killed, or without power"),
        silences=None,
        clock_jumps=None,
        slowest_sync_s=None,
        lost={name: asdict(loss) for name, loss in lost.items()},
    )


def _messages(files: Sequence[StoredFile]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in files:
        for topic in file.topics:
            counts[topic.name] = counts.get(topic.name, 0) + topic.count
    return counts
