"""The launch file, run by ROS's launch with a node that needs no weights. On PyPI there is no launch: skipped there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("launch_ros.actions", reason="needs launch and launch_ros, of an installed ROS 2")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

from rcl_interfaces.srv import GetParameters
from ros_bench import HERE, environment, observer

ROOT = HERE.parent
RUN = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

service = LaunchService(noninteractive=True)
arguments = [tuple(word.split(":=")) for word in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=arguments))
sys.exit(service.run())
"""
EXECUTABLE = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(HERE)!r})
from fake_teacher_node import FakeMatcher, FakeTeacher
from stfm_ros.nodes.%s import main

print("profile", os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE"), flush=True)
sys.exit(main(load=lambda config: %s(config)))
"""
RECORDER = f"""#!{sys.executable}
import sys
from stfm_ros.nodes.recorder import main

sys.exit(main())
"""
EXECUTABLES = (
    ("stfm_ros", "recorder", RECORDER),
    ("stfm_ros", "matcher", EXECUTABLE % ("matcher", "FakeMatcher")),
    ("stfm_ros", "teacher", EXECUTABLE % ("teacher", "FakeTeacher")),
)
#: tells what it was started with
RVIZ = f"""#!{sys.executable}
import sys
print(sys.argv[1:], file=open(sys.argv[0] + ".said", "w"))
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An install space: this checkout's launch and config, nodes without weights, an rviz2."""
    for package, name, code in (*EXECUTABLES, ("rviz2", "rviz2", RVIZ)):
        index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / package).touch()
        (tmp_path / "share" / package).mkdir(exist_ok=True)
        script = tmp_path / "lib" / package / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(code)
        script.chmod(0o755)
    for folder in ("launch", "config"):
        (tmp_path / "share" / "stfm_ros" / folder).symlink_to(ROOT / folder)
    return tmp_path


@contextmanager
def launched(prefix: Path, *arguments: str, node: str = "matcher") -> Iterator[subprocess.Popen[str]]:
    """`ros2 launch`, without the ros2 command; what it says goes to launch.log."""
    env = environment() | {"ROS_LOG_DIR": str(prefix / "log")}
    env["AMENT_PREFIX_PATH"] = os.pathsep.join([str(prefix), env.get("AMENT_PREFIX_PATH", sys.prefix)])
    command = [sys.executable, "-c", RUN, str(ROOT / "launch" / f"{node}.launch.py"), *arguments]
    with (prefix / "launch.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)


def said(prefix: Path) -> str:
    return (prefix / "launch.log").read_text()


def test_arguments_reach_the_node(prefix: Path) -> None:
    file = prefix / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    matcher.threshold: 0.35\n    node.autostart: true\n    outputs.path: false\n"
    )
    arguments = (
        "namespace:=front", f"params_file:={file}", "use_sim_time:=true", "log_level:=debug", "respawn:=true",
        "fastdds_profile:=shm", "image:=/left/image_raw", "right_image:=/right/image_raw", "scale:=stereo",
        "rviz:=true", "tf:=false",
    )  # fmt: skip
    names = (
        "matcher.threshold", "use_sim_time", "odometry.scale", "node.autostart", "outputs.path", "outputs.tf",
        "node.compressed",
    )  # fmt: skip
    with observer() as watch, launched(prefix, *arguments):
        request = GetParameters.Request(names=names)
        found = watch.call(GetParameters, "/front/matcher/get_parameters", request).values
        assert found[0].double_value == 0.35 and found[2].string_value == "stereo"
        assert [one.bool_value for one in (found[1], *found[3:])] == [True, True, False, False, False]
        wanted = ("/left/image_raw", "/left/camera_info", "/right/image_raw", "/right/camera_info")
        watch.until("subscriptions", lambda: all(watch.count_subscribers(name) for name in wanted))
        assert watch.count_publishers("/front/relative_pose") == 1
        assert "[DEBUG]" in said(prefix), "log_level"
        assert f"profile {prefix}/share/stfm_ros/config/fastdds_shm.xml" in said(prefix)
        shown = (prefix / "lib" / "rviz2" / "rviz2.said").read_text()
        assert "config/stfm.rviz" in shown and "/odometry:=/front/odometry" in shown

        pids = subprocess.run(["pgrep", "-f", str(prefix / "lib/stfm_ros/matcher")], capture_output=True, text=True)
        (pid,) = pids.stdout.split()
        os.kill(int(pid), signal.SIGKILL)
        watch.until("end", lambda: "process has died" in said(prefix))
        watch.until("start anew", lambda: said(prefix).count("profile ") == 2)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("log_level:=loud", 'provided value "loud" is not valid. Valid options are'),
        ("use_sim_time:=yes", 'provided value "yes" is not valid. Valid options are'),
        ("params_file:=mine.yaml", "params_file: mine.yaml is no file; check its name, a relative one counts from /"),
        ("fastdds_profile:=udp", "fastdds_profile: udp is no file; check its name"),
        ("scale:=sonar", "odometry.scale: 'sonar' is not one of none, depth, stereo, odometry, twist"),
    ],
)
def test_a_wrong_value_ends_the_launch_and_is_named(prefix: Path, argument: str, words: str) -> None:
    with launched(prefix, argument) as process:
        process.wait(60)
    assert words in said(prefix)
    assert "relative_pose" not in said(prefix)


def test_a_teacher_is_beside_a_matcher_and_takes_the_topics_of_the_camera(prefix: Path) -> None:
    camera = "image:=/cam/rgb", "depth:=/cam/aligned", "depth_transport:=compressedDepth", "model:=/my/teacher"
    names = ("matcher.model", "odometry.scale", "node.depth_transport")
    with observer() as watch, launched(prefix, "image:=/cam/rgb"), launched(prefix, *camera, node="teacher"):
        request = GetParameters.Request(names=names)
        found = watch.call(GetParameters, "/teacher/teacher/get_parameters", request).values
        assert [one.string_value for one in found] == ["/my/teacher", "depth", "compressedDepth"]
        wanted = {"/cam/rgb": 2, "/cam/camera_info": 2, "/cam/aligned/compressedDepth": 1}
        watch.until("inputs", lambda: all(watch.count_subscribers(name) == n for name, n in wanted.items()))
        results = ("/relative_pose", "/teacher/relative_pose", "/teacher/matches", "/teacher/odometry")
        watch.until("outputs", lambda: all(watch.count_publishers(name) == 1 for name in results))


def test_a_teacher_left_alone_takes_image_and_depth_of_no_namespace(prefix: Path) -> None:
    with observer() as watch, launched(prefix, node="teacher"):
        wanted = ("/image", "/camera_info", "/depth")
        watch.until("inputs", lambda: all(watch.count_subscribers(name) == 1 for name in wanted))


def test_left_alone_the_file_rules(prefix: Path) -> None:
    file = prefix / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    node.autostart: false\n")
    with observer() as watch, launched(prefix, f"params_file:={file}"):
        request = GetParameters.Request(names=["node.autostart", "use_sim_time"])
        found = watch.call(GetParameters, "/matcher/get_parameters", request).values
        assert [one.bool_value for one in found] == [False, False]
        time.sleep(1.0)
        assert watch.count_publishers("relative_pose") == 0
        assert not (prefix / "lib" / "rviz2" / "rviz2.said").exists()


def test_data_are_collected_by_a_recorder_and_a_teacher(prefix: Path) -> None:
    """The texts of the arguments stay texts, whatever YAML would take them for."""
    folder = prefix / "2026"
    arguments = (
        "image:=/cam/rgb", "depth:=/cam/aligned", "depth_transport:=compressedDepth", "model:=/my/teacher",
        f"folder:={folder}", "note:=robot: cart", "keep:=all", "extra:=/tf,/tf_static", "max_mb:=100",
        "keep_free_mb:=16",
    )  # fmt: skip
    names = ("bag.note", "selection.keep", "topics.extra", "topics.relative_pose", "topics.student_check",
             "storage.max_mb")  # fmt: skip
    with observer() as watch, launched(prefix, *arguments, node="collect"):
        request = GetParameters.Request(names=names)
        found = watch.call(GetParameters, "/recorder/get_parameters", request).values
        texts = ["robot: cart", "all", "/teacher/odometry,/tf,/tf_static", "/teacher/relative_pose", ""]
        assert [one.string_value for one in found[:5]] == texts and found[5].integer_value == 100
        request = GetParameters.Request(names=["matcher.model"])
        (model,) = watch.call(GetParameters, "/teacher/teacher/get_parameters", request).values
        assert model.string_value == "/my/teacher"
        watch.until("inputs of the teacher", lambda: watch.count_subscribers("/cam/aligned/compressedDepth"))
        watch.until("results in the bag", lambda: watch.count_subscribers("/teacher/relative_pose"))
        assert len(list(folder.glob("bag_*/metadata.yaml"))) == 0 and len(list(folder.glob("bag_*"))) == 1
    assert len(list(folder.glob("bag_*/metadata.yaml"))) == 1, said(prefix)


def test_a_recorder_alone(prefix: Path) -> None:
    arguments = "teacher:=false", f"folder:={prefix}/bags", "keep_free_mb:=1"
    with launched(prefix, *arguments, node="collect") as process:
        process.wait(60)
    assert "storage.keep_free_mb: 1 is below the minimum 16" in said(prefix)
    assert "teacher" not in said(prefix)
