"""The recorder: callbacks give it messages and go on; one thread chooses and writes, a few compress.

Every message that is taken is accounted for, by topic: taken = written + left out + waiting. It is left out for

    little_change, blurred, too_soon, no_depth, little_depth    the frame is not worth keeping (see selection.py)
    unreadable      the image or depth cannot be decoded
    with_frame      it belongs to a frame that was left out
    no_frame        no image of its stamp came
    queue_full      more was taken than compressed and written: memory for waiting messages is bounded
    bad_stamp       its time of receipt is not one
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

import numpy as np
from rosbags.interfaces import Qos

from stfm_ros import messages
from stfm_ros.bag_types import to_message, typestore
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES
from stfm_ros.errors import BagError, StfmError
from stfm_ros.recording.bag import CrashSafeBag
from stfm_ros.recording.config import RecordingConfig
from stfm_ros.recording.encoding import compress, recorded_as, view_of_depth, view_of_image
from stfm_ros.recording.ledger import Ledger, Tally
from stfm_ros.recording.manifest import iso_time, opening, write_manifest
from stfm_ros.recording.metadata import StoredFile
from stfm_ros.recording.pairing import Frame, Hint, Item, Pairing, Role
from stfm_ros.recording.qos import make_qos
from stfm_ros.recording.selection import Selector, View
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
        storage, selection = config.storage, config.selection
        self._check_room()
        self._lock = threading.Lock()  # over everything that take() touches
        self._topics: dict[str, Topic] = {}
        self._tallies: dict[str, Tally] = {}
        self._inbox: deque[Item] = deque()
        self._came = threading.Event()
        self._held = 0  # bytes that were taken and are neither written nor left out
        self._closing = False
        self._reason = ""
        self._faults: dict[str, str] = {}
        self._last_reason = ""
        self._outgoing: deque[_Outgoing] = deque()
        self._sources: dict[str, str] = {}  # by the name in the bag, the topic that was taken
        self._files: list[StoredFile] = []  # once they are finished
        self._hints: deque[tuple[int, Hint]] = deque()
        self._focal = 1.0
        self._choose = selection.keep == "chosen"
        self._notes = InputNotes(storage.silence_s)
        self._began_s = time.monotonic()
        for topic in topics:
            self.add_topic(topic)
        wants_depth = any(topic.role is Role.DEPTH for topic in topics)
        self._pairing = Pairing(
            selection.slop_s, selection.wait_s, self._choose and wants_depth, selection.min_disagreement > 0
        )
        self._selector = Selector(selection, wants_depth)
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
        with self._lock:
            name = topic.name.removesuffix("/compressed")  # in the bag a raw image has its compressed one's name
            same = [other for other in self._topics if other.removesuffix("/compressed") == name]
            if same:
                raise BagError(f"{topic.name} and {same[0]} would be one topic in the bag: record one of them")
            self._topics[topic.name] = topic
            self._notes.expect(topic.name, time.monotonic())
            self._tallies[topic.name] = Tally(topic.type, topic.role.value, topic.name)

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
        item = Item(topic, message, receipt_ns, time.monotonic(), size)
        with self._lock:
            tally = self._tallies[topic]
            tally.taken += 1
            tally.last_ns = receipt_ns
            tally.first_ns = tally.first_ns or receipt_ns
            reason = ""
            if self._reason or self._closing:
                reason = "stopped"
            elif not 0 <= receipt_ns < 2**63:
                reason = "bad_stamp"
            elif self._held + size > self.config.storage.queue_mb * _MB:
                reason = "queue_full"
            if reason:
                tally.left_out[reason] += 1
                return False
            self._held += size
            self._inbox.append(item)
        self._came.set()
        return True

    def hint(self, stamp_ns: int, *, pose: FloatArray | None = None, disagreement: float | None = None) -> None:
        """Say of the frame whose image has this stamp what others know. It counts if it comes within ``wait_s``.

        Args:
            pose: (4, 4) camera to a fixed frame, metres.
            disagreement: of student and teacher, in the unit of ``selection.min_disagreement``.
        """
        with self._lock:
            self._hints.append((stamp_ns, Hint(pose, disagreement)))
        self._came.set()

    def status(self) -> Status:
        """The recording as it is now."""
        with self._lock:
            topics = {name: replace(tally, left_out=tally.left_out.copy()) for name, tally in self._tallies.items()}
            reason = self._reason or ("closing" if self._closing else "")
            held, faults = self._held, dict(self._faults)
        return Status(
            recording=not reason,
            reason=reason,
            topics=topics,
            bytes_written=self._bag.bytes_written,
            bytes_waiting=held,
            free_bytes=self._free,
            slowest_sync_s=self._bag.slowest_sync_s,
            silent=self._notes.silent(time.monotonic()),
            faults=faults,
        )

    def close(self, reason: str = "finished") -> Status:
        """Write what waits, finish the bag and its manifest.

        Args:
            reason: why the recording ends, for the manifest, unless it had ended before.
        """
        with self._lock:
            first = not self._closing
            if first:
                self._closing = True
                self._last_reason = reason
        self._came.set()
        self._thread.join()
        if first:
            self._pool.shutdown()
            if self._files:  # a recording that a limit ended counts on what it is given
                self._write_manifest()
        return self.status()

    # What follows runs in the thread of the recorder.

    def _run(self) -> None:
        failed = False
        try:
            flush_at = time.monotonic() + self.config.storage.flush_s
            while True:
                with self._lock:
                    ending = self._closing or bool(self._reason)
                busy = self._step(ending)
                if time.monotonic() >= flush_at:
                    self._flush()
                    flush_at = time.monotonic() + self.config.storage.flush_s
                if not busy:
                    if ending:
                        break
                    self._came.wait(_TICK_S)
                    self._came.clear()
            self._flush()
        except OSError as fault:
            failed = True
            self._stop(f"the disk failed: {fault}; make room, and begin a new recording")
        except Exception as fault:
            failed = True
            self._stop(f"fault of the recorder: {type(fault).__name__}: {fault}")
        self._finish(failed)

    def _step(self, ending: bool) -> bool:
        """One message goes in, and what is decided and compressed goes on; whether there may be more to do."""
        with self._lock:
            item = self._inbox.popleft() if self._inbox else None
            hints, self._hints = self._hints, deque()
        for stamp_ns, hint in hints:
            self._pairing.hint(stamp_ns, hint)
        if item is not None:
            self._sort(item)
            # while messages wait here, time is when the newest one came: what a frame lacks may be among them
            now = item.taken_s
        else:
            now = float("inf") if ending else time.monotonic()
        for frame in self._pairing.ready(now):
            self._decide(frame)
        for orphan in self._pairing.orphans(now):
            self._leave_out(orphan, "no_frame")
        while self._outgoing and self._outgoing[0].data.done():
            self._write(self._outgoing.popleft())
        if item is None and ending and self._outgoing:
            self._outgoing[0].data.exception()  # waits for it
            return True
        return item is not None

    def _sort(self, item: Item) -> None:
        self._notes.message(item.topic, item.receipt_ns, item.taken_s)
        topic = self._topics[item.topic]
        if topic.role is Role.ALWAYS:
            self._send(item)
            return
        try:
            item = self._decoded(item, topic)
        except Exception as fault:  # bytes that are not of the type surface as any error of the parser
            self._unreadable(item, fault)
            return
        if topic.type == CAMERA_INFO_TYPE and item.decoded.width:
            self._focal = float(np.ravel(item.decoded.k)[0]) / item.decoded.width
        if topic.role is Role.IMAGE:
            self._pairing.image(item)
            return
        kept = self._pairing.part(item, topic.role)
        if kept is not None:
            self._keep_or_not(item, kept)

    def _decoded(self, item: Item, topic: Topic) -> Item:
        raw = isinstance(item.message, (bytes, bytearray, memoryview))
        decoded: Any = typestore().deserialize_cdr(item.message, topic.type) if raw else item.message
        return replace(item, decoded=decoded, stamp_ns=messages.stamp_ns(decoded.header))

    def _decide(self, frame: Frame) -> None:
        try:
            reason = self._choice(frame) if self._choose else ""
        except StfmError as fault:
            reason = "unreadable"
            self._note_fault(reason, f"{frame.image.topic}: {fault}")
        self._pairing.decide(frame, not reason)
        if reason:
            self._leave_out(frame.image, reason)
        else:
            self._send(frame.image)
        for part in (frame.depth, *frame.others):
            if part is not None:
                self._keep_or_not(part, not reason)

    def _choice(self, frame: Frame) -> str:
        if self._selector.is_too_soon(frame.image.stamp_ns):
            return "too_soon"
        return self._selector(self._view(frame))

    def _view(self, frame: Frame) -> View:
        hint = frame.hint or Hint()
        depth = view_of_depth(frame.depth.decoded) if frame.depth else None
        gray = view_of_image(frame.image.decoded)
        return View(frame.image.stamp_ns, gray, depth, hint.pose, self._focal, hint.disagreement)

    def _keep_or_not(self, item: Item, kept: bool) -> None:
        if kept:
            self._send(item)
        else:
            self._leave_out(item, "with_frame")

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
            self._unreadable(out.item, fault)
            return
        tally = self._tallies[out.item.topic]
        tally.recorded_as = out.name
        self._sources[out.name] = out.item.topic
        self._bag.write(out.name, out.type, out.data.result(), out.item.receipt_ns, self._topics[out.item.topic].qos)
        with self._lock:
            tally.written += 1
            self._held -= out.item.size

    def _leave_out(self, item: Item, reason: str) -> None:
        with self._lock:
            self._tallies[item.topic].left_out[reason] += 1
            self._held -= item.size

    def _unreadable(self, item: Item, fault: BaseException) -> None:
        self._note_fault("unreadable", f"{item.topic}: {fault}")
        self._leave_out(item, "unreadable")

    def _note_fault(self, kind: str, text: str) -> None:
        with self._lock:
            self._faults.setdefault(kind, text)

    def _flush(self) -> None:
        self._bag.flush()
        self._ledger.add({"at_ns": time.time_ns(), "file": self._bag.current, "topics": self._counts()})
        self._free = shutil.disk_usage(self.folder).free
        storage = self.config.storage
        if self._free < storage.keep_free_mb * _MB:
            self._stop(
                f"disk limit: {self._free / _MB:.0f} MB are free and storage.keep_free_mb is {storage.keep_free_mb}; "
                "make room, and begin a new recording"
            )
        elif storage.max_mb and self._bag.bytes_written >= storage.max_mb * _MB:
            self._stop(f"size limit: the bag has reached storage.max_mb, {storage.max_mb} MB; begin a new recording")

    def _stop(self, reason: str) -> None:
        with self._lock:
            self._reason = self._reason or reason

    def _finish(self, failed: bool) -> None:
        """Account for everything, and finish the files as well as it can be done."""
        try:
            self._files = self._bag.close(failed)
        except OSError as fault:
            self._stop(f"the disk failed: {fault}")
            self._note_fault("unfinished", f"{self.folder} is not finished ({fault}): make room, run `stfm recover`")
        with self._lock:
            self._reason = self._reason or self._last_reason
            stored = Counter[str]()
            for file in self._files:
                for topic in file.topics:
                    stored[self._sources[topic.name]] += topic.count
            for name, tally in self._tallies.items():
                tally.written = stored[name]  # of a file that was cut, less than was given to it
                if tally.waiting:
                    tally.left_out["not_written"] += tally.waiting
            self._inbox.clear()
            self._held = 0
        self._outgoing.clear()
        self._ended, self._ended_s = iso_time(time.time_ns()), time.monotonic()
        self._silences = self._notes.silences(self._ended_s)
        try:
            if self._files:
                self._ledger.add({"at_ns": time.time_ns(), "ended": self._reason, "topics": self._counts()})
                self._write_manifest()
        except OSError as fault:
            self._note_fault("unfinished", f"{self.folder} has no manifest ({fault}): make room, run `stfm recover`")
        finally:
            self._ledger.close()

    def _counts(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            return {name: tally.record() for name, tally in self._tallies.items()}

    def _write_manifest(self) -> None:
        write_manifest(
            self.folder,
            self._opening,
            self._counts(),
            self._files,
            self._bag.digests,
            ended=self._ended,
            seconds=round(self._ended_s - self._began_s, 3),
            ended_because=self._reason,
            silences=[asdict(silence) for silence in self._silences],
            clock_jumps=[asdict(jump) for jump in self._notes.jumps],
            slowest_sync_s=round(self._bag.slowest_sync_s, 3),
            faults=self._faults,
            lost=None,
        )

    def _check_room(self) -> None:
        """Before anything is made: whether the disk has room for a recording."""
        there = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        self._free = shutil.disk_usage(there).free
        least = self.config.storage.keep_free_mb
        if self._free < least * _MB:
            raise BagError(
                f"{there} has {self._free / _MB:.0f} MB free and storage.keep_free_mb is {least}: make room, lower the "
                "limit, or record to another disk"
            )


def _serialised(message: Any, type_name: str) -> bytes:
    """CDR bytes of a message."""
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message)
    return bytes(typestore().serialize_cdr(to_message(message, type_name), type_name))
