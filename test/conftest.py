"""What every test needs before ROS's messages are imported, and which tests a machine without torch leaves out."""

import os
import re
import signal
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

# rclpy stores a wrong type silently unless this is set when the message classes are imported
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
# read when torch is imported: threads that wait by spinning keep everything else from the cores, which made
# tests ten times as slow on a machine that had other things to do
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many tests at once as there are cores: threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell's background jobs ignore Ctrl-C, and so would all that they start, which tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("stfm", deadline=None)  # what an example takes is the machine's affair
    settings.load_profile("stfm")

# A robot has no torch and trains nothing, and `colcon test` has to pass there.
_NEEDS_TORCH = re.compile(r"^(import|from) (torch|stfm_ros\.model|stfm_training)\b", re.M)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first: one that came last would leave the other jobs with nothing to do."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder of 17 pictures with structure at several scales."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(17):
        noise = sum(
            cv2.resize(rng.random((n, n, 3), np.float32), (400, 300), interpolation=cv2.INTER_CUBIC)
            for n in (8, 24, 70)
        )
        cv2.imwrite(str(folder / f"{i:02d}.png"), (noise / 3 * 255).clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def picture():
    """The first frame of the demo's recording, (480, 640, 3) uint8 RGB."""
    import stfm_ros
    from stfm_ros.bags import IMAGE_TYPES, BagReader
    from stfm_ros.images import decode_image

    with BagReader(Path(stfm_ros.__file__).parent / "data" / "demo.mcap") as bag:
        return decode_image(next(iter(bag.messages([bag.find_topic(IMAGE_TYPES)])))[1])


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The shipped weights exported anew by the code as it is, fp32 and fp16, at 320x256: small, so that tests are."""
    pytest.importorskip("torch", reason="weights are exported by torch")
    from stfm_ros.runtimes.store import find_model
    from stfm_training.export import export

    out = tmp_path_factory.mktemp("exported") / "model"
    export(find_model("default").weights, out, "small", height=256, width=320, k=512, sigma_scale=0.5)
    return out


@pytest.fixture(scope="module")
def one_thread():
    """Networks as small as those of the tests gain nothing from a second one, and lose much where two wait."""
    torch = pytest.importorskip("torch", reason="training needs .[train]")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
