"""Options that several commands share: the settings of ``stfm_ros.config``, models and cameras.

Each setting is an option of the same dotted name (``--pose.inlier_px 2``); those of the matcher have a short form too
(``--threshold 0.3``). A file in the layout of config/matcher.yaml is read by ``--params``; options win over it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from stfm_ros.cli.command import UsageError
from stfm_ros.config import AppConfig, Scalar, Setting, settings
from stfm_ros.errors import ConfigError

if TYPE_CHECKING:
    from stfm_ros.baselines import Classical
    from stfm_ros.matcher import Matcher

#: the node's name in the keys of a parameter file: /**, /matcher, /front/matcher, ...
_NODE = "/matcher"
#: parameters of every ROS node, of no meaning here
_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides")
_PREFIX = "setting:"
SETTINGS_TITLE = "settings"
FILE_OPTION = "--params"

#: of the record of every command that times something
MACHINE_FIELDS = {
    "machine.cpu": "name of the processor",
    "machine.cores": "CPU cores this process may use",
    "machine.system": "kernel and architecture",
    "machine.python": "version",
}

#: of the record of every command that runs a model
MODEL_FIELDS = {
    "model.name": "name of the model",
    "model.weights_hash": "first 12 hex digits of the SHA-256 over its weights",
    "model.runtime": "what ran it",
    "model.reason": "why that runtime",
    "model.width": "of the network's input, px",
    "model.height": "of the network's input, px",
}


def add_settings(parser: argparse.ArgumentParser, *sections: str) -> None:
    """Add :data:`FILE_OPTION` and an option for each setting of these sections of :class:`AppConfig`."""
    group = parser.add_argument_group(SETTINGS_TITLE, "as in config/matcher.yaml; options win over --params")
    group.add_argument(FILE_OPTION, type=Path, metavar="FILE", help="YAML file of ROS parameters, read for settings")
    for setting in settings(AppConfig):
        section, _, name = setting.name.partition(".")
        if section in sections:
            add_setting(group, setting, *([f"--{name.replace('_', '-')}"] if section == "matcher" else []))


def add_setting(group: argparse._ArgumentGroup, setting: Setting, *names: str) -> None:
    """One setting as the option of its dotted name, and of others."""
    kind = "|".join(setting.about.choices) or setting.type.__name__.upper()
    group.add_argument(*names, f"--{setting.name}", dest=_PREFIX + setting.name, metavar=kind, help=_help(setting))


def read_config(options: argparse.Namespace) -> AppConfig:
    """The configuration by defaults, the file and the options, the latter winning.

    Raises:
        ConfigError: lists every fault of the file and of the options at once.
    """
    return AppConfig.from_mapping(given_settings(options))


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the file and the options set, by dotted name; not checked.

    Raises:
        ConfigError: the file cannot be read.
    """
    return (read_params(options.params) if options.params else {}) | given_options(options, settings(AppConfig))


def given_options(options: argparse.Namespace, of: Iterable[Setting]) -> dict[str, Any]:
    """What the options set, by dotted name; not checked."""
    types = {setting.name: setting.type for setting in of}
    given = {name: text for name in types if (text := getattr(options, _PREFIX + name, None)) is not None}
    return {name: _parse(text, types[name]) for name, text in given.items()}


def read_params(path: Path) -> dict[str, Any]:
    """The parameters that a ROS parameter file gives to the node ``matcher``, by dotted name.

    Raises:
        ConfigError: the file cannot be read, or holds no parameters for this node.
    """
    try:
        nodes = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(f"{path} cannot be read as YAML: {fault}") from None
    found: dict[str, Any] = {}
    for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
        if fnmatch(_NODE, str(name).replace("**", "*")) or f"/{name}".endswith(_NODE):
            found.update(_flat(node.get("ros__parameters", {}) if isinstance(node, Mapping) else {}))
    if not found:
        raise ConfigError(
            f"{path} holds no parameters for the node matcher: expected '/**:' or 'matcher:', under it "
            "'ros__parameters:' and under that the settings, as in config/matcher.yaml"
        )
    return {name: value for name, value in found.items() if not name.startswith(_OF_ROS)}


def load_matcher(config: AppConfig) -> Matcher:
    """The matcher that the configuration names.

    Raises:
        WeightsError, RuntimeNotAvailable: what is missing, and what to do.
    """
    from stfm_ros.matcher import Matcher

    return Matcher.from_pretrained(config.matcher)


def baselines(names: str) -> dict[str, Classical]:
    """The classical matchers of a list such as ``sift,orb``; none of ``none``.

    Raises:
        UsageError: one of them is not known.
    """
    from stfm_ros.baselines import BASELINES

    wanted = [name for name in names.replace(" ", "").split(",") if name not in ("", "none")]
    unknown = [name for name in wanted if name not in BASELINES]
    if unknown:
        raise UsageError(f"--methods {', '.join(unknown)}: expected some of {', '.join(BASELINES)}, or none")
    return {name: BASELINES[name] for name in wanted}


def about_model(matcher: Matcher) -> dict[str, Any]:
    """See :data:`MODEL_FIELDS`."""
    return {
        "name": matcher.model_name,
        "weights_hash": matcher.weights_hash,
        "runtime": matcher.runtime_name,
        "reason": matcher.reason,
        "width": matcher.width,
        "height": matcher.height,
    }


def model_line(matcher: Matcher) -> str:
    """One line about the model."""
    return (
        f"model {matcher.model_name} ({matcher.weights_hash}) at {matcher.width}x{matcher.height} on "
        f"{matcher.runtime_name}: {matcher.reason}"
    )


def image_size(text: str) -> tuple[int, int]:
    """``640x480`` to (640, 480)."""
    width, x, height = text.lower().partition("x")
    if not (x and width.isdigit() and height.isdigit() and int(width) > 0 and int(height) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no image size: expected e.g. 640x480")
    return int(width), int(height)


def at_least(minimum: int) -> Any:
    """An argparse type: an integer of at least ``minimum``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is below {minimum}")
        return value

    return parse


def _help(setting: Setting) -> str:
    about = setting.about
    limits = (about.minimum, about.maximum)
    span = "" if None in limits else f"{limits[0]:g} to {limits[1]:g}"
    facts = [" ".join(filter(None, (span, about.unit))), f"default {setting.default}"]
    return f"{about.description} ({', '.join(filter(None, facts))})".replace("%", "%%")


def _parse(text: str, kind: type) -> Scalar:
    """The text as ``kind``; left as it is where it is none, for the configuration's own report of all faults."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        parsed: Scalar = kind(text)
    except ValueError:
        return text
    return parsed


def _flat(values: Mapping[str, Any], prefix: Sequence[str] = ()) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, (*prefix, str(key))))
        else:
            flat[".".join((*prefix, str(key)))] = value
    return flat
