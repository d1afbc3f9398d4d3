"""Messages in, verdicts out: which are kept, frame by frame, and why the others are not. No threads, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stfm_ros import messages
from stfm_ros.bag_types import typestore
from stfm_ros.bags import CAMERA_INFO_TYPE
from stfm_ros.recording.config import SelectionConfig
from stfm_ros.recording.encoding import view_of_depth, view_of_image
from stfm_ros.recording.pairing import Frame, Hint, Item, Pairing, Role
from stfm_ros.recording.selection import Selector, View


@dataclass(frozen=True)
class Verdict:
    """What becomes of a message: it is kept where there is no reason against it; the fault is that of an unreadable."""

    item: Item
    reason: str = ""
    fault: str = ""


class Chooser:
    """Decides on messages in the order in which they come.

    Args:
        config: what is kept.
        wants_depth: whether a depth topic is recorded.
    """

    def __init__(self, config: SelectionConfig, wants_depth: bool) -> None:
        self._choose = config.keep == "chosen"
        wants_word = self._choose and config.min_disagreement > 0
        self._pairing = Pairing(config.slop_s, config.wait_s, self._choose and wants_depth, wants_word)
        self._selector = Selector(config, wants_depth)
        self._focal = 1.0

    def hint(self, stamp_ns: int, hint: Hint) -> None:
        """What others know of the frame of this stamp. A disagreement holds for the frames after it too."""
        if not self._pairing.hint(stamp_ns, hint) and hint.disagreement is not None:
            self._selector.tell(hint.disagreement)

    def add(self, item: Item, type_name: str, role: Role) -> Verdict | None:
        """A message came; None where it waits for its frame."""
        if role is Role.ALWAYS:
            return Verdict(item)
        try:
            item = _decoded(item, type_name)
        except Exception as fault:  # bytes that are not of the type surface as any error of the parser
            return Verdict(item, "unreadable", str(fault))
        if type_name == CAMERA_INFO_TYPE and item.decoded.width:
            self._focal = float(np.ravel(item.decoded.k)[0]) / item.decoded.width
        if role is Role.IMAGE:
            self._pairing.image(item)
            return None
        kept = self._pairing.part(item, role)
        return None if kept is None else Verdict(item, "" if kept else "with_frame")

    def decide(self, now_s: float) -> Iterator[Verdict]:
        """What has waited long enough by the monotonic clock, or waits for nothing more."""
        for frame in self._pairing.ready(now_s):
            reason, fault = "", ""
            try:
                reason = self._reason(frame) if self._choose else ""
            except Exception as trouble:  # of an image that cannot be decoded, OpenCV raises what it likes
                reason, fault = "unreadable", str(trouble)
            self._pairing.decide(frame, not reason)
            yield Verdict(frame.image, reason, fault)
            for part in (frame.depth, *frame.others):
                if part is not None:
                    yield Verdict(part, "with_frame" if reason else "")
        for orphan in self._pairing.orphans(now_s):
            yield Verdict(orphan, "no_frame")

    def _reason(self, frame: Frame) -> str:
        if frame.hint.disagreement is not None:
            self._selector.tell(frame.hint.disagreement)
        if self._selector.is_too_soon(frame.image.stamp_ns):
            return "too_soon"
        depth = view_of_depth(frame.depth.decoded) if frame.depth else None
        gray = view_of_image(frame.image.decoded)
        return self._selector(View(frame.image.stamp_ns, gray, depth, frame.hint.pose, self._focal))


def _decoded(item: Item, type_name: str) -> Item:
    raw = isinstance(item.message, (bytes, bytearray, memoryview))
    decoded: Any = typestore().deserialize_cdr(item.message, type_name) if raw else item.message
    return replace(item, decoded=decoded, stamp_ns=messages.stamp_ns(decoded.header))
