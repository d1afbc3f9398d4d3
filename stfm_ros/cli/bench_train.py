"""``stfm bench train``: pairs a second of a training config, and what it waits for (``stfm_training.benchmark``)."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stfm_ros.cli.command import Command, Outcome, Screen, table
from stfm_ros.cli.options import MACHINE_FIELDS, at_least, given_options
from stfm_ros.cli.train import add_training_settings, require_training
from stfm_ros.config import settings
from stfm_ros.errors import ConfigError

PRECISIONS = ("bf16", "fp32")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", choices=("teacher", "student"), help="the RGB-D network, or the RGB one")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the run that is timed")
    parser.add_argument(
        "--precisions", default="bf16,fp32", metavar="LIST", help="some of bf16, fp32 (default: bf16,fp32)"
    )
    parser.add_argument("--repeat", type=at_least(2), default=10, metavar="N", help="timed calls of each (default 10)")
    parser.add_argument(
        "--warm-up", type=at_least(0), default=2, metavar="N", help="calls before, not timed (default 2)"
    )
    add_training_settings(parser, but=("run.precision",))


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    precisions = [name for name in options.precisions.replace(" ", "").split(",") if name]
    if not precisions or not set(precisions) <= set(PRECISIONS):
        raise ConfigError(f"precisions {options.precisions!r}: expected some of {', '.join(PRECISIONS)}")
    require_training()
    from stfm_ros import machine
    from stfm_training import benchmark
    from stfm_training.config import TrainingConfig, read_config
    from stfm_training.mix import Opened

    config = read_config(options.config, given_options(options, settings(TrainingConfig)))
    repeat, warm_up = options.repeat, options.warm_up
    with screen.stages() as progress:
        opened = Opened(config, progress)
    with screen.progress("measuring") as step:
        cases = list(benchmark.sources(config, opened, repeat, warm_up))
        plan = [(device, precision) for precision in precisions for device in benchmark.devices()]
        todo = len(plan) + len(precisions)
        for done, (device, precision) in enumerate(plan, 1):
            cases.append(benchmark.step(options.role, config, opened, device, precision, repeat, warm_up))
            step(done, todo)
        for done, precision in enumerate(precisions, 1 + len(plan)):
            cases.append(benchmark.loop(options.role, config, opened, precision, repeat, warm_up))
            step(done, todo)
    record: dict[str, Any] = {
        "machine": machine.about_machine(),
        "gpu": benchmark.device_name(benchmark.devices()[-1]) or None,
        "versions": machine.versions(),
        "config": config.to_mapping(),
        "repeat": repeat,
        "warm_up": warm_up,
        "cases": [asdict(case) for case in cases],
    }
    about = record["machine"]
    gpu = f", {record['gpu']}" if record["gpu"] else ""
    size = f"{config.data.width}x{config.data.height}"
    screen.show(
        f"{about['cpu']}, {about['cores']} cores{gpu}; {config.model.preset}, {config.data.pairs} pairs of {size} a "
        f"step, {config.run.workers} workers; {repeat} runs after {warm_up}; ms of a call"
    )
    rows = table("", "what", "device", "precision", "pairs/s", "waiting", "median", "IQR", "p95")
    for case in cases:
        waiting = "" if case.waiting is None else f"{100 * case.waiting:.0f} %"
        ms = (f"{case.ms.median:.1f}", f"{case.ms.q25:.1f}-{case.ms.q75:.1f}", f"{case.ms.p95:.1f}")
        rows.add_row(case.kind, case.name, case.device, case.precision, f"{case.pairs_s:.1f}", waiting, *ms)
    screen.show(rows)
    return Outcome(record)


COMMAND = Command(
    name="bench train",
    summary="time a training config on this machine",
    description=(
        "Time a training config: each source of its mix alone, in one process (source; the renderer also on a GPU, "
        "where there is one), a step on a batch that is there already (step), and some steps of a run as `stfm train` "
        "makes it, with its workers (loop): pairs a second, and the share of the time in which it waits for data. The "
        "loop runs on the device that a run takes: a GPU, where there is one. Nothing is kept."
    ),
    example="stfm bench train student --config training/configs/student.yaml --data.root DATA",
    negative="",
    fields={
        **MACHINE_FIELDS,
        "gpu": "name of the GPU; null without one",
        "versions": "by distribution",
        "config": "the whole config of the run",
        "repeat": "timed calls of each case; of the loop, as many times five steps",
        "warm_up": "calls before them",
        "cases": "one object for each thing that was timed:",
        "cases[].kind": "source, step or loop",
        "cases[].name": "the source and its path, or the role that is trained",
        "cases[].device": "cpu or cuda",
        "cases[].precision": "bf16 or fp32; empty for a source",
        "cases[].pairs": "of one call",
        "cases[].pairs_s": "pairs a second, at the median",
        "cases[].waiting": "share of the time in which the loop waits for data; null but for the loop",
        "cases[].ms": "median, q25, q75, p95 of a call; of the loop, of a step",
    },
    arguments=arguments,
    execute=execute,
)
