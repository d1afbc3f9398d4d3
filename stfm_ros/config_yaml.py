"""Writes the parameter files of config/ from the typed configuration, with descriptions, units and ranges.

    python -m stfm_ros.config_yaml matcher > config/matcher.yaml
"""

from __future__ import annotations

import sys
import textwrap

import yaml

from stfm_ros.config import AppConfig, Setting, TeacherAppConfig, settings
from stfm_ros.recording.config import RecorderAppConfig

WIDTH = 110
#: by the name of the node, which is that of its file: the class of its parameters, and what starts it
NODES: dict[str, tuple[type, str]] = {
    "matcher": (AppConfig, "matcher"),
    "teacher": (TeacherAppConfig, "teacher"),
    "recorder": (RecorderAppConfig, "collect"),
}
HEADER = """\
# Parameters of the {node} node, each at its default.
#
# Copy this file, change what you need, and start the node with it:
#
#   ros2 launch stfm_ros {launch}.launch.py params_file:=/path/to/{node}.yaml
#   ros2 run stfm_ros {node} --ros-args --params-file /path/to/{node}.yaml
#   stfm-{node} --ros-args --params-file /path/to/{node}.yaml
#
# They are read when the node is configured; some may change while it runs, as they say. This file is made from
# the typed configuration, the one home of the defaults:
#
#   python -m stfm_ros.config_yaml {node} > config/{node}.yaml

/**:
  ros__parameters:
"""


def yaml_of(node: str) -> str:
    """The text of config/NODE.yaml."""
    config, launch = NODES[node]
    lines = []
    group = ""
    for setting in settings(config):
        section, _, name = setting.name.partition(".")
        if section != group:
            lines.append(f"\n    {section}:")
            group = section
        lines += [f"      # {line}" for line in textwrap.wrap(_about(setting), WIDTH)]
        value = yaml.safe_dump({name: setting.default}, default_flow_style=False)
        lines.append(f"      {value.strip()}")
    return HEADER.format(node=node, launch=launch) + "\n".join(lines).lstrip("\n") + "\n"


def _about(setting: Setting) -> str:
    about = setting.about
    parts = [about.description]
    if about.unit:
        parts.append(f"Unit: {about.unit}.")
    if about.choices:
        parts.append(f"One of: {', '.join(about.choices)}.")
    if about.minimum is not None and about.maximum is not None:
        parts.append(f"Range: {about.minimum:.15g} to {about.maximum:.15g}.")
    if about.live:
        parts.append("Takes effect at once.")
    return " ".join(parts)


if __name__ == "__main__":
    sys.stdout.write(yaml_of(sys.argv[1]))
