"""What the recorder node costs and keeps: a 640x480 RGB-D camera at 30 Hz over DDS, played from a bag.

    python test/collect_bench.py office.mcap --seconds 20 [--realtime]
    python test/collect_bench.py office.mcap --kills 10

The camera is a process of its own that sends raw rgb8, 16UC1 and camera_info, back and forth through the bag. Frames
sent = taken + missed, taken = kept + left out: both are checked. CPU is that of the recorder's process. With --realtime
camera and recorder go before everything else on the machine, as if it were free. With --kills the recorder is killed
at random moments and started again, which finishes the bag that the kill left; what each kill cost is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from record_bench import RATE, TOPICS, frames, stamped
from ros_bench import environment
from sensor_msgs.msg import CameraInfo, Image

from stfm_ros.bags import BagReader
from stfm_ros.messages import stamp_ns

READY_S = 60.0
IMAGE = TOPICS[0].name


@dataclass(frozen=True)
class Case:
    """One run."""

    keep: str
    transport: str  #: shm is config/fastdds_shm.xml
    reliability: str


CASES = [
    Case(keep, transport, reliability)
    for transport, reliability in (("shm", "best_effort"), ("default", "reliable"), ("default", "best_effort"))
    for keep in ("chosen", "all")
]


def camera(bag: Path, seconds: float, reliability: str) -> None:
    """Wait for the recorder, play, and print the stamps of what was sent, one a line."""
    given = frames(bag, 60, "16UC1")
    back_and_forth = given + given[-2:0:-1]
    rclpy.init()
    node = rclpy.create_node("camera")
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    kinds = Image, Image, CameraInfo
    pubs = [node.create_publisher(kind, topic.name, qos) for kind, topic in zip(kinds, TOPICS)]
    while not all(pub.get_subscription_count() for pub in pubs):
        time.sleep(0.02)
    time.sleep(1.0)  # the other side may still be about to match
    began = time.monotonic()
    for i in range(int(seconds * RATE)):
        time.sleep(max(0.0, began + i / RATE - time.monotonic()))
        now_ns = time.time_ns()
        print(now_ns, flush=True)
        for pub, data in zip(pubs, back_and_forth[i % len(back_and_forth)]):
            pub.publish(stamped(data, now_ns))
    time.sleep(1.0)
    rclpy.try_shutdown()


@contextmanager
def process(command: list[str], case: Case, realtime: bool) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended."""
    env = environment()
    if case.transport == "default":
        del env["FASTRTPS_DEFAULT_PROFILES_FILE"]
    before = ["chrt", "--rr", "10"] if realtime else []
    started = subprocess.Popen(
        [*before, sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGINT)
        started.communicate(timeout=120)


def recorder(folder: Path, case: Case, realtime: bool) -> Any:
    """A recorder node."""
    given = {
        "bag.folder": folder, "topics.image": IMAGE, "topics.depth": TOPICS[1].name, "selection.keep": case.keep,
        "storage.keep_free_mb": 500,
    }  # fmt: skip
    words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
    return process(["-m", "stfm_ros.nodes.recorder", "--ros-args", *words], case, realtime)


def player(bag: Path, seconds: float, case: Case, realtime: bool) -> Any:
    """A camera."""
    words = [str(bag), "--camera", "--seconds", str(seconds), "--reliability", case.reliability]
    return process([str(Path(__file__).resolve()), *words], case, realtime)


def cpu_s(pid: int) -> float:
    """Of a process, since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def measure(bag: Path, case: Case, seconds: float, realtime: bool) -> dict[str, Any]:
    """One run."""
    folder = Path(tempfile.mkdtemp())
    with recorder(folder, case, realtime) as node, player(bag, seconds, case, realtime) as sender:
        assert sender.stdout is not None
        sent = [int(next(sender.stdout))]
        began, cpu = time.monotonic(), cpu_s(node.pid)
        sent += [int(line) for line in sender.stdout]
        share = (cpu_s(node.pid) - cpu) / (time.monotonic() - began)
        node.send_signal(signal.SIGINT)
        closing = time.monotonic()
        node.communicate(timeout=120)
        close_s = time.monotonic() - closing
    (written,) = folder.iterdir()
    about = json.loads((written / "manifest.json").read_text())
    topics = about["topics"]
    for topic in topics.values():
        assert topic["taken"] == topic["written"] + sum(topic["left_out"].values()), topic
    image = topics[IMAGE]
    ages_ms: list[float] = []
    if image["written"]:
        with BagReader(written) as reader:
            ages_ms = [(at - stamp_ns(msg.header)) / 1e6 for _, msg, at in reader.messages([f"{IMAGE}/compressed"])]
    found = {
        **vars(case),
        "sent": len(sent),
        "taken": image["taken"],
        "missed": image["missed"],
        "kept": image["written"],
        "left_out": image["left_out"],
        "depth_taken": topics[TOPICS[1].name]["taken"],
        "info_taken": topics[TOPICS[2].name]["taken"],
        "age_ms": np.percentile(ages_ms, (50, 95, 100)).round(1).tolist() if ages_ms else None,
        "core_share": round(share, 2),
        "slowest_sync_ms": round(about["slowest_sync_s"] * 1e3),
        "mb_a_second": round(sum(file["bytes"] for file in about["files"]) / 1e6 / seconds, 2),
        "close_s": round(close_s, 2),
        "load": round(os.getloadavg()[0], 1),
    }
    subprocess.run(["rm", "-r", folder], check=True)
    return found


def kill(bag: Path, folder: Path, case: Case, realtime: bool, after_s: float) -> dict[str, Any]:
    """Record, kill, and have the next start finish the bag; what was lost, and what was said of it."""
    with recorder(folder, case, realtime) as node, player(bag, 60.0, case, realtime) as sender:
        assert sender.stdout is not None
        sent = [int(next(sender.stdout))]
        end_ns = sent[0] + int(after_s * 1e9)
        for line in sender.stdout:
            sent.append(int(line))
            if sent[-1] >= end_ns:
                break
        node.kill()
        killed_ns = time.time_ns()
        sender.kill()
    (left,) = [path for path in folder.iterdir() if not (path / "metadata.yaml").exists()]
    with recorder(folder, case, realtime):
        deadline = time.monotonic() + READY_S
        while not (left / "manifest.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    about = json.loads((left / "manifest.json").read_text())
    with BagReader(left) as reader:
        stamps = {stamp_ns(msg.header) for _, msg, _ in reader.messages([f"{IMAGE}/compressed"])}
    lost = [stamp for stamp in sent if stamp not in stamps]
    return {
        "sent": len(sent),
        "lost": len(lost),
        "lost_s": round((killed_ns - max(stamps)) / 1e9, 2),
        "missed_by_dds": about["topics"][IMAGE]["missed"],
        **about["lost"][IMAGE],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--transport", choices=("shm", "default"), help="only these cases")
    parser.add_argument("--keep", choices=("chosen", "all"), help="only these cases")
    parser.add_argument("--camera", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--reliability", choices=("best_effort", "reliable"), help="only these cases")
    options = parser.parse_args()
    if options.camera:
        camera(options.bag, options.seconds, options.reliability)
        return
    if options.kills:
        folder, moments = Path(tempfile.mkdtemp()), random.Random(0)
        for _ in range(options.kills):
            found = kill(options.bag, folder, Case("all", "shm", "reliable"), options.realtime, moments.uniform(2, 5))
            print(json.dumps(found), flush=True)
        subprocess.run(["rm", "-r", folder], check=True)
        return
    for case in CASES:
        if all(getattr(options, name) in (None, value) for name, value in vars(case).items()):
            print(json.dumps(measure(options.bag, case, options.seconds, options.realtime)), flush=True)


if __name__ == "__main__":
    main()
