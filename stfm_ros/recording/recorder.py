"""The recorder: callbacks give it messages and go on; one thread chooses and writes, a few compress.

Every message that is taken is accounted for, by topic: taken = written + left out + waiting. It is left out for

    little_change, blurred, too_soon, no_depth, little_depth    the frame is not worth keeping (see selection.py)
    unreadable      the image or depth cannot be decoded
    with_frame      it belongs to a frame that was left out
    paused          it came while the recorder was paused
    no_frame        no image of its stamp came
    queue_full      more was taken than compressed and written: memory for waiting messages is bounded
    bad_stamp       its time of receipt is not one: a simulation's clock has not begun
    stopped         the recording had ended: a limit of the disk, or a fault
    not_written     the disk was full or failed before it was written

A folder of a recording holds NAME_0.mcap and so on, ledger.jsonl (see ledger.py) and, when it is finished,
metadata.yaml and manifest.json (see manifest.py).
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Qos

from stfm_ros.bag_types import to_message, typestore
from stfm_ros.bags import IMAGE_TYPES
from stfm_ros.errors import BagError
from stfm_ros.recording.bag import CrashSafeBag
from stfm_ros.recording.chooser import Chooser, Verdict
from stfm_ros.recording.config import RecordingConfig
from stfm_ros.recording.encoding import compress, recorded_as
from stfm_ros.recording.intake import Intake
from stfm_ros.recording.ledger import Ledger, Tally
from stfm_ros.recording.manifest import iso_time, opening, write_manifest
from stfm_ros.recording.metadata import StoredFile
from stfm_ros.recording.pairing import Hint, Item, Role
from stfm_ros.recording.qos import make_qos
from stfm_ros.recording.watch import InputNotes
from stfm_ros.types import FloatArray

_MB = 1_000_000
#: the thread looks this often at what waits, seconds
_TICK_S = 0.02
#: what a message that is not bytes is taken to weigh beside its data
_OVERHEAD = 1000


@dataclass(frozen=True)
class Topic:
    """A topic that is recorded.

    Attributes:
        name: e.g. ``/camera/image``.
        type: e.g. ``sensor_msgs/msg/Image``.
        role: what it is to the recording; one topic at most is the image, one the depth.
        qos: as its publisher offers it; ``stfm_ros.recording.qos.qos_of`` makes it of rclpy's.
    """

    name: str
    type: str
    role: Role = Role.ALWAYS
    qos: Qos = make_qos()  # noqa: RUF009  (it is immutable)


@dataclass(frozen=True)
class _Outgoing:
    """What is kept: as it will be named in the bag, and its bytes, once they are compressed."""

    item: Item
    name: str
    type: str
    data: Future[bytes]


@dataclass(frozen=True)
class Status:
    """A recording as it is now.

    Attributes:
        recording: whether messages are taken.
        reason: why not; empty while they are.
        topics: what became of the messages, by the name of the topic.
        bytes_written: in the files, up to the last flush.
        bytes_waiting: in memory.
        free_bytes: on the disk, at the last flush.
        slowest_sync_s: the longest time that the disk took to have a chunk.
        silent: topics that say nothing for ``storage.silence_s``.
        faults: the first message of each kind of fault.
    """

    recording: bool
    reason: str
    topics: dict[str, Tally]
    bytes_written: int
    bytes_waiting: int
    free_bytes: int
    slowest_sync_s: float
    silent: list[str]
    faults: dict[str, str]


class Recorder:
    """Records from construction to :meth:`close`; also a context manager.

    Args:
        folder: of the bag; must not exist.
        topics: what is recorded; more may be added later.
        config: what is kept, and how.
        about: what the manifest shall say besides, e.g. the robot and the place.

    Attributes:
        paused: whether messages are left out for now.

    Raises:
        BagError: the folder exists or cannot be written, the disk has less room than is to be kept free, or there are
            two topics for images or for depth.
    """

    def __init__(
        self,
        folder: Path,
        topics: Sequence[Topic] = (),
        config: RecordingConfig | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.config = config = config or RecordingConfig()
        self.paused = False
        storage, selection = config.storage, config.selection
        self._free = check_room(folder, storage.keep_free_mb)
        self._topics: dict[str, Topic] = {}
        self._intake = Intake(storage.queue_mb * _MB)
        self._outgoing: deque[_Outgoing] = deque()
        self._sources: dict[str, str] = {}  # by the name in the bag, the topic that was taken
        self._files: list[StoredFile] = []  # once they are finished
        self._last_reason = "finished"
        self._notes = InputNotes(storage.silence_s)
        self._began_s = time.monotonic()
        for topic in topics:
            self.add_topic(topic)
        wants_depth = any(topic.role is Role.DEPTH for topic in topics)
        self._chooser = Chooser(selection, wants_depth)
        self._bag = CrashSafeBag(folder, storage.split_mb * _MB, storage.split_s, config.compression.chunks)
        self._opening = opening(folder.name, asdict(config), about or {})
        self._ledger = Ledger(folder)
        self._ledger.add(self._opening)
        self._pool = ThreadPoolExecutor(config.compression.threads, "compress")
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("finished" if kind is None else f"{kind.__name__}: {fault}")

    def add_topic(self, topic: Topic) -> None:
        """Record one more topic. An image or a depth topic is given at construction.

        Raises:
            BagError: its type is not known or not fit for its role, or its name or role is taken.
        """
        if topic.type not in typestore().fielddefs:
            raise BagError(f"{topic.name}: message type {topic.type!r} is not known: expected e.g. {IMAGE_TYPES[0]}")
        if topic.role in (Role.IMAGE, Role.DEPTH):
            if topic.type not in IMAGE_TYPES:
                raise BagError(f"{topic.name} is of type {topic.type}: expected {' or '.join(IMAGE_TYPES)}")
            same = [other.name for other in self._topics.values() if other.role is topic.role]
            if same:
                raise BagError(f"{topic.name} and {same[0]} are both to be the {topic.role.value}: choose one")
        name = topic.name.removesuffix("/compressed")  # in the bag a raw image has its compressed one's name
        same = [other for other in self._topics if other.removesuffix("/compressed") == name]
        if same:
            raise BagError(f"{topic.name} and {same[0]} would be one topic in the bag: record one of them")
        self._topics[topic.name] = topic
        self._notes.expect(topic.name, time.monotonic())
        self._intake.open(topic.name, Tally(topic.type, topic.role.value, topic.name))

    def set_qos(self, topic: str, qos: Qos) -> None:
        """How the publisher of a topic offers it, once that is known: before its first message is taken."""
        self._topics[topic] = replace(self._topics[topic], qos=qos)

    def miss(self, topic: str, number: int) -> None:
        """Say that so many messages were sent and never came."""
        self._intake.miss(topic, number)

    def take(self, topic: str, message: Any, receipt_ns: int) -> bool:
        """Leave a message to be recorded. Never waits.

        Args:
            topic: one that was added.
            message: its CDR bytes, as a raw subscription gives them, or an object with the fields of its type, which
                must not be changed afterwards.
            receipt_ns: time of receipt, nanoseconds since the epoch.

        Returns:
            Whether it was taken in; it may still be left out by the selection.
        """
        raw = isinstance(message, (bytes, bytearray, memoryview))
        size = len(message) if raw else len(getattr(message, "data", ())) + _OVERHEAD
        return self._intake.take(Item(topic, message, receipt_ns, time.monotonic(), size))

    def hint(self, stamp_ns: int, *, pose: FloatArray | None = None, disagreement: float | None = None) -> None:
        """Say of the frame whose image has this stamp what others know.

        Args:
            pose: (4, 4) camera to a fixed frame, metres. It counts if it comes before the frame is decided on.
            disagreement: of student and teacher, in the unit of ``selection.min_disagreement``. For its own frame it
                counts if it comes within ``wait_s``; for the frames after it in any case, see ``disagreement_s``.
        """
        self._intake.hint(stamp_ns, Hint(pose, disagreement))

    def status(self) -> Status:
        """The recording as it is now."""
        reason = self._intake.reason
        return Status(
            recording=not reason,
            reason=reason,
            topics=self._intake.tallies(),
            bytes_written=self._bag.bytes_written,
            bytes_waiting=self._intake.bytes_waiting,
            free_bytes=self._free,
            slowest_sync_s=self._bag.slowest_sync_s,
            silent=self._notes.silent(time.monotonic()),
            faults=self._intake.faults,
        )

    def close(self, reason: str = "finished") -> Status:
        """Write what waits, finish the bag and its manifest.

        Args:
            reason: why the recording ends, for the manifest, unless it had ended before.
        """
        self._last_reason = reason
        first = self._intake.close()
        self._thread.join()
        if first:
            self._pool.shutdown()
            self._write_manifest()  # where a limit had ended the recording, what was given since is counted too
        return self.status()

    # What follows runs in the thread of the recorder.

    def _run(self) -> None:
        failed = False
        try:
            flush_at = time.monotonic() + self.config.storage.flush_s
            while True:
                ending = bool(self._intake.reason)
                busy = self._step(ending)
                if time.monotonic() >= flush_at:
                    self._flush()
                    flush_at = time.monotonic() + self.config.storage.flush_s
                if not busy:
                    if ending:
                        break
                    self._intake.wait(_TICK_S)
            self._flush()
        except OSError as fault:
            failed = True
            self._intake.stop(f"the disk failed: {fault}; make room, and begin a new recording")
        except Exception as fault:
            failed = True
            self._intake.stop(f"fault of the recorder: {type(fault).__name__}: {fault}")
        self._finish(failed)

    def _step(self, ending: bool) -> bool:
        """One message goes in, and what is decided and compressed goes on; whether there may be more to do."""
        item, hints = self._intake.next()
        for stamp_ns, hint in hints:
            self._chooser.hint(stamp_ns, hint)
        if item is not None:
            topic = self._topics[item.topic]
            self._notes.message(topic.name, item.receipt_ns, item.taken_s)
            paused = self.paused
            self._heed(Verdict(item, "paused") if paused else self._chooser.add(item, topic.type, topic.role))
            # while messages wait here, time is when the newest one came: what a frame lacks may be among them
            now = item.taken_s
        else:
            now = float("inf") if ending else time.monotonic()
        for verdict in self._chooser.decide(now):
            self._heed(verdict)
        while self._outgoing and self._outgoing[0].data.done():
            self._write(self._outgoing.popleft())
        if item is None and ending and self._outgoing:
            self._outgoing[0].data.exception()  # waits for it
            return True
        return item is not None

    def _heed(self, verdict: Verdict | None) -> None:
        if verdict is None:
            return
        if verdict.reason:
            self._intake.leave_out(verdict.item, verdict.reason, verdict.fault)
        else:
            self._send(verdict.item)

    def _send(self, item: Item) -> None:
        """To be compressed where it has to be, then written."""
        topic = self._topics[item.topic]
        name, type_name = topic.name, topic.type
        if topic.role in (Role.IMAGE, Role.DEPTH):
            is_depth = topic.role is Role.DEPTH
            name, type_name = recorded_as(topic.name, item.decoded, is_depth, self.config.compression)
            if type_name != topic.type:
                done = self._pool.submit(compress, item.decoded, is_depth, self.config.compression)
                self._outgoing.append(_Outgoing(item, name, type_name, done))
                return
        ready: Future[bytes] = Future()
        try:
            ready.set_result(_serialised(item.message, topic.type))
        except Exception as fault:  # an object that is not of the type it was announced as
            ready.set_exception(fault)
        self._outgoing.append(_Outgoing(item, name, type_name, ready))

    def _write(self, out: _Outgoing) -> None:
        fault = out.data.exception()
        if fault is not None:
            self._intake.leave_out(out.item, "unreadable", str(fault))
            return
        topic = self._topics[out.item.topic]
        self._sources[out.name] = topic.name
        self._bag.write(out.name, out.type, out.data.result(), out.item.receipt_ns, topic.qos)
        self._intake.written(out.item, out.name)

    def _flush(self) -> None:
        self._bag.flush()
        self._ledger.add({"at_ns": time.time_ns(), "file": self._bag.current, "topics": self._intake.record()})
        self._free = shutil.disk_usage(self.folder).free
        storage = self.config.storage
        if self._free < storage.keep_free_mb * _MB:
            self._intake.stop(
                f"disk limit: {self._free / _MB:.0f} MB are free and storage.keep_free_mb is {storage.keep_free_mb}; "
                "make room, and begin a new recording"
            )
        elif storage.max_mb and self._bag.bytes_written >= storage.max_mb * _MB:
            self._intake.stop(
                f"size limit: the bag has reached storage.max_mb, {storage.max_mb} MB; begin a new recording"
            )

    def _finish(self, failed: bool) -> None:
        """Account for everything, and finish the files as well as it can be done."""
        try:
            self._files = self._bag.close(failed)
        except OSError as fault:
            text = f"{self.folder} is not finished ({fault}): make room and run `stfm recover {self.folder}`"
            self._intake.stop(f"the disk failed: {fault}", text)
        self._intake.stop(self._last_reason)
        if self._files:  # of a file that was cut, they hold less than was given to them
            stored = Counter[str]()
            for file in self._files:
                for topic in file.topics:
                    stored[self._sources[topic.name]] += topic.count
            self._intake.settle(stored)
        self._outgoing.clear()
        self._ended, self._ended_s = iso_time(time.time_ns()), time.monotonic()
        self._silences = self._notes.silences(self._ended_s)
        try:
            if self._files:
                self._ledger.add(
                    {"at_ns": time.time_ns(), "ended": self._intake.reason, "topics": self._intake.record()}
                )
        except OSError as fault:
            self._intake.stop("", f"{self.folder} has no end in its ledger: {fault}")
        self._write_manifest()
        self._ledger.close()

    def _write_manifest(self) -> None:
        if not self._files:
            return
        try:
            write_manifest(
                self.folder,
                self._opening,
                self._intake.record(),
                self._files,
                self._bag.digests,
                ended=self._ended,
                seconds=round(self._ended_s - self._began_s, 3),
                ended_because=self._intake.reason,
                silences=[asdict(silence) for silence in self._silences],
                clock_jumps=[asdict(jump) for jump in self._notes.jumps],
                slowest_sync_s=round(self._bag.slowest_sync_s, 3),
                faults=self._intake.faults,
                lost=None,
            )
        except OSError as fault:
            self._intake.stop("", f"{self.folder} has no manifest: {fault}")


def check_room(folder: Path, keep_free_mb: int) -> int:
    """Before anything is made: whether the disk of a folder, which need not be there, has room for a recording.

    Returns:
        Free bytes.

    Raises:
        BagError: it has less than is to be kept free.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < keep_free_mb * _MB:
        raise BagError(
            f"{there} has {free / _MB:.0f} MB free and storage.keep_free_mb is {keep_free_mb}: make room, lower the "
            "limit, or record to another disk"
        )
    return free


def _serialised(message: Any, type_name: str) -> bytes:
    """CDR bytes of a message."""
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message)
    return bytes(typestore().serialize_cdr(to_message(message, type_name), type_name))
