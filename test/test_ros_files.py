"""Launch file, RViz configuration and Fast DDS profile, as far as they can be read without ROS's tools.

``test_launch.py`` runs the launch file where ROS's launch is installed.
"""

from __future__ import annotations

import re
import runpy
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

from stfm_ros.config import AppConfig, settings
from stfm_ros.config_yaml import NODES
from stfm_ros.nodes import launching

ROOT = Path(__file__).resolve().parent.parent
#: what rviz_default_plugins has in Humble, Jazzy and later: displays with the properties that are used, and tools
DISPLAYS = {
    "Grid": {"Cell Size", "Plane", "Plane Cell Count", "Reference Frame", "Color", "Alpha"},
    "TF": {"Show Names", "Show Axes", "Show Arrows", "Marker Scale", "Frame Timeout"},
    "Path": {"Topic", "Line Style", "Color", "Alpha", "Buffer Length", "Pose Style"},
    "Odometry": {
        "Topic", "Keep", "Position Tolerance", "Angle Tolerance", "Shape", "Axes Length", "Axes Radius", "Covariance",
    },
    "PointCloud2": {
        "Topic", "Style", "Size (Pixels)", "Alpha", "Decay Time", "Position Transformer", "Color Transformer",
    },
    "Image": {"Topic", "Normalize Range"},
}  # fmt: skip
#: by display, the type of the messages that it takes
TYPES = {"Path": "nav_msgs/Path", "Odometry": "nav_msgs/Odometry", "PointCloud2": "sensor_msgs/PointCloud2",
         "Image": "sensor_msgs/Image"}  # fmt: skip
QOS = {"Depth", "History Policy", "Reliability Policy", "Durability Policy"}


def launch_file(node: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of a launch file, read without launch."""
    monkeypatch.setitem(sys.modules, "launch", MagicMock())
    return runpy.run_path(str(ROOT / "launch" / f"{node}.launch.py"))


def rviz() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / "stfm.rviz").read_text(encoding="utf-8"))["Visualization Manager"]


def topics() -> dict[str, str]:
    """Outputs by the table of docs/node.md: type by name."""
    found = re.findall(r"^\| out `(\S+)` \| (\S+) \|", (ROOT / "docs" / "node.md").read_text(encoding="utf-8"), re.M)
    return dict(found)


@pytest.mark.parametrize(("node", "page"), [("matcher", "node.md"), ("teacher", "teacher.md")])
def test_every_launch_argument_is_documented_and_sets_what_there_is(
    node: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = launch_file(node, monkeypatch)["ARGUMENTS"]
    assert re.findall(r"^\| `(\w+)` \|.*\|$", section(page, "Launch arguments"), re.M) == list(arguments)
    assert all(description.endswith(".") for _, description, _ in arguments.values())
    names = {setting.name for setting in settings(NODES[node][0])} | {"use_sim_time"}
    assert {parameter for name, parameter in launching.PARAMETERS.items() if name in arguments} <= names


def test_every_launch_argument_means_something() -> None:
    assert set(launching.PARAMETERS) | set(launching.TOPICS) <= set(launching.ARGUMENTS)
    inputs = re.findall(r"^\| in `(\S+)` \|", (ROOT / "docs" / "node.md").read_text(encoding="utf-8"), re.M)
    assert set(launching.TOPICS.values()) <= set(inputs)


def section(page: str, title: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.split(r"^##+ ", text.partition(f"# {title}\n")[2], flags=re.M)[0]


def shown() -> Iterator[tuple[str, dict[str, Any]]]:
    for display in rviz()["Displays"]:
        package, _, name = display["Class"].partition("/")
        assert package == "rviz_default_plugins"
        yield name, display


def test_rviz_shows_what_the_node_publishes() -> None:
    found = {}
    for name, display in shown():
        properties = set(display) - {"Class", "Name", "Enabled", "Value"}
        assert properties <= DISPLAYS[name], f"{name} of RViz has no such property"
        if "Topic" in display:
            assert set(display["Topic"]) == {"Value"} | QOS
            found[display["Topic"]["Value"].lstrip("/")] = TYPES[name]
    assert found == {name: topics()[name] for name in launching.SHOWN}
    assert {name for name, _ in shown()} == set(DISPLAYS)
    assert rviz()["Global Options"]["Fixed Frame"] == AppConfig().odometry.odom_frame


def test_the_fast_dds_profile_is_one_of_shared_memory() -> None:
    root = ET.parse(ROOT / "config" / "fastdds_shm.xml").getroot()
    space = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    (transport,) = root.findall(".//dds:transport_descriptor", space)
    assert transport.findtext("dds:type", namespaces=space) == "SHM"
    largest = int(transport.findtext("dds:maxMessageSize", "0", space))
    assert largest >= 1920 * 1080 * 3 / 2 and int(transport.findtext("dds:segment_size", "0", space)) >= 2 * largest
    participant = root.find("dds:participant", space)
    assert participant is not None and participant.get("is_default_profile") == "true"
    used = participant.findtext(".//dds:userTransports/dds:transport_id", namespaces=space)
    assert used == transport.findtext("dds:transport_id", namespaces=space)
    assert participant.findtext(".//dds:useBuiltinTransports", namespaces=space) == "false"


def test_what_a_launch_needs_is_installed_by_pip_and_by_colcon() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"install\(DIRECTORY launch config DESTINATION share/\$\{PROJECT_NAME\}", cmake)
    by_pip = share_files_of_setup()
    nodes = [name for node in ("matcher", "teacher") for name in (f"config/{node}.yaml", f"launch/{node}.launch.py")]
    for name in ("config/stfm.rviz", "config/fastdds_shm.xml", *nodes):
        assert name in by_pip


def share_files_of_setup() -> set[str]:
    """What setup.py installs into share/, without running setup()."""
    source = (ROOT / "setup.py").read_text(encoding="utf-8").partition("\nsetup(\n")[0]
    names: dict[str, Any] = {"__file__": str(ROOT / "setup.py"), "__name__": "setup_py"}
    exec(compile(source, "setup.py", "exec"), names)
    return {name for _, files in names["share_files"]() for name in files}


def test_the_arguments_of_a_collection_are_documented_and_set_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("launch.actions", "launch_ros", "launch_ros.actions"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    found = launch_file("collect", monkeypatch)
    assert re.findall(r"^\| `(\w+)` \|.*\|$", section("recording.md", "Launch arguments"), re.M) == list(
        found["ARGUMENTS"]
    )
    assert all(description.endswith(".") for _, description, _ in found["ARGUMENTS"].values())
    names = {setting.name for setting in settings(NODES["recorder"][0])} | {"use_sim_time"}
    assert set(found["OF_RECORDER"].values()) <= names
    assert "shadow.model" in {setting.name for setting in settings(NODES["teacher"][0])}
