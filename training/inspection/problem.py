"""Something that a person should know of a bag before training on it."""

from __future__ import annotations

from dataclasses import dataclass

#: training on the bag would be useless or refused; it would be worse than it could be; worth knowing
ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Problem:
    """A finding: what was seen, what was expected, and what to do.

    Attributes:
        severity: one of :data:`SEVERITIES`.
        check: what was looked at: topics, clock, sync, poses, calibration, depth, unit, alignment, lag, blur, exposure,
            motion, pairs, bag.
    """

    severity: str
    check: str
    value: str
    expected: str
    next_step: str

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return SEVERITIES.index(self.severity)

    def __str__(self) -> str:
        return f"{self.severity}, {self.check}: {self.value}; expected {self.expected}; {self.next_step}"
