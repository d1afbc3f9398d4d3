"""The rosbag2 folder that is written while anything may happen.

Messages go into mcap chunks with checksums. :meth:`CrashSafeBag.flush` closes the chunk and has it on the disk, so a
kill or a power cut costs what came since; ``stfm_ros.recording.seal`` makes such a file whole. A reserve of some
megabytes lies beside the files, so that on a full disk there is room to finish them.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from mcap.writer import CompressionType, Writer
from rosbags.interfaces import Qos

from stfm_ros import __version__
from stfm_ros.bag_types import typestore
from stfm_ros.errors import BagError
from stfm_ros.recording.metadata import StoredFile, sync_folder, write_metadata
from stfm_ros.recording.qos import qos_text
from stfm_ros.recording.seal import seal

RESERVE_NAME: Final = ".reserve"
_RESERVE_BYTES: Final = 4 << 20
_CHUNKS = {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4, "none": CompressionType.NONE}


class _Digested:
    """A file that is only appended to, and its SHA-256. What mcap's Writer needs of a stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("xb")
        self._sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._sum.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def hexdigest(self) -> str:
        return self._sum.hexdigest()


class CrashSafeBag:
    """A rosbag2 folder of NAME_0.mcap, NAME_1.mcap and so on. Used by one thread.

    Args:
        folder: is made; must not exist.
        split_bytes, split_s: a new file is begun at the first flush from this size or age on; 0 does not ask.
        chunks: compression, ``zstd``, ``lz4`` or ``none``.

    Attributes:
        digests: SHA-256 by name of the files that are finished.
        bytes_written: of all files, up to the last flush.
        slowest_sync_s: the longest time that the disk took to have a chunk.

    Raises:
        BagError: the folder exists or cannot be made.
    """

    def __init__(self, folder: Path, split_bytes: int = 0, split_s: float = 0.0, chunks: str = "zstd") -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}
        self.bytes_written = 0
        self.slowest_sync_s = 0.0
        self._split_bytes = split_bytes
        self._split_s = split_s
        self._chunks = _CHUNKS[chunks]
        self._files = 0
        self._closed_bytes = 0
        try:
            folder.mkdir(parents=True)
            with (folder / RESERVE_NAME).open("wb") as reserve:
                os.posix_fallocate(reserve.fileno(), 0, _RESERVE_BYTES)
            self._begin()
        except FileExistsError:
            raise BagError(f"{folder} exists already: choose another name for the recording") from None
        except OSError as fault:
            raise BagError(f"{folder} cannot be recorded to ({fault}): check space and permissions") from fault

    @property
    def current(self) -> str:
        """The name of the file that is being written."""
        return self._stream.path.name

    def write(self, topic: str, type_name: str, data: bytes, receipt_ns: int, qos: Qos) -> None:
        """Add a message, given as CDR bytes.

        Raises:
            BagError: the type is not known.
            OSError: the disk is full or fails; call :meth:`close` then, nothing else.
        """
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = self._register(topic, type_name, qos)
        self._writer.add_message(channel, receipt_ns, data, receipt_ns)
        self._messages += 1

    def flush(self) -> None:
        """Have on the disk what was written, and begin a new file where it is time.

        Raises:
            OSError: as for :meth:`write`.
        """
        began = time.monotonic()
        self._writer.flush()
        self._stream.sync()
        self.slowest_sync_s = max(self.slowest_sync_s, time.monotonic() - began)
        size = self._stream.tell()
        self.bytes_written = self._closed_bytes + size
        large = self._split_bytes and size >= self._split_bytes
        old = self._split_s and time.monotonic() - self._began >= self._split_s
        if self._messages and (large or old):
            self._finish()
            self._begin()

    def close(self, failed: bool = False) -> list[StoredFile]:
        """Finish the last file and write metadata.yaml.

        Args:
            failed: whether :meth:`write` or :meth:`flush` failed: the file is then cut after its last whole chunk.

        Returns:
            What the files hold.

        Raises:
            OSError: not even that could be written; ``stfm recover`` finishes the bag when there is room again.
        """
        if not failed:
            try:
                if self._messages or self._files == 1:
                    self._finish()
                else:  # nothing came after the last split
                    self._stream.close()
                    self._stream.path.unlink()
            except OSError:
                failed = True
        (self.folder / RESERVE_NAME).unlink(missing_ok=True)
        if failed:
            with suppress(OSError):
                self._stream.close()
            path = self._stream.path
            seal(path)
            self.digests[path.name] = digest(path)
            self.bytes_written = self._closed_bytes + path.stat().st_size
        return write_metadata(self.folder)

    def _begin(self) -> None:
        self._stream = _Digested(self.folder / f"{self.folder.name}_{self._files}.mcap")
        # of the methods of a file, those of _Digested are all that Writer calls
        self._writer = Writer(self._stream, compression=self._chunks)  # type: ignore[arg-type]
        self._writer.start("ros2", f"stfm_ros {__version__}")
        self._stream.sync()
        sync_folder(self.folder)
        self._files += 1
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._messages = 0
        self._began = time.monotonic()

    def _finish(self) -> None:
        self._writer.finish()
        self._stream.sync()
        self._closed_bytes += self._stream.tell()
        self.bytes_written = self._closed_bytes
        self._stream.close()
        self.digests[self._stream.path.name] = self._stream.hexdigest()

    def _register(self, topic: str, type_name: str, qos: Qos) -> int:
        if type_name not in typestore().fielddefs:
            raise BagError(f"{topic}: message type {type_name!r} is not known: expected e.g. sensor_msgs/msg/Image")
        if type_name not in self._schemas:
            definition, _ = typestore().generate_msgdef(type_name, ros_version=2)
            self._schemas[type_name] = self._writer.register_schema(type_name, "ros2msg", definition.encode())
        about = {"offered_qos_profiles": qos_text(qos), "topic_type_hash": typestore().hash_rihs01(type_name)}
        return self._writer.register_channel(topic, "cdr", self._schemas[type_name], about)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
