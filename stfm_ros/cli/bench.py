"""``stfm bench``: how long each stage takes here, beside SIFT and ORB (``stfm_ros.benchmark``)."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stfm_ros.cli.command import Command, Outcome, Screen, table
from stfm_ros.cli.options import MACHINE_FIELDS, at_least, image_size


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="default", metavar="NAME", help="a shipped name or an exported folder (default: default)"
    )
    parser.add_argument(
        "--runtimes", default="auto", metavar="LIST", help="e.g. openvino,torch; all for those that can be had"
    )
    parser.add_argument(
        "--threads", default="0", metavar="LIST", help="e.g. 1,2,4; 0 leaves it to the runtime (default)"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        action="append",
        metavar="WxH",
        help="of the pictures given; may be repeated (640x480)",
    )
    parser.add_argument("--images", type=Path, nargs=2, metavar=("A", "B"), help="two pictures instead of the demo's")
    parser.add_argument("--repeat", type=at_least(2), default=20, metavar="N", help="timed runs a stage (default 20)")
    parser.add_argument(
        "--warm-up", type=at_least(0), default=3, metavar="N", help="runs before, not timed (default 3)"
    )


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros import benchmark, machine

    names = benchmark.runtime_names(options.runtimes)
    threads = benchmark.thread_counts(options.threads)
    sizes = options.size or [(640, 480)]
    pair = benchmark.picture_pair(options.images)
    cases: list[benchmark.Case] = []
    plan = benchmark.plan(names, threads, sizes)
    with screen.progress("measuring") as step:
        for done, item in enumerate(plan, 1):
            cases += benchmark.measure(item, options.model, pair, options.repeat, options.warm_up)
            step(done, len(plan))
    record: dict[str, Any] = {
        "machine": machine.about_machine(),
        "versions": machine.versions(),
        "pictures": pair.names,
        "repeat": options.repeat,
        "warm_up": options.warm_up,
        "cases": [asdict(case) for case in cases],
    }
    about = record["machine"]
    screen.show(f"{about['cpu']}, {about['cores']} cores; {options.repeat} runs after {options.warm_up}; ms")
    rows = table("method", "threads", "pictures", "stage", "median", "IQR", "p95")
    for case in cases:
        for stage, time in case.stages.items():
            row = (f"{time.median:.1f}", f"{time.q25:.1f}-{time.q75:.1f}", f"{time.p95:.1f}")
            threads_text = str(case.threads) if case.threads else "auto"
            rows.add_row(case.method, threads_text, f"{case.width}x{case.height}", stage, *row)
        rows.add_section()
    screen.show(rows)
    return Outcome(record)


COMMAND = Command(
    name="bench",
    summary="time each stage on this machine, beside SIFT and ORB",
    description=(
        "Time each stage on two pictures (of the demo's recording, unless others are given): fit (picture to the "
        "network's input), features (of one picture), pair (matching two encoded pictures), geometry (relative pose of "
        "these matches), and frame, all of them as for each image of a camera, its reference being encoded already. "
        "SIFT and ORB have one stage for both pictures, match."
    ),
    example="stfm bench --runtimes openvino,onnxruntime --threads 1,2",
    negative="",
    fields={
        **MACHINE_FIELDS,
        "versions": "by distribution",
        "pictures": "what was matched",
        "repeat": "timed runs of each stage",
        "warm_up": "runs before them",
        "cases": "one object for each method, number of threads and size:",
        "cases[].method": "the model and its runtime, or sift, or orb",
        "cases[].threads": "CPU threads; 0 is the runtime's own choice",
        "cases[].width": "of the pictures given, px",
        "cases[].height": "of the pictures given, px",
        "cases[].matches": "of the pair",
        "cases[].load_s": "time to load the model, s; null for SIFT and ORB",
        "cases[].weights_hash": "of the model; null for SIFT and ORB",
        "cases[].stages": "by stage: median, q25, q75, p95, ms",
    },
    arguments=arguments,
    execute=execute,
)
