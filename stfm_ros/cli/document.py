"""Writes docs/cli.md from the commands themselves.

python -m stfm_ros.cli.document > docs/cli.md
"""

from __future__ import annotations

import argparse
import sys

from stfm_ros.cli import COMMANDS
from stfm_ros.cli.command import EXIT_CODES, Command
from stfm_ros.cli.options import FILE_OPTION, SETTINGS_TITLE
from stfm_ros.config import AppConfig, settings

HEADER = """\
# The command line

`stfm COMMAND --help` says all of this too. This page is made from the code:
`python -m stfm_ros.cli.document > docs/cli.md`.

Every command takes

- `--json`: exactly one JSON object on stdout and nothing else there; its keys are listed below. What is not finite is
  `null`. Where a command is refused (exit code 2) the object is `{"error": MESSAGE, "kind": CLASS}`, `CLASS` being of
  `stfm_ros/errors.py`, or `UsageError`, or of Python's `OSError`.
- `-v`, `--verbose`: log what happens on stderr.

Results are on stdout; progress bars (on a terminal, without `--json`), warnings and errors on stderr.

## Exit codes

| code | |
|---|---|
"""


def cli_page() -> str:
    """The text of docs/cli.md."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return HEADER + codes + "".join(_section(command) for command in COMMANDS) + _settings()


def _section(command: Command) -> str:
    parser = argparse.ArgumentParser(add_help=False)
    command.arguments(parser)
    # argparse has no public list of what was added
    groups = [group for group in parser._action_groups if group.title != SETTINGS_TITLE]
    options = [_row(action) for group in groups for action in group._group_actions]
    taken = any(group.title == SETTINGS_TITLE for group in parser._action_groups)
    lines = [f"\n## stfm {command.name}\n", f"{command.description}\n", f"```\n{command.example}\n```\n"]
    if options:
        lines += ["| | |\n|---|---|", *options, ""]
    if taken:
        lines.append("It takes [settings](#settings) too.\n")
    lines.append(f"Exit code 1: {command.negative}.\n" if command.negative else "It has no negative result.\n")
    lines += ["| key | |\n|---|---|", *(f"| `{key}` | {_cell(text)} |" for key, text in command.fields.items())]
    return "\n".join(lines) + "\n"


def _row(action: argparse.Action) -> str:
    metavar = action.metavar or action.dest
    value = "" if action.nargs == 0 else f" {' '.join(metavar) if isinstance(metavar, tuple) else metavar}"
    if action.choices is not None:
        value = f" {'|'.join(map(str, action.choices))}"
    name = f"{action.option_strings[0]}{value}" if action.option_strings else value.strip()
    return f"| `{_cell(name)}` | {_cell(action.help or '')} |"


def _settings() -> str:
    lines = [
        "\n## Settings\n",
        "Each is an option of the same dotted name (`--pose.inlier_px 2`); those of the matcher have a short form too",
        f"(`--threshold 0.3`). `{FILE_OPTION} FILE` reads a file in the layout of",
        "[config/matcher.yaml](../config/matcher.yaml), the node's own; options win over it. A command takes the",
        "sections that it uses; settings of other sections in a file are checked and left alone.\n",
        "| setting | default | |\n|---|---|---|",
    ]
    for setting in settings(AppConfig):
        if not setting.name.startswith("node."):
            about = setting.about
            span = f" {about.minimum:g} to {about.maximum:g}" if None not in (about.minimum, about.maximum) else ""
            facts = f" ({(span + ' ' + about.unit).strip()})" if span or about.unit else ""
            choices = f" One of {', '.join(about.choices)}." if about.choices else ""
            lines.append(f"| `{setting.name}` | `{setting.default}` | {_cell(about.description + choices + facts)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("%%", "%").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(cli_page())
