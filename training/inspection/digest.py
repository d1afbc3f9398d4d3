"""A bag read once from end to end: what is small is kept, of images only their headers.

Afterwards ``messages`` replays from memory, so that whatever reads a bag (``Index``) can be asked several times, and
single images are fetched by their time of receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader
from stfm_ros.errors import BagError
from stfm_ros.posed_bag import POSE_TYPES
from stfm_training.recordings.poses import TF_TYPES

READ_TYPES = (*IMAGE_TYPES, CAMERA_INFO_TYPE, *POSE_TYPES, *TF_TYPES)


class Digest(BagReader):
    """A bag whose images can be asked for one by one, opened as a context manager.

    Args:
        path: the bag.
        progress: called with the messages that are read and all there are.

    Attributes:
        damage: what stopped the reading before the end; empty where nothing did.
        bytes_of: of the data of each image topic.
    """

    def __init__(self, path: Path | str, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        super().__init__(path)
        self._progress = progress
        self._rows: list[tuple[str, Any, int]] = []
        self._numbers: dict[str, list[int]] = {}
        self.damage = ""
        self.bytes_of: dict[str, int] = {}

    def __enter__(self) -> Digest:
        super().__enter__()
        try:
            self._read()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _read(self) -> None:
        wanted = [name for name, info in self.topics.items() if info.type in READ_TYPES and info.count]
        total = sum(self.topics[name].count for name in wanted)
        if not wanted:
            return
        try:
            for topic, message, receipt_ns in super().messages(wanted):
                if self.topics[topic].type in IMAGE_TYPES:
                    self.bytes_of[topic] = self.bytes_of.get(topic, 0) + len(message.data)
                    message = _header_of(message)
                self._numbers.setdefault(topic, []).append(len(self._rows))
                self._rows.append((topic, message, receipt_ns))
                if len(self._rows) % 50 == 0:
                    self._progress(len(self._rows), total)
        except BagError as fault:
            self.damage = str(fault)
        self._progress(total, total)

    def messages(
        self, topics: Collection[str] = (), start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, Any, int]]:
        """As of a :class:`BagReader`, but images come without their pixels."""
        names = {self._require(topic) for topic in topics} or set(self.topics)
        for topic, message, receipt_ns in self._rows:
            if topic in names and (start_ns or 0) <= receipt_ns and (stop_ns is None or receipt_ns < stop_ns):
                yield topic, message, receipt_ns

    def times(self, topic: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) stamps and (n,) times of receipt in nanoseconds, in the order of receipt; 0 for what has no stamp."""
        rows = [self._rows[k] for k in self._numbers.get(topic, [])]
        stamps = [messages.stamp_ns(message.header) if hasattr(message, "header") else 0 for _, message, _ in rows]
        return np.array(stamps, np.int64), np.array([receipt for _, _, receipt in rows], np.int64)

    def first(self, topic: str) -> Any:
        """The first message of a topic, None where there is none; an image comes without its pixels."""
        numbers = self._numbers.get(topic)
        return self._rows[numbers[0]][1] if numbers else None

    def image(self, topic: str, number: int) -> Any:
        """The message of this number on its topic, with its pixels.

        Raises:
            BagError: the bag is damaged there.
        """
        _, light, receipt_ns = self._rows[self._numbers[topic][number]]
        stamp = messages.stamp_ns(light.header)
        found = None
        for _, message, _ in super().messages([topic], receipt_ns, receipt_ns + 1):
            found = message
            if messages.stamp_ns(message.header) == stamp:
                break
        if found is None:
            raise BagError(f"message {number} of {topic} in {self.path} cannot be found again: the bag has changed")
        return found


def _header_of(image: Any) -> SimpleNamespace:
    """What ``stfm_ros.images.is_depth`` and a clock need of an Image or CompressedImage."""
    if hasattr(image, "format"):
        return SimpleNamespace(header=image.header, format=image.format)
    return SimpleNamespace(header=image.header, encoding=image.encoding, width=image.width, height=image.height)
