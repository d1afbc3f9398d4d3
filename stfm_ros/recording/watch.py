"""What was odd about the input of a recording: topics that fell silent, and jumps of the robot's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: a step of the clock against the monotonic one that is called a jump, seconds
JUMP_S: Final = 0.5
#: more jumps than these are not noted one by one
MOST_JUMPS: Final = 100


@dataclass(frozen=True)
class Silence:
    """A time without a message of a topic; ``ended`` says whether one came after it."""

    topic: str
    begin_ns: int  #: receipt of the message before it, 0 where none came ever
    seconds: float
    ended: bool


@dataclass(frozen=True)
class Jump:
    """The times of receipt went on by ``seconds`` more, or less, than the monotonic clock."""

    topic: str
    receipt_ns: int
    seconds: float


class InputNotes:
    """Watches messages as they are taken.

    Args:
        silence_s: what is called a silence.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._last: dict[str, tuple[float, int]] = {}  # monotonic clock and receipt of each topic's last message
        self._offset_s: float | None = None
        self._silences: list[Silence] = []
        self.jumps: list[Jump] = []

    def expect(self, topic: str, now_s: float) -> None:
        """From now on the topic is watched."""
        self._last[topic] = (now_s, 0)

    def message(self, topic: str, receipt_ns: int, taken_s: float) -> None:
        """A message came."""
        last_s, last_ns = self._last[topic]
        if taken_s - last_s >= self._silence_s:
            self._silences.append(Silence(topic, last_ns, round(taken_s - last_s, 3), ended=True))
        self._last[topic] = (taken_s, receipt_ns)
        offset_s = receipt_ns / 1e9 - taken_s
        step_s = 0.0 if self._offset_s is None else offset_s - self._offset_s
        if abs(step_s) >= JUMP_S and len(self.jumps) < MOST_JUMPS:
            self.jumps.append(Jump(topic, receipt_ns, round(step_s, 3)))
        self._offset_s = offset_s

    def silent(self, now_s: float) -> list[str]:
        """The topics that are silent now."""
        return [topic for topic, (last_s, _) in self._last.copy().items() if now_s - last_s >= self._silence_s]

    def silences(self, now_s: float) -> list[Silence]:
        """All silences, those that last among them."""
        lasting = [(topic, *self._last[topic]) for topic in self.silent(now_s)]
        return self._silences + [
            Silence(topic, last_ns, round(now_s - last_s, 3), ended=False) for topic, last_s, last_ns in lasting
        ]
