"""``stfm inspect``: what is in a bag, and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stfm_ros.cli.command import Command, Outcome, Screen, table
from stfm_ros.cli.options import add_setting, at_least, given_options
from stfm_ros.config import Setting, from_mapping, settings
from stfm_ros.errors import TrainingNotAvailable

if TYPE_CHECKING:
    from stfm_training.inspection import Inspection
    from stfm_training.recordings.estimate import Match

_RECORDING = "recording."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="rosbag2 folder, or .mcap, .db3 or .bag file")
    parser.add_argument("--report", type=Path, metavar="FILE", help="HTML page to write: findings, pictures and plots")
    parser.add_argument(
        "--frames", type=at_least(2), default=48, metavar="N", help="decoded of each bag, evenly spread (default 48)"
    )
    found = _recording_settings()
    if found:
        group = parser.add_argument_group("how bags are read", "as by stfm distill; for every bag alike")
        for setting in found:
            add_setting(group, setting)


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    try:
        from stfm_training.inspection import inspect_bag, to_record
        from stfm_training.recordings.config import RecordingConfig
    except ImportError as fault:
        raise TrainingNotAvailable(
            f"a bag is inspected by the rules of the training, which cannot be imported here ({fault}): install the "
            "whole package"
        ) from fault
    given = given_options(options, _recording_settings())
    config = from_mapping(RecordingConfig, {name.removeprefix(_RECORDING): value for name, value in given.items()})
    inspections = []
    for bag in options.bags:
        with screen.stages() as progress:
            inspections.append(inspect_bag(bag, config, options.frames, _student, progress))
        _show(screen, inspections[-1])
    if options.report:
        from stfm_training.inspection.page import write_page

        options.report.parent.mkdir(parents=True, exist_ok=True)
        write_page(options.report, inspections)
        screen.show(f"wrote {options.report}")
    usable = all(one.usable for one in inspections)
    record = {"usable": usable, "bags": [to_record(one) for one in inspections], "report": options.report}
    return Outcome(record, negative=not usable)


def _student() -> Match:
    """What estimates motions where no poses are recorded: as in the distillation."""
    from stfm_ros.matcher import Matcher

    return Matcher.from_pretrained().match


def _show(screen: Screen, one: Inspection) -> None:
    from stfm_training.inspection.tables import TOPIC_COLUMNS, facts, topic_rows

    screen.show(f"{one.path}: {one.duration_s:.1f} s, {len(one.samples.frames)} frames looked at")
    topics = table(*TOPIC_COLUMNS)
    for row in topic_rows(one):
        topics.add_row(*row)
    screen.show(topics)
    found = table("check", "", numbers=False)
    for name, value in facts(one):
        found.add_row(name, value)
    screen.show(found)
    for problem in one.problems:
        screen.show(f"{problem.severity.upper()} {problem.check}: {problem.value}")
        screen.show(f"    expected: {problem.expected}")
        screen.show(f"    next step: {problem.next_step}")
    screen.show("worth training on" if one.usable else "not worth training on as it is")


def _recording_settings() -> list[Setting]:
    """Empty where the training is not installed."""
    try:
        from stfm_training.recordings.config import RecordingConfig
    except ImportError:
        return []
    return list(settings(RecordingConfig, _RECORDING))


def _fields() -> dict[str, Any]:
    bag = {
        "bag": "what was read",
        "usable": "whether no problem is an error",
        "problems[]": "the worst first: severity (error, warning, note), check, value, expected, next_step",
        "duration_s": "from the first message to the last",
        "topics[]": "name, type, count, role (what it is taken as), why, rate_hz, jitter_ms (95 % of the intervals "
        "stay within it), gaps (intervals of more than 2.5 times the usual one), longest_gap_s, backwards (stamps not "
        "later than the one before), delay_ms (receipt minus stamp), delay_spread_ms (5 % to 95 %), megabytes, "
        "frame_id",
        "taken": "topic, or null, by role: image, depth, camera_info, poses",
        "poses_from": "in words; null where nothing tells",
        "counts": "images, and those that are left out by reason",
        "sync": "by role, stamps against those of the images: paired (share within recording.tolerance_s), median_ms, "
        "p95_ms, offset_ms (median, signed)",
        "camera": "width, height, K, distortion_model, D, R, P; or null",
        "frames[]": "those looked at: second, blur (0 sharp, 1 nothing but blur), mean, span, dark, bright (grey "
        "values, and shares that are black or white), flow_px (motion to the next image), depth_valid, depth_m",
        "undecodable": "frames that could not be used, by reason",
        "depth": "medians over the frames: valid (share of the pixels), low_m (5 %), median_m, high_m (95 %); or null",
        "alignment": "null, or of all frames: frames, offset_px (of the depth relative to the image), here, best, "
        "elsewhere (agreement of edges in place, displaced, and anywhere), contrast, agreeing",
        "lag": "null, or: frames (positive: the depth is later than its image), best, here, certainty, flow_px",
        "poses": "null, or: tried, estimated, moving (pairs), scale (motion by depth over motion by the poses), "
        "scale_low, scale_high (its quartiles), angle_deg, turn_deg",
        "pairs": "null, or: by (poses or matches), looked_at, agreeing, pairs (expected for training), "
        "overlap_histogram (tenths)",
    }
    return {
        "usable": "whether all bags are worth training on",
        "bags[]": "one object for each bag:",
        **{f"bags[].{name}": about for name, about in bag.items()},
        "report": "what --report wrote, or null",
    }


COMMAND = Command(
    name="inspect",
    summary="what is in a bag, and what is wrong with it, before training",
    description=(
        "Look at recorded bags before training on them: topics, rates and gaps; stamps of depth, calibration and poses "
        "against the images; unit and coverage of depth; whether its edges lie on those of the image, and by how much "
        "they are displaced or late; whether poses and depth tell one motion; blur, exposure and motion; and how many "
        "training pairs the distillation would make of it. Every problem comes with what was expected and what to do. "
        "A few frames are decoded; docs/inspect.md says what is found and what is not."
    ),
    example="stfm inspect office.mcap --report office.html",
    negative="a bag has a problem that makes training on it useless",
    fields=_fields(),
    arguments=arguments,
    execute=execute,
)
