"""Recordings, read and written with rosbags: no ROS needed. Times are integer nanoseconds.

Read are rosbag2 folders, single ``.mcap`` and ``.db3`` files, and ROS 1 ``.bag`` files; definitions come from the bag,
or, where an old one has none, from ROS 2 Jazzy and this package.

Written is mcap: a name that ends in ``.mcap`` becomes that single file, which `ros2 bag play`, `ros2 bag info` and
Foxglove take as it is (ROS 2 Humble with ``-s mcap``); any other name becomes a rosbag2 folder with a metadata.yaml.
What is written appears under its name only once it is complete.
"""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from stfm_ros.bag_types import to_message, typestore
from stfm_ros.errors import BagError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"

#: metadata version of ROS 2 Jazzy, which later releases read
_METADATA_VERSION: Final = 8
_REPAIR = "it is truncated or damaged: try `stfm recover` (mcap) or `ros2 bag reindex`, or record it again"


@dataclass(frozen=True)
class TopicInfo:
    """A topic of a bag: the ROS type, e.g. ``sensor_msgs/msg/Image``, and how many messages it has."""

    type: str
    count: int


class BagReader:
    """A recording, opened as a context manager.

    Args:
        path: a rosbag2 folder, or an .mcap, .db3 or .bag file.

    Attributes:
        topics: name to :class:`TopicInfo`, sorted by name.

    Raises:
        BagError: the bag is missing, damaged, or of another format.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.topics: dict[str, TopicInfo] = {}
        self._connections: list[Connection] = []
        self._stack = ExitStack()

    def __enter__(self) -> BagReader:
        if not self.path.exists():
            raise BagError(f"bag {self.path} does not exist: expected a rosbag2 folder, or an .mcap, .db3 or .bag file")
        if not self.path.is_dir() and self.path.suffix not in (".mcap", ".db3", ".bag"):
            raise BagError(
                f"{self.path} is no bag by its name: expected a rosbag2 folder, or an .mcap, .db3 or .bag file"
            )
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            if any(self.path.glob("*.mcap")):
                hint = f"its recording was interrupted or still runs; when it has ended, run `stfm recover {self.path}`"
            elif files := sorted(p.name for p in self.path.glob("*.db3")):
                hint = f"name its file {files[0]}, or run `ros2 bag reindex`"
            else:
                hint = "it is no bag; name the folder that `ros2 bag record` made, or run `ros2 bag reindex`"
            raise BagError(f"{self.path} has no metadata.yaml: {hint}")
        try:
            self._reader = AnyReader([self.path], default_typestore=typestore())
            self._stack.enter_context(self._reader)
        except Exception as fault:  # damaged bytes surface as any error of the parsers below
            raise BagError(f"bag {self.path} cannot be opened ({_words(fault)}); {_REPAIR}") from fault
        self._connections = list(self._reader.connections)
        for name in sorted({connection.topic for connection in self._connections}):
            same = [connection for connection in self._connections if connection.topic == name]
            self.topics[name] = TopicInfo(same[0].msgtype, sum(connection.msgcount for connection in same))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def messages(
        self, topics: Collection[str] = (), start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, Any, int]]:
        """Topic, message and time of receipt in nanoseconds, in the order of receipt.

        Args:
            topics: names; all where empty.
            start_ns, stop_ns: the first time of receipt, and the first one after the last, where not all are wanted.

        Raises:
            BagError: a topic is not in the bag, or the bag is damaged further on.
        """
        names = [self._require(topic) for topic in topics] or self.topics
        chosen = [connection for connection in self._connections if connection.topic in names]
        return self._messages(chosen, start_ns, stop_ns)

    def _messages(
        self, chosen: list[Connection], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[str, Any, int]]:
        if not chosen:  # which rosbags takes for all
            return
        count = 0
        stream = self._reader.messages(chosen, start_ns, stop_ns)
        while True:
            try:
                connection, receipt_ns, data = next(stream)
                message = self._reader.deserialize(data, connection.msgtype)
            except StopIteration:
                return
            except Exception as fault:  # as above
                raise BagError(
                    f"bag {self.path} is damaged after {count} messages ({_words(fault)}); {_REPAIR}"
                ) from fault
            yield connection.topic, message, receipt_ns
            count += 1

    def find_topic(
        self,
        types: str | Collection[str],
        wanted: str = "",
        accept: Callable[[Any], bool] | None = None,
    ) -> str:
        """The one topic of these types, or the one that is wanted.

        Args:
            types: ROS types, e.g. :data:`IMAGE_TYPES`.
            wanted: a name; must then be there and of one of the types.
            accept: asked with the first message of each candidate where none is wanted, e.g. to leave out depth.

        Raises:
            BagError: there is none, or more than one; lists the candidates.
        """
        types = (types,) if isinstance(types, str) else tuple(types)
        if wanted:
            name = self._require(wanted)
            if self.topics[name].type not in types:
                raise BagError(
                    f"topic {name} of {self.path} is of type {self.topics[name].type}: expected {' or '.join(types)}"
                    f"\n{self._listing(types)}"
                )
            return name
        found = [name for name, info in self.topics.items() if info.type in types and info.count]
        if accept is not None:
            found = [name for name in found if accept(next(self.messages([name]))[1])]
        if len(found) == 1:
            return found[0]
        number = "more than one topic" if found else "no topic"
        step = f"choose one by its name: {', '.join(found)}" if found else "record such a topic, or name another bag"
        of = " or ".join(types)
        raise BagError(f"{self.path} has {number} of type {of} with messages: {step}\n{self._listing()}")

    def _require(self, topic: str) -> str:
        """The name as it is in the bag; a leading slash may be left out."""
        for name in (topic, "/" + topic):
            if name in self.topics:
                return name
        close = difflib.get_close_matches(topic, self.topics, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BagError(f"{self.path} has no topic {topic}{hint}\n{self._listing()}")

    def _listing(self, types: Collection[str] = ()) -> str:
        lines = [
            f"  {name}  {info.type}  {info.count} messages"
            for name, info in self.topics.items()
            if not types or info.type in types
        ]
        of = f" of type {' or '.join(types)}" if types else ""
        return "\n".join([f"topics{of} in the bag:", *lines]) if lines else f"the bag has no topics{of}"


class BagWriter:
    """A new recording in mcap (chunks compressed by zstd), opened as a context manager.

    Leaving the context without an error gives the bag its name; an error leaves nothing behind.

    Args:
        path: ``NAME.mcap`` for a single file, any other name for a rosbag2 folder.
        overwrite: whether a bag of this name is replaced.

    Raises:
        BagError: the name is taken, or the place cannot be written.
    """

    def __init__(self, path: Path | str, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.overwrite = overwrite
        self._single = self.path.suffix == ".mcap"
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        self._check_name()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        except OSError as fault:
            raise BagError(f"bag {self.path} cannot be written ({fault}); choose a folder you may write to") from fault
        # inside, the folder already has the final name, since the names of the bag's files are made from it
        self._writer = Writer(
            self._folder / (self.path.stem if self._single else self.path.name),
            version=_METADATA_VERSION,
            storage_plugin=StoragePlugin.MCAP,
        )
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                self._writer.abort()
                return
            self._writer.close()
            self._check_name()
            written = self._writer.path / f"{self.path.stem}.mcap" if self._single else self._writer.path
            if self.path.is_dir():
                shutil.rmtree(self.path)
            written.replace(self.path)
        except OSError as trouble:
            raise BagError(f"bag {self.path} cannot be written ({trouble}); check space and permissions") from trouble
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def write(self, topic: str, type_name: str, message: Any, stamp_ns: int) -> None:
        """Add a message.

        Args:
            topic: name, e.g. ``/camera/image``.
            type_name: e.g. ``sensor_msgs/msg/Image``; the same for every message of a topic.
            message: a nested dict of ROS field names, where what is left out is zero, or any message object.
            stamp_ns: time of receipt, nanoseconds since the epoch.

        Raises:
            BagError: the type, a field or a value does not fit.
        """
        if not 0 <= stamp_ns < 2**63:
            raise BagError(f"{topic}: time of receipt {stamp_ns} ns: expected 0 or more; shift the stamps")
        connection = self._connection(topic, type_name)
        data = typestore().serialize_cdr(to_message(message, type_name), type_name)
        try:
            self._writer.write(connection, int(stamp_ns), data)
        except OSError as fault:
            raise BagError(f"bag {self.path} cannot be written ({fault}); check space and permissions") from fault

    def _connection(self, topic: str, type_name: str) -> Connection:
        connection = self._connections.get(topic)
        if connection is None:
            if type_name not in typestore().fielddefs:
                raise BagError(f"{topic}: message type {type_name!r} is not known: expected e.g. sensor_msgs/msg/Image")
            connection = self._writer.add_connection(topic, type_name, typestore=typestore())
            self._connections[topic] = connection
        if connection.msgtype != type_name:
            raise BagError(f"{topic} holds {connection.msgtype}: expected the same type, got {type_name}")
        return connection

    def _check_name(self) -> None:
        if not self.path.exists():
            return
        if not self.overwrite:
            raise BagError(f"{self.path} exists already and is not overwritten: delete it first or choose another name")
        is_bag = self.path.is_file() if self._single else (self.path / "metadata.yaml").is_file()
        if not is_bag:
            kind = "file" if self._single else "rosbag2 folder"
            raise BagError(f"{self.path} is in the way and no {kind}, so it is not replaced: choose another name")


def _words(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
