"""What every test needs before ROS's messages are imported, and which tests a machine without torch leaves out."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

# rclpy stores a wrong type silently unless this is set when the message classes are imported
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

# A robot has no torch, and `colcon test` has to pass there.
_NEEDS_TORCH = re.compile(r"^(import|from) (torch|stfm_ros\.model)\b", re.M)
collect_ignore = (
    []
    if find_spec("torch")
    else sorted(
        path.name
        for path in Path(__file__).parent.glob("test_*.py")
        if _NEEDS_TORCH.search(path.read_text(encoding="utf-8"))
    )
)


def pytest_report_header() -> str:
    """Say what is left out."""
    return f"without torch: {', '.join(collect_ignore)} left out" if collect_ignore else "with torch"
