"""What runs here: versions, runtimes, models, ROS. Looked up without importing what is heavy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

from stfm_ros import __version__
from stfm_ros.errors import StfmError

#: what a figure depends on, by distribution name
LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-bindings",
    "torch",
    "poselib",
    "rosbags",
    "rclpy",
)


@dataclass(frozen=True)
class Availability:
    """Whether something can be used here, and why, or what to do about it."""

    available: bool
    reason: str


def processor() -> str:
    """The name of the CPU, as well as it can be had."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def multiplies_bfloat16() -> bool:
    """Whether the CPU says that it has instructions for it: AVX512_BF16, AMX, or Arm's BF16."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    known = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(known)


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mib() -> float:
    """The most memory that this process has held."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):  # not Linux; getrusage tells there of the process that started this one, too
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def about_machine() -> dict[str, str | int]:
    """CPU, cores, system and Python."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """This package and the libraries of :data:`LIBRARIES` that are installed."""
    found = {"stfm_ros": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def runtimes() -> dict[str, Availability]:
    """By name, whether the inference runtime can be had."""
    from stfm_ros.runtimes import RUNTIMES, is_installed, why_not

    found = {}
    for name, (module, _) in RUNTIMES.items():
        if not is_installed(name):
            found[name] = Availability(False, f"the Python module {module} is not installed: pip install {module}")
        else:
            missing = why_not(name)
            found[name] = Availability(not missing, missing or f"the Python module {module} is installed")
    return found


def gpu() -> Availability:
    """Whether there is an NVIDIA GPU, and which."""
    from stfm_ros.runtimes.gpu import find_gpu

    try:
        found = find_gpu()
    except StfmError as fault:
        return Availability(False, str(fault))
    return Availability(True, f"{found.name}, {found.compute_capability}, {found.memory_bytes / 2**30:.1f} GiB")


def ros() -> Availability:
    """Whether ROS 2's Python client is there."""
    distro = os.environ.get("ROS_DISTRO", "")
    spec = importlib.util.find_spec("rclpy")
    if spec is not None and spec.origin:
        return Availability(True, f"rclpy {f'of ROS 2 {distro} ' if distro else ''}in {Path(spec.origin).parent}")
    sourced = f"ROS_DISTRO is {distro}, but this Python ({platform.python_version()}) has no rclpy: use ROS's Python"
    return Availability(
        False,
        f"{sourced}, or a venv made with --system-site-packages"
        if distro
        else "rclpy cannot be imported: source ROS 2 (/opt/ros/<distro>/setup.bash), or pip install -r "
        "requirements/ros-jazzy.txt",
    )


def ros_messages() -> Availability:
    """Whether the package's own messages were generated."""
    if importlib.util.find_spec("stfm_ros.msg") is not None:
        return Availability(True, "stfm_ros.msg is installed")
    return Availability(
        False,
        "stfm_ros.msg was not generated when the package was installed: with ROS 2, cmake and a C++ compiler there, "
        "run STFM_ROS_MSGS=1 pip install --no-build-isolation . (or build the workspace with colcon)",
    )
