"""``stfm info``: what is installed, and what can be done with it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from stfm_ros.cli.command import Command, Outcome, Screen, table


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros import machine
    from stfm_ros.errors import StfmError
    from stfm_ros.runtimes.store import WEIGHTS, find_model, shipped

    available = machine.runtimes()
    models, damaged = [], False
    for name in shipped():
        about: dict[str, Any] = {"name": name, "path": WEIGHTS / name}
        try:
            model = find_model(name)
            assert model.spec is not None
            for file in model.spec.files:
                model.file(file)
            about |= {"state": "files agree with their hashes", "ok": True, "spec": asdict(model.spec)}
        except StfmError as fault:
            about |= {"state": str(fault), "ok": False}
            damaged = True
        models.append(about)
    record: dict[str, Any] = {
        "versions": machine.versions(),
        "machine": machine.about_machine(),
        "runtimes": {name: asdict(one) for name, one in available.items()},
        "gpu": asdict(machine.gpu()),
        "models": models,
        "ros": asdict(machine.ros()),
        "ros_messages": asdict(machine.ros_messages()),
    }
    rows = table("what", "", "", numbers=False)
    for name, version in record["versions"].items():
        rows.add_row(name, version, "")
    for name, value in record["machine"].items():
        rows.add_row(name, str(value), "")
    for name, one in available.items():
        rows.add_row(f"runtime {name}", "yes" if one.available else "no", one.reason)
    rows.add_row("NVIDIA GPU", "yes" if record["gpu"]["available"] else "no", record["gpu"]["reason"])
    for about in models:
        spec = "{name}, preset {preset}, {width}x{height}, weights {weights_hash}; "
        text = spec.format(**about["spec"]) if about["ok"] else ""
        rows.add_row(f"model {about['name']}", "yes" if about["ok"] else "damaged", f"{text}{about['state']}")
    if not models:
        rows.add_row("models", "none", f"no exported folder in {WEIGHTS}")
    for name in ("ros", "ros_messages"):
        rows.add_row(name.replace("_", " "), "yes" if record[name]["available"] else "no", record[name]["reason"])
    screen.show(rows)
    usable = any(one.available for one in available.values()) and bool(models) and not damaged
    return Outcome(record, negative=not usable)


COMMAND = Command(
    name="info",
    summary="versions, runtimes, models, ROS: what is there and what is missing",
    description="Say what is installed here, what can be used, and why what cannot be used cannot.",
    example="stfm info",
    negative="there is no runtime or no shipped model, or a shipped model is damaged",
    fields={
        "versions": "by distribution, of what is installed",
        "machine.cpu": "name of the processor",
        "machine.cores": "CPU cores this process may use",
        "machine.system": "kernel and architecture",
        "machine.python": "version",
        "runtimes": "by name: available, and reason (why, or what to install)",
        "gpu.available": "whether there is an NVIDIA GPU that CUDA can use",
        "gpu.reason": "its name, compute capability and memory, or what is missing",
        "models": "one object for each shipped model:",
        "models[].name": "what --model takes",
        "models[].path": "its folder",
        "models[].state": "whether its files agree with their hashes",
        "models[].ok": "the same, as true or false",
        "models[].spec": "where they agree: all fields of stfm_ros.types.EngineSpec",
        "ros.available": "whether rclpy is there",
        "ros.reason": "where, or why not",
        "ros_messages.available": "whether stfm_ros.msg was generated",
        "ros_messages.reason": "why not, and what to do",
    },
    arguments=arguments,
    execute=execute,
)
