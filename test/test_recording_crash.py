"""Recordings that end badly: killed, the disk full, cut off. What is left can be read, what is lost is said."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import recorded_camera as rc
from mcap.reader import NonSeekingReader, make_reader
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader

from stfm_ros.bags import BagReader, BagWriter
from stfm_ros.cli import main
from stfm_ros.errors import BagError
from stfm_ros.recording.bag import CrashSafeBag
from stfm_ros.recording.config import RecordingConfig, SelectionConfig, StorageConfig
from stfm_ros.recording.ledger import read_ledger
from stfm_ros.recording.recorder import Recorder
from stfm_ros.recording.recover import interrupted, recover
from stfm_ros.recording.seal import is_whole, seal

CAMERA = Path(rc.__file__)
#: as long as the disk answers, a kill costs no more, seconds
PROMISE_S = 1.0
KEEP_ALL = RecordingConfig(SelectionConfig(keep="all"), storage=StorageConfig(keep_free_mb=16))


def killed(folder: Path, after: int) -> int:
    """Record until so many frames were given, then SIGKILL; how many were given by then."""
    given = 0
    with subprocess.Popen([sys.executable, CAMERA, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            given = int(line)
            if given == after:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return given


def counts_of(bag: Path) -> dict[str, int]:
    """Messages by topic, by every reader; they agree."""
    with BagReader(bag) as reader:
        counts = {name: info.count for name, info in reader.topics.items()}
        assert sum(counts.values()) == sum(1 for _ in reader.messages())
    with Reader(bag) as official:
        assert official.message_count == sum(counts.values())
    total = 0
    for path in bag.glob("*.mcap"):
        with path.open("rb") as stream:
            total += sum(1 for _ in make_reader(stream, validate_crcs=True).iter_messages())
        with path.open("rb") as stream:
            by_stream = sum(1 for _ in NonSeekingReader(stream, validate_crcs=True).iter_messages())
        with path.open("rb") as stream:
            records = list(StreamReader(stream, validate_crcs=True).records)
        assert by_stream == sum(type(record).__name__ == "Message" for record in records)
    assert total == sum(counts.values())
    return counts


def test_killed_while_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = tmp_path / "b"
    given = killed(bag, after=60)
    with pytest.raises(
        BagError, match=r"b has no metadata\.yaml: its recording was interrupted or still runs.*recover"
    ):
        BagReader(bag).__enter__()
    cut = next(bag.glob("*.mcap"))
    with pytest.raises(BagError, match="try `stfm recover`"):
        BagReader(cut).__enter__()
    assert interrupted(tmp_path) == [bag]

    code = main(["recover", str(bag), "--json"])
    told = json.loads(capsys.readouterr().out)
    counts = counts_of(bag)
    lost = given - counts["/camera/image/compressed"]
    assert lost <= PROMISE_S * 30
    assert told["messages"] == counts
    loss = told["lost"]["/camera/image"]
    assert loss["counted"] <= lost <= loss["counted"] + loss["uncounted_about"] + 5
    assert code == (1 if any(topic["counted"] for topic in told["lost"].values()) else 0)
    about = json.loads((bag / "manifest.json").read_text())
    assert about["ended_because"] == "interrupted: killed, or without power"
    assert about["lost"]["/camera/image"] == loss
    assert about["frames"]["kept"] == counts["/camera/image/compressed"]
    # done again, nothing changes
    before = {path.name: path.read_bytes() for path in bag.iterdir()}
    assert recover(bag).sealed == {}
    assert {path.name: path.read_bytes() for path in bag.iterdir()} == before
    assert interrupted(tmp_path) == []


def test_what_is_recorded_now_is_left_alone(tmp_path: Path) -> None:
    with Recorder(tmp_path / "b", rc.TOPICS, KEEP_ALL):
        assert interrupted(tmp_path) == []
        with pytest.raises(BagError, match="b is being recorded now: stop its recorder first"):
            recover(tmp_path / "b")


def test_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each file there is what the disk had been told to keep when the power went."""
    kept: dict[str, int] = {}
    real = os.fsync

    def fsync(number: int) -> None:
        real(number)
        kept[os.readlink(f"/proc/self/fd/{number}")] = os.fstat(number).st_size

    monkeypatch.setattr(os, "fsync", fsync)
    given = 45
    with Recorder(tmp_path / "b", rc.TOPICS, KEEP_ALL) as recorder:
        began = time.monotonic()
        for i in range(given):
            rc.give(recorder, i)
            time.sleep(max(0.0, began + i / 30 - time.monotonic()))
        left = tmp_path / "left"
        left.mkdir()
        for name, size in kept.items():
            if Path(name).is_file():
                (left / Path(name).name).write_bytes(Path(name).read_bytes()[:size])
    told = recover(left)
    assert told.lost is not None and told.lost["/camera/image"].counted <= PROMISE_S * 30
    assert given - counts_of(left)["/camera/image/compressed"] <= PROMISE_S * 30


def recorded(folder: Path) -> list[Any]:
    """A short recording, whole, of several chunks; what is in it."""
    with Recorder(
        folder, rc.TOPICS, RecordingConfig(SelectionConfig(keep="all"), storage=StorageConfig(1, flush_s=0.05))
    ) as recorder:
        for i in range(10):
            rc.give(recorder, i)
            time.sleep(0.02)
    with BagReader(folder) as reader:
        return [(topic, receipt_ns) for topic, _, receipt_ns in reader.messages()]


def test_cut_off_anywhere(tmp_path: Path) -> None:
    """A power cut: the file ends anywhere, or in zeros; what comes out is how the recording began."""
    messages = recorded(tmp_path / "whole")
    data = (tmp_path / "whole" / "whole_0.mcap").read_bytes()
    rng = random.Random(0)
    places = sorted(rng.sample(range(100, len(data) - 10), 8))
    found = []
    for i, place in enumerate(places):
        bag = tmp_path / f"cut{i}"
        bag.mkdir()
        zeros = bytes(5000) if i % 2 else b""
        (bag / "cut_0.mcap").write_bytes(data[:place] + zeros)
        told = recover(bag)
        assert told.lost is None and told.sealed
        found.append(sum(counts_of(bag).values()))
        with BagReader(bag) as reader:
            assert {(topic, at) for topic, _, at in reader.messages()} <= set(messages)
    assert found == sorted(found) and found[0] < found[-1] <= len(messages)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    recorded(tmp_path / "b")
    (tmp_path / "b" / "metadata.yaml").unlink()
    (tmp_path / "b" / "b_1.mcap").write_bytes(bytes(300))  # a new file of which nothing reached the disk
    assert recover(tmp_path / "b").damaged == ["b_1.mcap"]
    assert (tmp_path / "b" / "b_1.mcap.damaged").exists()
    counts_of(tmp_path / "b")
    with BagWriter(tmp_path / "other.mcap") as writer:  # of another writer
        for i in range(4):
            message = rc.to_message(rc.messages.image(i, "c", rc.picture_at(i)), rc.IMAGE)
            for _ in range(5):
                writer.write("/image", rc.IMAGE, message, i)
    whole = (tmp_path / "other.mcap").read_bytes()
    (tmp_path / "other.mcap").write_bytes(whole[: int(len(whole) * 0.9)])
    assert 0 < recover(tmp_path / "other.mcap").messages["/image"] < 20
    with pytest.raises(BagError, match=r"none holds no \.mcap file: name the folder or the \.mcap file"):
        recover(tmp_path / "none")
    (tmp_path / "text.mcap").write_bytes(b"hello" * 100)
    with pytest.raises(BagError, match="no mcap file by its first bytes"):
        seal(tmp_path / "text.mcap")


#: records raw images until the disk is full; the file that fills it is another's
FULL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
import recorded_camera as rc
from stfm_ros.recording.bag import CrashSafeBag
from stfm_ros.recording.config import *
from stfm_ros.recording.recorder import Recorder
config = RecordingConfig(SelectionConfig(keep="all"), CompressionConfig(colour="raw", depth="raw", chunks="none"),
                         StorageConfig(keep_free_mb=16, flush_s=1.0))
folder = Path(sys.argv[1])
recorder = Recorder(folder / "b", rc.TOPICS, config)
{fill}
for i in range(100):
    rc.give(recorder, i)
    time.sleep(0.005)
    if not recorder.status().recording:
        break
status = recorder.close()
print(status.reason)
print(status.faults)
import shutil
shutil.copytree(folder / "b", sys.argv[2])
"""
FILL = """
with open(folder / "other", "wb", buffering=0) as other:
    try:
        while other.write(bytes(1 << 16)):
            pass
    except OSError:
        other.truncate(other.tell() - (3 << 20))
"""
LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
"""


def check_full(bag: Path, output: str) -> None:
    assert "the disk failed: " in output and "make room, and begin a new recording" in output
    assert "unfinished" not in output
    counts = counts_of(bag)
    about = json.loads((bag / "manifest.json").read_text())
    assert about["ended_because"].startswith("the disk failed: ")
    assert "ended" in read_ledger(bag)[-1]
    assert all(is_whole(path) for path in bag.glob("*.mcap"))
    for topic in about["topics"].values():
        assert topic["taken"] == topic["written"] + sum(topic["left_out"].values())
        assert topic["written"] == counts[topic["recorded_as"]] > 0
    assert about["topics"]["/camera/image"]["left_out"]["not_written"] > 0
    assert recover(bag).sealed == {}


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    script = FULL.format(here=str(CAMERA.parent), fill=LIMIT)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path, tmp_path / "copy"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_full(tmp_path / "copy", done.stdout)


def test_a_full_disk(tmp_path: Path) -> None:
    """A small file system of its own, that somebody else fills."""
    mount = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, to mount a small file system")
    (tmp_path / "disk").mkdir()
    script = FULL.format(here=str(CAMERA.parent), fill=FILL)
    commands = f'mount -t tmpfs -o size=32m none "{tmp_path}/disk" && exec "$@"'
    done = subprocess.run(
        [*mount, "sh", "-c", commands, "sh", sys.executable, "-c", script, tmp_path / "disk", tmp_path / "copy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    check_full(tmp_path / "copy", done.stdout)


def test_a_fault_of_the_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before it is kept; callbacks go on and are counted."""
    real, calls = CrashSafeBag.write, []

    def broken(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 20:
            raise RuntimeError("on purpose")
        real(*arguments)

    monkeypatch.setattr(CrashSafeBag, "write", broken)
    recorder = Recorder(
        tmp_path / "b", rc.TOPICS, replace(KEEP_ALL, storage=StorageConfig(keep_free_mb=16, flush_s=0.05))
    )
    for i in range(20):
        rc.give(recorder, i)
        time.sleep(0.02)
    status = recorder.close()
    assert status.reason == "fault of the recorder: RuntimeError: on purpose"
    counts = counts_of(tmp_path / "b")
    assert 0 < sum(counts.values()) <= 20
    for tally in status.topics.values():
        assert tally.taken == 20 and tally.waiting == 0
        assert tally.written == counts.get(tally.recorded_as, 0)
    assert status.topics["/camera/pose"].left_out["stopped"] > 0
