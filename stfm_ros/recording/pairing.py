"""Messages to frames: an image and, by their stamps, the depth and the other messages that belong to it.

Images are decided on in the order in which they came; what belongs to one shares its fate, also when it comes later.
Time is the monotonic clock of the moment when a message was taken, so a jump of the robot's clock holds nothing up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from stfm_ros.types import FloatArray


class Role(Enum):
    """What a topic is to a recording."""

    IMAGE = "image"  #: each message is a frame
    DEPTH = "depth"  #: the depth of a frame
    WITH_FRAME = "with_frame"  #: belongs to a frame by its stamp: camera_info, results for that image
    ALWAYS = "always"  #: is always written: poses, odometry, transforms


@dataclass(frozen=True, eq=False)
class Item:
    """A message that was taken.

    Attributes:
        message: CDR bytes, or an object with the fields of the type.
        decoded: an object with the fields of the type; None where it was not needed.
        stamp_ns: of its header; 0 where it was not needed.
        taken_s: monotonic clock.
        size: bytes, about.
    """

    topic: str
    message: Any
    receipt_ns: int
    taken_s: float
    size: int
    decoded: Any = None
    stamp_ns: int = 0


@dataclass(frozen=True)
class Hint:
    """What others know of a frame; see :class:`stfm_ros.recording.selection.View`."""

    pose: FloatArray | None = None
    disagreement: float | None = None

    def with_that(self, other: Hint) -> Hint:
        """Both; what ``other`` knows goes before."""
        known = {name: value for name, value in vars(other).items() if value is not None}
        return replace(self, **known)


@dataclass
class Frame:
    """An image that is not decided on yet, and what came for it."""

    image: Item
    depth: Item | None = None
    others: list[Item] = field(default_factory=list)
    hint: Hint = field(default_factory=Hint)


class Pairing:
    """Frames that wait.

    Args:
        slop_s: largest difference of stamps within a frame.
        wait_s: how long a frame waits for what it lacks.
        wants_depth, wants_disagreement: what it waits for.
    """

    def __init__(self, slop_s: float, wait_s: float, wants_depth: bool, wants_disagreement: bool) -> None:
        self._slop_ns = int(slop_s * 1e9)
        self._wait_s = wait_s
        self._wants_depth = wants_depth
        self._wants_disagreement = wants_disagreement
        self._frames: deque[Frame] = deque()
        self._loose: list[tuple[Item, Role]] = []
        self._hints: dict[int, Hint] = {}
        self._decided: deque[tuple[int, bool]] = deque(maxlen=300)

    def image(self, item: Item) -> None:
        """A new frame; takes what came before it."""
        frame = Frame(item, hint=self._hints.pop(item.stamp_ns, Hint()))
        self._frames.append(frame)
        for part, role in self._loose.copy():
            if abs(part.stamp_ns - item.stamp_ns) <= self._slop_ns and _attach(frame, part, role):
                self._loose.remove((part, role))

    def part(self, item: Item, role: Role) -> bool | None:
        """What belongs to a frame: whether that was kept, or None where the item now waits."""
        near = [frame for frame in self._frames if abs(frame.image.stamp_ns - item.stamp_ns) <= self._slop_ns]
        for frame in sorted(near, key=lambda frame: abs(frame.image.stamp_ns - item.stamp_ns)):
            if _attach(frame, item, role):
                return None
        past = [(abs(stamp - item.stamp_ns), kept) for stamp, kept in self._decided]
        distance, kept = min(past, default=(self._slop_ns + 1, False))
        if distance <= self._slop_ns:
            return kept
        self._loose.append((item, role))
        return None

    def hint(self, stamp_ns: int, hint: Hint) -> bool:
        """Something about the frame of that very stamp; False where it is decided already."""
        for frame in self._frames:
            if frame.image.stamp_ns == stamp_ns:
                frame.hint = frame.hint.with_that(hint)
                return True
        if any(stamp == stamp_ns for stamp, _ in self._decided):
            return False
        self._hints[stamp_ns] = self._hints.get(stamp_ns, Hint()).with_that(hint)
        if len(self._hints) > 100:  # of images that never came
            del self._hints[next(iter(self._hints))]
        return True

    def ready(self, now_s: float) -> Iterator[Frame]:
        """The frames that lack nothing or have waited long enough, in the order of their images.

        Call :meth:`decide` with each before the next is asked for.
        """
        while self._frames:
            frame = self._frames[0]
            lacks_depth = self._wants_depth and frame.depth is None
            lacks_word = self._wants_disagreement and frame.hint.disagreement is None
            if (lacks_depth or lacks_word) and now_s - frame.image.taken_s < self._wait_s:
                return
            yield self._frames.popleft()

    def decide(self, frame: Frame, kept: bool) -> None:
        """Remember what became of a frame."""
        self._decided.append((frame.image.stamp_ns, kept))

    def orphans(self, now_s: float) -> list[Item]:
        """What no image came for in time; it is forgotten."""
        late = [(item, role) for item, role in self._loose if now_s - item.taken_s >= self._wait_s]
        self._loose = [pair for pair in self._loose if pair not in late]
        return [item for item, _ in late]


def _attach(frame: Frame, item: Item, role: Role) -> bool:
    """Give an item to a frame; a frame has one depth, and one message of each other topic."""
    if role is Role.DEPTH:
        if frame.depth is not None:
            return False
        frame.depth = item
        return True
    if any(other.topic == item.topic for other in frame.others):
        return False
    frame.others.append(item)
    return True
