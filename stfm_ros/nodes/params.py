"""ROS parameters from the typed configuration: the dotted name of a setting is the name of its parameter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from stfm_ros.config import Setting, from_mapping, settings
from stfm_ros.errors import ConfigError

#: parameters that every ROS node has
_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides.")
_AT_ONCE = " Takes effect at once."

C = TypeVar("C")


def declare(node: Node, cls: type[C]) -> C:
    """Declare every setting with its description and range, at the value the node was started with.

    Args:
        cls: the config class of the node.
        node: created with ``automatically_declare_parameters_from_overrides=True``: that is the public way to see what
            a node was given, and so to tell a misspelt name.

    Raises:
        ConfigError: lists every unknown name, wrong type and value out of range at once.
    """
    given = {
        name: parameter.value
        for name, parameter in node.get_parameters_by_prefix("").items()
        if not name.startswith(_OF_ROS)
    }
    config = from_mapping(cls, given)
    for setting in settings(cls):
        if setting.name in given:
            node.undeclare_parameter(setting.name)
        value = reduce(getattr, setting.name.split("."), config)
        node.declare_parameter(setting.name, value, descriptor(setting), ignore_override=True)
    return config


def read(node: Node, cls: type[C]) -> C:
    """The configuration by the parameters as they are now."""
    return from_mapping(cls, _values(node, cls))


def _values(node: Node, cls: type) -> dict[str, Any]:
    return {setting.name: node.get_parameter(setting.name).value for setting in settings(cls)}


def guard(node: Node, cls: type[C], may_change: Callable[[], bool], apply: Callable[[C], None]) -> None:
    """Refuse values that the configuration refuses, and changes that would have no effect.

    Args:
        cls: the config class of the node.
        may_change: whether the node has yet to read its parameters.
        apply: given the whole configuration after a change of settings that may change while the node runs.
    """
    live = {setting.name: setting.about.live for setting in settings(cls)}

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters if parameter.name in live}
        try:
            from_mapping(cls, changes)
        except ConfigError as fault:
            return SetParametersResult(successful=False, reason=str(fault))
        if not changes or may_change():
            return SetParametersResult(successful=True)
        fixed = [name for name in changes if not live[name]]
        if fixed:
            reason = (
                f"{', '.join(fixed)}: read when the node is configured; deactivate and clean it up, set the "
                "parameter, then configure and activate it (ros2 lifecycle set)"
            )
            return SetParametersResult(successful=False, reason=reason)
        apply(from_mapping(cls, _values(node, cls) | changes))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def descriptor(setting: Setting) -> ParameterDescriptor:
    """Description, unit, range and choices of a setting."""
    about = setting.about
    fields: dict[str, Any] = {
        "name": setting.name,
        "description": about.description
        + (f" Unit: {about.unit}." if about.unit else "")
        + (_AT_ONCE if about.live else ""),
        "additional_constraints": f"one of: {', '.join(about.choices)}" if about.choices else "",
    }
    if setting.type is float:
        low = -sys.float_info.max if about.minimum is None else about.minimum
        high = sys.float_info.max if about.maximum is None else about.maximum
        fields["floating_point_range"] = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    elif setting.type is int:
        least = -(2**63) if about.minimum is None else about.minimum
        most = 2**63 - 1 if about.maximum is None else about.maximum
        fields["integer_range"] = [IntegerRange(from_value=int(least), to_value=int(most), step=1)]
    return ParameterDescriptor(**fields)
