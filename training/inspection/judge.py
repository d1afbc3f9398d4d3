"""What the figures of an inspection mean: the one place of its limits.

Limits of alignment, lag, scale and blur were chosen on hololens_office and tum_fr1_rpy, and are measured on others
(docs/inspect.md). Lengths in pixels are of an image 640 wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from stfm_training.inspection.problem import ERROR, NOTE, WARNING, Problem
from stfm_training.inspection.samples import medians
from stfm_training.recordings.frames import LEAST_DEPTH, PLAUSIBLE_M
from stfm_training.recordings.pairs import LEAST_BELIEVED

if TYPE_CHECKING:
    from stfm_training.inspection.inspection import Inspection
    from stfm_training.recordings.config import RecordingConfig

#: the agreement of edges at the best displacement over that elsewhere: below, depth is of something else
BELONGS = 1.25
#: a displacement worth a warning, and one that ruins a match of 8 px cells
SLIGHT_PX, MISALIGNED_PX = 4.0, 8.0
#: a displacement is believed where this share of the agreement that stands out is lost in place, in so many frames
LOST_IN_PLACE, LEAST_FRAMES = 0.15, 3
#: a lag in frames, its certainty in standard errors, and the gain in agreement that make one believe it
LEAST_LAG, CERTAIN, GAIN = 0.5, 3.0, 1.05
#: a factor between depth and poses beyond which both quartiles must lie, and factors that drivers are known for
WRONG_SCALE = 1.25
KNOWN_FACTORS = (0.2, 1e-3, 1e3, 5.0, 1e-1, 10.0, 1e-4, 0.5, 2.0)
#: pairs of which the poses' angle differs, and of whose axes differ, by more than this in degrees
ANGLE_DEG, TURN_DEG = 2.0, 4.0
#: share of images that have depth, and of pixels that do
FEW_PAIRED, FEWEST_PAIRED = 0.8, 0.1
LITTLE_DEPTH = 0.3
#: no-reference blur: worse than this is soft, in the median or in single frames
SOFT, BLURRED = 0.55, 0.7
#: grey values
DARK_MEAN, BRIGHT_MEAN, FLAT_SPAN, CLIPPED, FLICKER = 30.0, 225.0, 40.0, 0.2, 0.1
#: motion of the image between frames, in shares of its width
STILL, FAST = 0.001, 0.1
#: stamps
LATE_MS, APART_MS, DROPPED = 1000.0, 20.0, 0.02
#: field of view of a lens that K describes, degrees; how far the principal point is from the middle, in shares
VIEW_DEG, OFF_CENTRE, UNEQUAL = (15.0, 150.0), 0.2, 0.1
#: pairs that make training worth it, and those without which it is not begun
ENOUGH_PAIRS, FEWEST_PAIRS = 100, 10


def judge(inspection: Inspection, config: RecordingConfig) -> list[Problem]:
    """Everything that the figures say is wrong, in any order."""
    found: list[Problem] = []
    for rule in _RULES:
        found += rule(inspection, config)
    return found


def _clock(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    for topic in one.topics:
        if not topic.role:
            continue
        if topic.backwards:
            yield Problem(
                WARNING,
                "clock",
                f"{topic.backwards} of {topic.count} stamps of {topic.name} are not later than the one before",
                "stamps that grow",
                "find out which clock jumps; cut the bag there",
            )
        if topic.gaps > DROPPED * topic.count:
            yield Problem(
                WARNING,
                "clock",
                f"{topic.gaps} gaps on {topic.name}, the longest {topic.longest_gap_s:.2f} s at {topic.rate_hz:.1f} Hz",
                "no dropped messages",
                "record to a faster disk, compress the images, or raise the QoS depth",
            )
        if abs(topic.delay_ms) > LATE_MS:
            yield Problem(
                NOTE,
                "clock",
                f"{topic.name} is received {topic.delay_ms / 1e3:.1f} s after its stamp",
                f"less than {LATE_MS / 1e3:g} s",
                "stamp with the clock of the recording machine (PTP, chrony), or live nodes will call the images stale",
            )
    delays = {topic.role: topic.delay_ms for topic in one.topics if topic.role in ("image", "depth")}
    apart = delays.get("depth", np.nan) - delays.get("image", np.nan)
    if abs(apart) > APART_MS:
        yield Problem(
            WARNING,
            "clock",
            f"from stamp to receipt depth takes {abs(apart):.0f} ms {'more' if apart > 0 else 'less'} than the image",
            f"a difference below {APART_MS:g} ms",
            "check that both are stamped at exposure, by one clock; see lag",
        )


def _sync(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    depth = one.sync.get("depth")
    if depth is not None and depth.paired < FEW_PAIRED:
        yield Problem(
            ERROR if depth.paired < FEWEST_PAIRED else WARNING,
            "sync",
            f"{depth.paired:.0%} of the images have depth within {config.tolerance_s * 1e3:g} ms (median distance "
            f"{depth.median_ms:.1f} ms, 95 % {depth.p95_ms:.1f} ms)",
            f"{FEW_PAIRED:.0%} or more",
            "let the driver synchronise both (enable_sync), record both at one rate, or allow a larger "
            "--recording.tolerance_s",
        )
    unposed = one.selection.counts.get("without_pose", 0)
    if unposed > (1 - FEW_PAIRED) * max(one.selection.counts.get("images", 0), 1):
        yield Problem(
            WARNING,
            "sync",
            f"{unposed} images have no pose at their stamp",
            "poses around every image",
            "record the poses from before the first image to after the last, at 2 Hz or more",
        )


def _calibration(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    camera = one.selection.camera
    if camera is None:
        if one.selection.topics.get("image") and not one.selection.topics.get("camera_info"):
            yield Problem(
                ERROR,
                "calibration",
                "no camera_info",
                "a CameraInfo beside the images",
                "record it; calibrate with camera_calibration",
            )
        return
    sizes = {(frame.width, frame.height) for frame in one.samples.frames}
    if sizes - {(camera.width, camera.height)}:
        yield Problem(
            ERROR,
            "calibration",
            f"camera_info is of {camera.width}x{camera.height}, images are "
            f"{' and '.join(f'{w}x{h}' for w, h in sorted(sizes))}",
            "one size",
            "name the camera_info of this image: --recording.camera_info_topic",
        )
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    view = float(np.degrees(2 * np.arctan(camera.width / 2 / fx)))
    if not VIEW_DEG[0] <= view <= VIEW_DEG[1] and camera.distortion_model != "equidistant":
        yield Problem(
            ERROR,
            "calibration",
            f"fx {fx:.1f} px sees {view:.0f} degrees across {camera.width} px",
            f"{VIEW_DEG[0]:g} to {VIEW_DEG[1]:g} degrees",
            "check K: it is of another size, or in other units",
        )
    off = max(abs(cx / camera.width - 0.5), abs(cy / camera.height - 0.5))
    if off > OFF_CENTRE or abs(fx / fy - 1) > UNEQUAL:
        yield Problem(
            WARNING,
            "calibration",
            f"fx {fx:.1f}, fy {fy:.1f}, centre {cx:.1f}, {cy:.1f} of {camera.width}x{camera.height}",
            f"fx and fy within {UNEQUAL:.0%}, the centre within {OFF_CENTRE:.0%} of the middle",
            "check K: it may be of another size, crop or camera",
        )


def _depth(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    depths = [frame.depth for frame in one.samples.frames if frame.depth]
    if not depths:
        if not one.selection.topics.get("depth") and not any(p.check == "depth" for p in one.problems):
            yield Problem(
                NOTE,
                "depth",
                "no depth",
                "depth registered to the image",
                "without it the bag cannot be distilled "
                "on; its images can still be matched (stfm run) or serve as photographs of the homographies",
            )
        return
    first, image = depths[0], one.samples.frames[0]
    if abs(first.width * image.height / (first.height * image.width) - 1) > 0.01:
        yield Problem(
            ERROR,
            "alignment",
            f"depth is {first.width}x{first.height}, the image {image.width}x{image.height}",
            "one aspect ratio, as registered depth has",
            "record the aligned depth (aligned_depth_to_color, depth_image_proc/register)",
        )
    valid = float(np.median([depth.valid for depth in depths]))
    if valid < LITTLE_DEPTH:
        yield Problem(
            ERROR if valid < LEAST_DEPTH else WARNING,
            "depth",
            f"{valid:.1%} of the pixels have depth, in the median",
            f"{LITTLE_DEPTH:.0%} or more",
            "check the sensor's range, its emitter, and sunlight",
        )
    _, median, _ = medians([depth.median_m for depth in depths])
    low, high = PLAUSIBLE_M
    if np.isfinite(median) and not low <= median <= high:
        factor = config.depth_factor * (1e-3 if median > high else 1e3)
        yield Problem(
            ERROR,
            "unit",
            f"the median depth is {median:.3g} m",
            f"{low:g} to {high:g} m; REP-118: 16UC1 holds millimetres, 32FC1 metres",
            f"fix the driver, or set --recording.depth_factor {factor:g}",
        )


def _alignment(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    edges, frames = one.alignment, one.samples.frames
    if edges is None or edges.frames < LEAST_FRAMES:
        if one.samples.depths:
            yield Problem(
                NOTE,
                "alignment",
                "depth has too few edges to tell",
                "objects at different distances",
                "record something other than a wall to have it checked",
            )
        return
    if _late(one):
        return  # a displacement that changes with the motion; _lag tells it
    to_640 = 640 / frames[0].width
    distance = edges.distance_px * to_640
    if edges.best < BELONGS * edges.elsewhere:
        yield Problem(
            ERROR,
            "alignment",
            f"edges of depth never agree with edges of the image (agreement {edges.best:.2f} at "
            f"best, {edges.elsewhere:.2f} elsewhere)",
            f"{BELONGS:g} times as much at one displacement",
            "check that depth and image are of one camera, of one time, and not mirrored or swapped by a remap; record "
            "depth registered to this image",
        )
    elif distance > SLIGHT_PX and edges.lost_in_place > LOST_IN_PLACE:
        x, y = edges.offset_px
        yield Problem(
            ERROR if distance > MISALIGNED_PX else WARNING,
            "alignment",
            f"depth lies {x:+.1f}, {y:+.1f} px off the "
            f"image (agreement {edges.best:.2f} there, {edges.here:.2f} in place)",
            f"less than {SLIGHT_PX / to_640:.1f} px",
            "calibrate the pair anew, or record the depth that the driver registers to this image at this size",
        )


def _late(one: Inspection) -> bool:
    """Whether depth is certainly of another time than its image."""
    lag = one.lag
    return lag is not None and abs(lag.frames) >= LEAST_LAG and lag.certainty > CERTAIN and lag.best > GAIN * lag.here


def _lag(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    lag = one.lag
    if lag is not None and _late(one):
        steps = [frame.step_s for frame in one.samples.frames if np.isfinite(frame.step_s)]
        ms = 1e3 * lag.frames * float(np.median(steps))
        yield Problem(
            ERROR,
            "lag",
            f"depth is of {abs(lag.frames):g} frames {'later' if lag.frames > 0 else 'earlier'}, "
            f"{ms:+.0f} ms (agreement {lag.best:.2f} there, {lag.here:.2f} in place)",
            "depth of the image's own time",
            "stamp both at exposure, by one clock; let the driver synchronise them",
        )


def _poses(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    check = one.pose_check
    if check is None or _late(one):  # depth of another time agrees with no motion
        return
    if check.scale_low > WRONG_SCALE or check.scale_high < 1 / WRONG_SCALE:
        wanted = config.depth_factor / check.scale
        known = [factor for factor in KNOWN_FACTORS if 1 / WRONG_SCALE < factor / wanted < WRONG_SCALE]
        yield Problem(
            ERROR,
            "unit",
            f"depth makes the camera move {check.scale:.3g} times as far as "
            f"{one.selection.topics['poses'] or 'tf'} says ({check.scale_low:.3g} to {check.scale_high:.3g})",
            "the same length",
            f"set --recording.depth_factor {known[0] if known else wanted:.3g} if the poses are in metres, else fix "
            "their unit",
        )
    elif check.moving < 3:
        yield Problem(
            NOTE,
            "unit",
            f"depth and the lengths of the poses were not compared: of {check.tried} pairs of frames {check.estimated} "
            f"have enough matches, and {check.moving} of them move",
            "three pairs that move",
            "walk sideways past textured things while recording to have it checked",
        )
    if check.angle_deg > ANGLE_DEG:
        yield Problem(
            WARNING,
            "poses",
            f"poses turn {check.angle_deg:.1f} degrees more or less than the images, in the median",
            f"{ANGLE_DEG:g} degrees or less",
            "check the stamps of the poses and that they are not smoothed; or let "
            "them be estimated: --recording.poses estimate",
        )
    elif check.turn_deg > TURN_DEG:
        yield Problem(
            ERROR,
            "poses",
            f"poses turn as much as the images but about other axes ({check.turn_deg:.1f} degrees apart)",
            "poses of the camera's optical frame (z forward)",
            "name the body they are of (--recording.pose_frame) and record /tf_static",
        )


def _pictures(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    frames = one.samples.frames
    if not frames:
        return
    _, soft, worst = medians([frame.blur for frame in frames])
    if soft > SOFT:
        yield Problem(
            ERROR if soft > BLURRED else WARNING,
            "blur",
            f"images are soft: blur {soft:.2f} in the median",
            f"below {SOFT:g}",
            "clean and focus the lens, shorten the exposure, compress less",
        )
    elif worst > BLURRED:
        share = float(np.mean([frame.blur > BLURRED for frame in frames]))
        yield Problem(
            WARNING,
            "blur",
            f"{share:.0%} of the images are blurred (blur above {BLURRED:g})",
            "few of them",
            "move slower, or shorten the exposure",
        )
    mean, span = (float(np.median([getattr(frame.exposure, name) for frame in frames])) for name in ("mean", "span"))
    clipped = float(np.median([max(frame.exposure.dark, frame.exposure.bright) for frame in frames]))
    if mean < DARK_MEAN or mean > BRIGHT_MEAN or span < FLAT_SPAN or clipped > CLIPPED:
        yield Problem(
            WARNING,
            "exposure",
            f"mean grey value {mean:.0f}, span {span:.0f}, {clipped:.0%} black or white",
            f"{DARK_MEAN:g} to {BRIGHT_MEAN:g}, {FLAT_SPAN:g} or more, {CLIPPED:.0%} or less",
            "add light, or let the camera choose its exposure",
        )
    steps = [abs(one.following_mean / max(one.exposure.mean, 1.0) - 1) for one in frames]
    flicker = medians(steps)[1]
    if flicker > FLICKER:
        yield Problem(
            WARNING,
            "exposure",
            f"brightness changes by {flicker:.0%} from image to image",
            f"less than {FLICKER:.0%}",
            "set the anti-flicker of the camera to the mains' 50 or 60 Hz, or fix the exposure",
        )
    for reason, count in one.samples.faults.items():
        yield Problem(
            WARNING,
            "bag",
            f"{count} of {len(frames) + sum(one.samples.faults.values())} frames cannot be used: {reason}",
            "images that can be decoded",
            "record again, or see whether the bag is damaged",
        )


def _motion(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    frames = one.samples.frames
    if len(frames) < 2:
        return
    flow = medians([frame.flow_px / frame.width for frame in frames])[1]
    if flow < STILL:
        yield Problem(
            WARNING,
            "motion",
            f"the image moves {flow * frames[0].width:.2f} px from frame to frame, in the median",
            "a camera that moves",
            "walk through the place and come back to it from elsewhere",
        )
    elif flow > FAST:
        yield Problem(
            NOTE,
            "motion",
            f"the image moves {flow:.0%} of its width from frame to frame, in the median",
            f"less than {FAST:.0%}",
            "move slower, or record at a higher rate",
        )


def _pairs(one: Inspection, config: RecordingConfig) -> Iterator[Problem]:
    pairs = one.outlook
    if pairs is None:
        return
    if pairs.by == "poses" and pairs.agreeing < LEAST_BELIEVED and not _late(one):
        yield Problem(
            ERROR,
            "poses",
            f"depth agrees with the poses in {pairs.agreeing:.0%} of {pairs.looked_at} pairs",
            f"{LEAST_BELIEVED:.0%}, or the distillation refuses them",
            "see unit, alignment and lag; poses must be of "
            "the camera, in metres and of one clock with the images; or --recording.poses estimate",
        )
    elif pairs.pairs < ENOUGH_PAIRS:
        yield Problem(
            ERROR if pairs.pairs < FEWEST_PAIRS else WARNING,
            "pairs",
            f"about {pairs.pairs} training pairs",
            f"{ENOUGH_PAIRS} or more",
            "record longer, and see the same things from several places",
        )


_RULES: tuple[Callable[[Inspection, RecordingConfig], Iterator[Problem]], ...] = (
    _clock,
    _sync,
    _calibration,
    _depth,
    _alignment,
    _lag,
    _poses,
    _pictures,
    _motion,
    _pairs,
)
