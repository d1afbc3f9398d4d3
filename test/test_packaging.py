"""The package as a package: one version, one direction of imports, a core without ROS and torch, one YAML."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

import stfm_ros
from stfm_ros.config import from_mapping
from stfm_ros.config_yaml import NODES, yaml_of
from stfm_ros.types import PoseStatus

ROOT = Path(__file__).resolve().parent.parent


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version() -> None:
    assert ET.fromstring(text("package.xml")).findtext("version") == stfm_ros.__version__
    assert re.search(rf"^## \[?{re.escape(stfm_ros.__version__)}\b", text("CHANGELOG.md"), re.M)
    setup = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "STFM_ROS_MSGS": "0"},
    )  # fmt: skip
    assert setup.stdout.splitlines()[-1] == stfm_ros.__version__


def test_package_xml_declares_what_the_package_imports_and_generates() -> None:
    root = ET.fromstring(text("package.xml"))
    assert root.get("format") == "3"
    assert root.findtext("license") == "Apache-2.0" and "Apache License" in text("LICENSE")
    declared = {item.text for item in root if item.tag.endswith("depend")}
    of_ros = r"\w+_msgs|std_srvs|builtin_interfaces|cv_bridge|launch|launch_ros|message_filters|rclpy"
    pattern = re.compile(rf"^\s*(?:from|import) ({of_ros})\b", re.M)
    sources = [*(ROOT / "stfm_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    used = {name for path in sources for name in pattern.findall(path.read_text(encoding="utf-8"))}
    used.discard("rcl_interfaces")  # comes with rclpy
    assert {"rclpy", "sensor_msgs", "launch_ros"} <= used <= declared
    for message in (ROOT / "msg").glob("*.msg"):
        assert f'"msg/{message.name}"' in text("CMakeLists.txt")
        assert set(re.findall(r"^(\w+)/\w+ ", message.read_text(), re.M)) <= declared
    assert root.findtext("member_of_group") == "rosidl_interface_packages"


def test_no_module_hides_one_of_ros() -> None:
    """The root is on sys.path in a checkout: a package `launch` there would hide ROS's."""
    for folder in ("launch", "config", "msg", "test", "docs", "requirements"):
        assert not (ROOT / folder / "__init__.py").exists(), folder
    assert not (ROOT / "stfm_ros" / "msg.py").exists() and not (ROOT / "stfm_ros" / "msg").exists()


def test_imports_run_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed")
    run = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


CORE = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"rclpy", "torch", "sensor_msgs", "geometry_msgs", "stfm_training"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import stfm_ros
skipped = ("stfm_ros.nodes", "stfm_ros.model", "stfm_ros.msg", "stfm_ros.runtimes.torch_runtime")
names = [module.name for module in pkgutil.walk_packages(stfm_ros.__path__, "stfm_ros.", onerror=lambda name: None)]
names = [name for name in names if not name.startswith(skipped) and not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.mark.parametrize("node", NODES)
def test_a_node_without_ros_says_how_to_get_it(node: str) -> None:
    blocked = CORE.partition("import stfm_ros\n")[0]
    code = f"{blocked}from stfm_ros.nodes import {node}_script\nsys.exit({node}_script())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert f"stfm-{node}: rclpy" in run.stderr
    assert "pip install -r requirements/ros-jazzy.txt" in run.stderr and "Traceback" not in run.stderr


def test_the_core_imports_without_ros_and_torch() -> None:
    run = subprocess.run([sys.executable, "-c", CORE], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 15


@pytest.mark.parametrize("node", NODES)
def test_parameter_files_are_what_the_config_says(node: str) -> None:
    remedy = f"run: python -m stfm_ros.config_yaml {node} > config/{node}.yaml"
    assert text(f"config/{node}.yaml") == yaml_of(node), remedy
    config = NODES[node][0]
    assert from_mapping(config, yaml.safe_load(yaml_of(node))["/**"]["ros__parameters"]) == config()


def test_every_parameter_is_in_the_documentation() -> None:
    documented = text("docs/node.md")
    for group, values in yaml.safe_load(yaml_of("matcher"))["/**"]["ros__parameters"].items():
        row = next(line for line in documented.splitlines() if line.startswith(f"| `{group}.`"))
        assert re.findall(r"`(\w+)`", row) == list(values)


def test_status_constants_equal_the_enum() -> None:
    constants = re.findall(r"^uint8 (\w+)=(\d+)", text("msg/RelativePose.msg"), re.M)
    assert {name: int(value) for name, value in constants} == {status.name: status.value for status in PoseStatus}


def test_a_missing_ros_is_an_error_where_the_messages_are_wanted(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("AMENT_PREFIX_PATH", "LD_LIBRARY_PATH")}
    env |= {"STFM_ROS_MSGS": "1", "PATH": "/nonexistent"}
    run = subprocess.run([sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, env=env)
    assert run.returncode != 0
    assert "STFM_ROS_MSGS=1 but" in run.stderr and "requirements/ros-jazzy.txt" in run.stderr


@pytest.mark.slow
def test_pip_installs_the_modules_alone_without_ros(tmp_path: Path) -> None:
    """The wheel of a machine without ROS: modules, weights, message definitions; no compiled message."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", ".*_cache", "__pycache__", "out", "runs")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    subprocess.run(pip, cwd=source, check=True, env={**os.environ, "STFM_ROS_MSGS": "0"})
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"stfm_ros-{stfm_ros.__version__}-py3-none-any.whl"
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    data = f"stfm_ros-{stfm_ros.__version__}.data/data/share/stfm_ros/"
    for name in ("package.xml", "msg/Correspondences.msg", "msg/RelativePose.msg", "config/matcher.yaml",
                 "config/fastdds_shm.xml", "launch/matcher.launch.py"):  # fmt: skip
        assert data + name in names
    for name in ("stfm_ros/py.typed", "stfm_ros/nodes/matcher.py", "stfm_training/__init__.py"):
        assert name in names
    tracked = [path for folder in ("weights", "data", "templates") for path in (ROOT / "stfm_ros" / folder).rglob("*")]
    assert {str(path.relative_to(ROOT)) for path in tracked if path.is_file() and path.suffix != ".pyc"} <= set(names)
    assert not [name for name in names if name.endswith(".so") or name.startswith("test")]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("colcon", path=Path(sys.executable).parent), reason="colcon is not in the venv")
def test_colcon_builds_and_tests_a_workspace() -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(
        [ROOT / "test" / "colcon.sh", "-k", "test_packaging or lifecycle", "-m", "not slow"],
        capture_output=True, text=True, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert "0 errors, 0 failures" in run.stdout
