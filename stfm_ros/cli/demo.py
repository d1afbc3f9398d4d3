"""``stfm demo``: a recording, played by one process into the real node in another, over DDS (``stfm_ros.demo``)."""

from __future__ import annotations

import argparse
from pathlib import Path

from stfm_ros.cli.command import Command, Outcome, Screen
from stfm_ros.cli.options import add_settings, given_settings, read_config


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("stfm_demo"), metavar="FOLDER", help="default: stfm_demo")
    parser.add_argument("--bag", type=Path, metavar="BAG", help="another recording than the one in the package")
    parser.add_argument("--rate", type=float, default=3.0, metavar="HZ", help="frames a second (default 3)")
    add_settings(parser, "matcher", "pose", "tracker")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.demo import run_demo

    read_config(options)  # faults are told before a process starts
    with screen.progress("playing") as step:
        result = run_demo(
            options.out, options.bag, options.rate, parameters=given_settings(options), progress=step
        )  # fmt: skip
    screen.show(result.table())
    for paths in result.files.values():
        for path in paths:
            screen.show(f"wrote {path}")
    return Outcome(result.to_dict(), negative=not result.ok)


COMMAND = Command(
    name="demo",
    summary="play a recording into the real node over DDS and judge its answers",
    description=(
        "A recording (a rendered room with its true poses, in the package) is played by one process into the matcher "
        "node in another, over DDS. Written are pictures of matches, an HTML report and the numbers. Needs ROS 2 and "
        "the package's messages: `stfm info` says whether they are there."
    ),
    example="stfm demo --out demo",
    negative="no pose came out",
    fields={
        "sent": "images that were published",
        "received": "images that came in at the node",
        "dropped": "of these, those that made way for a newer one",
        "failed": "of these, those that gave nothing",
        "matched": "images with at least one match",
        "posed": "images whose relative pose has a rotation",
        "rotation_deg": "median and p95 of the error of the rotation, degrees",
        "direction_deg": "median and p95 of the angle between estimated and true translation, degrees",
        "latency_ms": "median and p95 by stage, ms",
        "statuses": "images by the status of their relative pose",
        "about": "model, weights and runtime of the node",
        "files": "what was written, by kind",
        "ok": "whether any pose came out",
    },
    arguments=arguments,
    execute=execute,
)
