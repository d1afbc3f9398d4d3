"""Pictures of matches: the two images side by side, a line from each keypoint to its match.

RGB uint8 throughout; keypoints are pixels of the images given, with centres at integers.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.images import to_rgb
from stfm_ros.types import BoolArray, ByteArray, Float32Array, Matches, PoseStatus, RelativePose

LINES = 150
INLIER = (45, 212, 160)
OUTLIER = (244, 63, 94)
BACKGROUND = (17, 20, 26)
TEXT = (232, 236, 241)
_GAP = 4
_SUBPIXEL = 4  # fractional bits of OpenCV's drawing coordinates


def draw_matches(
    image0: ByteArray,
    image1: ByteArray,
    matches: Matches,
    inliers: BoolArray | None = None,
    title: str = "",
    *,
    pose: RelativePose | None = None,
    width: int = 0,
    lines: int = LINES,
) -> ByteArray:
    """Reference on the left, current image on the right, a caption below.

    Args:
        image0, image1: (H, W, 3) or (H, W) uint8, RGB or grey; their sizes may differ.
        matches: of the two images.
        inliers: (n,) bool; lines are then green or red, else coloured by confidence.
        title: goes before the counts in the caption. Plain ASCII: the font has no more.
        pose: adds inliers (where none are given), status, turn and direction to the caption.
        width: of the picture, in pixels; 0 keeps the images' own size.
        lines: at most this many are drawn, spread over the image; the caption counts all matches.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: ``inliers`` is not one for each match.
    """
    image0, image1 = to_rgb(image0), to_rgb(image1)
    if inliers is None and pose is not None and len(pose.inliers) == len(matches):
        inliers = pose.inliers
    if inliers is not None and len(inliers) != len(matches):
        raise ValueError(f"{len(inliers)} inlier flags for {len(matches)} matches: expected one each")
    scale = max(width - _GAP, 2) / (image0.shape[1] + image1.shape[1]) if width else 1.0
    image0, image1 = _scaled(image0, scale), _scaled(image1, scale)
    left, right = image0.shape[1], image1.shape[1]
    height = max(image0.shape[0], image1.shape[0])
    canvas = np.empty((height, left + _GAP + right, 3), np.uint8)
    canvas[:] = BACKGROUND
    canvas[: image0.shape[0], :left] = image0
    canvas[: image1.shape[0], left + _GAP :] = image1
    shown = spread(matches, lines)
    points0 = _on_canvas(matches.keypoints0[shown], scale, 0)
    points1 = _on_canvas(matches.keypoints1[shown], scale, left + _GAP)
    colours = _colours(matches.confidence[shown], None if inliers is None else np.asarray(inliers, bool)[shown])
    drawn = canvas.copy()
    # outliers first, the confident last, on top
    for k in reversed(range(len(shown))):
        cv2.line(drawn, points0[k], points1[k], colours[k], 1, cv2.LINE_AA, _SUBPIXEL)
    canvas = np.asarray(cv2.addWeighted(drawn, 0.7, canvas, 0.3, 0), np.uint8)
    for k in reversed(range(len(shown))):
        for point in (points0[k], points1[k]):
            cv2.circle(canvas, point, 2 << _SUBPIXEL, colours[k], -1, cv2.LINE_AA, _SUBPIXEL)
    return np.vstack([canvas, _caption(canvas.shape[1], _words(matches, inliers, title, pose))])


def spread(matches: Matches, count: int) -> NDArray[np.int64]:
    """Indices of at most ``count`` matches, best first, taken from all parts of image 0 in turn.

    The best of each cell of a 12 x 12 grid come first, then the second best of each, and so on.
    """
    if len(matches) <= count:
        return np.arange(len(matches))
    points = matches.keypoints0
    low, high = points.min(0), points.max(0)
    cells = np.clip(12 * (points - low) / np.maximum(high - low, 1e-6), 0, 11).astype(np.int64)
    cell = cells[:, 1] * 12 + cells[:, 0]
    order = np.lexsort((-matches.confidence, cell))
    starts = np.nonzero(np.diff(cell[order], prepend=-1))[0]
    turn = np.empty(len(matches), np.int64)
    turn[order] = np.arange(len(matches)) - np.repeat(starts, np.diff(np.append(starts, len(matches))))
    chosen = np.lexsort((-matches.confidence, turn))[:count]
    return np.asarray(chosen[np.argsort(-matches.confidence[chosen], kind="stable")], np.int64)


def _scaled(image: ByteArray, scale: float) -> ByteArray:
    if scale == 1.0:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8
    )


def _on_canvas(points: Float32Array, scale: float, shift: int) -> list[tuple[int, int]]:
    """Fixed-point canvas coordinates; resizing keeps the corner of the corner pixel, not its centre."""
    moved = (points.astype(np.float64) + 0.5) * scale - 0.5 + [shift, 0]
    return [(int(x), int(y)) for x, y in np.rint(moved.reshape(-1, 2) * (1 << _SUBPIXEL))]


def _colours(confidence: Float32Array, inliers: BoolArray | None) -> list[tuple[int, int, int]]:
    if inliers is not None:
        return [INLIER if inlier else OUTLIER for inlier in inliers]
    if not len(confidence):
        return []
    values = np.rint(255 * np.clip(confidence, 0, 1)).astype(np.uint8)[:, None]
    table = cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)[:, 0]
    return [(int(r), int(g), int(b)) for r, g, b in table]


def _words(matches: Matches, inliers: BoolArray | None, title: str, pose: RelativePose | None) -> list[str]:
    words = [title] if title else []
    count = f"{len(matches)} matches" if len(matches) else "no matches"
    words.append(count if inliers is None else f"{count}, {int(np.count_nonzero(inliers))} inliers")
    if inliers is None and len(matches):
        words.append(f"confidence {matches.confidence.min():.2f}..{matches.confidence.max():.2f}")
    if pose is not None:
        words.append(pose_words(pose))
    return words


def pose_words(pose: RelativePose) -> str:
    """Status, turn and direction of a pose in ASCII, e.g. ``OK: turn 3.1 deg, t (0.98 0.05 -0.21)``."""
    status = PoseStatus(pose.status)
    if not status.has_rotation:
        return status.name
    turn = np.degrees(np.arccos(np.clip((np.trace(pose.R) - 1) / 2, -1, 1)))
    words = f"{status.name}: turn {turn:.1f} deg"
    if status.has_translation:
        t = pose.camera1_in_camera0[1]
        words += f", t ({t[0]:.2f} {t[1]:.2f} {t[2]:.2f}){' m' if pose.metric else ''}"
    return words


def _caption(width: int, words: list[str]) -> ByteArray:
    """A strip with as many lines as the words need."""
    size = float(np.clip(width / 1900, 0.38, 0.6))
    font, pad = cv2.FONT_HERSHEY_SIMPLEX, 8
    lines, line = [], ""
    for word in words:
        longer = f"{line}   {word}" if line else word
        if line and cv2.getTextSize(longer, font, size, 1)[0][0] > width - 2 * pad:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    step = round(34 * size) + 6
    strip = np.empty((step * len(lines) + pad, width, 3), np.uint8)
    strip[:] = BACKGROUND
    for k, text in enumerate(lines):
        text = text.encode("ascii", "replace").decode()
        cv2.putText(strip, text, (pad, step * (k + 1) - round(8 * size)), font, size, TEXT, 1, cv2.LINE_AA)
    return strip
