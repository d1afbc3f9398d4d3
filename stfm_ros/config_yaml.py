"""Writes config/matcher.yaml from the typed configuration, each parameter with its description, unit and range.

    python -m stfm_ros.config_yaml > config/matcher.yaml
"""

from __future__ import annotations

import sys
import textwrap

import yaml

from stfm_ros.config import AppConfig, Setting, settings

WIDTH = 110
HEADER = """\
# Parameters of the matcher node, each at its default.
#
# Copy this file, change what you need, and start the node with it:
#
#   ros2 launch stfm_ros matcher.launch.py params_file:=/path/to/matcher.yaml
#   ros2 run stfm_ros matcher --ros-args --params-file /path/to/matcher.yaml
#   stfm-matcher --ros-args --params-file /path/to/matcher.yaml
#
# They are read when the node is configured; some may change while it runs, as they say. This file is made from
# stfm_ros/config.py, the one home of the defaults:
#
#   python -m stfm_ros.config_yaml > config/matcher.yaml

/**:
  ros__parameters:
"""


def matcher_yaml() -> str:
    """The text of config/matcher.yaml."""
    lines = []
    group = ""
    for setting in settings(AppConfig):
        section, _, name = setting.name.partition(".")
        if section != group:
            lines.append(f"\n    {section}:")
            group = section
        lines += [f"      # {line}" for line in textwrap.wrap(_about(setting), WIDTH)]
        value = yaml.safe_dump({name: setting.default}, default_flow_style=False)
        lines.append(f"      {value.strip()}")
    return HEADER + "\n".join(lines).lstrip("\n") + "\n"


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
    sys.stdout.write(matcher_yaml())
