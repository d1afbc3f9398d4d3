"""A soak: the matcher node for as long as wanted, under faults drawn at random, and whether it stayed sound.

    python test/soak.py --minutes 60 --out runs/soak                        # a fake network, everything else real
    python test/soak.py --minutes 10 --out runs/soak-small --model small    # the shipped weights

A camera process (``fault_camera.py``) sends images; this one listens to all outputs, changes the node's life and
counts. After each fault images are good again: a pose has to come within a second, and the node's counts have to agree
with what was sent. Written are ``samples.csv`` (a line every ten seconds), ``soak.json`` (the verdict), ``soak.png``
(memory, threads, latency over time; needs matplotlib) and ``node.log``. Exit code 0 where all is well.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

import rclpy
from fault_bench import Listener
from fault_camera import CameraProcess
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_bench import HERE
from ros_bench import environment as of_tests
from std_srvs.srv import Trigger

from stfm_ros.msg import Correspondences

SAMPLE_S = 10.0
RECOVERY_S = 1.0
LATENCY_MS = 1000.0  #: no ten seconds may have a p95 above this
#: memory is flat where it grows by less than this share in the second half, or slower than this within two deviations
GROWTH, SLOPE_MB_H = 0.02, 1.0


def environment() -> dict[str, str]:
    """Of every process; in a domain that no test uses, which may run meanwhile."""
    return {**of_tests(), "ROS_DOMAIN_ID": str(215 + os.getpid() % 17)}


class Soak:
    """One soak.

    Attributes:
        faults: what went wrong, as (seconds since the start, words).
        acts: how often each fault was done.
    """

    def __init__(self, out: Path, seed: int, rate: float, model: str) -> None:
        self.out, self.rate, self.model = out, rate, model
        self.random = random.Random(seed)
        self.faults: list[tuple[float, str]] = []
        self.acts: Counter[str] = Counter()
        self.samples: list[dict[str, float]] = []
        self.latencies_ms: deque[float] = deque(maxlen=2000)
        self.recoveries_s: list[float] = []
        self.sent = self.received = self.uncounted = 0
        self.base = self.base_sent = 0  # what the node had received, and the camera sent, when counting began
        self.named: Counter[str] = Counter()
        self.started = time.monotonic()
        self.log = (out / "node.log").open("w")
        settings = {
            "odometry.scale": "odometry", "odometry.path_length": 100, "node.reliability": "reliable",
            "node.scale_reliability": "reliable", "node.diagnostics_period_s": 0.2, "node.debug_image_period_s": 1.0,
            **({"matcher.model": model, "matcher.threads": 1} if model else {}),
        }  # fmt: skip
        program = ["-m", "stfm_ros.nodes.matcher"] if model else [str(HERE / "fake_matcher_node.py"), "5"]
        arguments = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
        self.node = subprocess.Popen(
            [sys.executable, *program, "--ros-args", *arguments],
            env=environment(), stdout=self.log, stderr=self.log, text=True,
        )  # fmt: skip
        self.listener = Listener()
        self.camera = CameraProcess(environment(), demo=bool(model))

    # -- the measures --------------------------------------------------------------------------------

    def sample(self) -> None:
        """A line about the node's process and its results of the last ten seconds."""
        process = Path(f"/proc/{self.node.pid}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        ticks = (process / "stat").read_text().rpartition(")")[2].split()
        latencies = [self.latencies_ms.popleft() for _ in range(len(self.latencies_ms))]
        self.samples.append(
            {
                "elapsed_s": round(time.monotonic() - self.started, 1),
                "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
                "threads": int(status["Threads"]),
                "descriptors": len(list((process / "fd").iterdir())),
                "cpu_s": (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"),
                "waited_s": int((process / "schedstat").read_text().split()[1]) / 1e9,  # for a core, its main thread
                "load": os.getloadavg()[0],
                "latency_p50_ms": float(np.percentile(latencies, 50)) if latencies else np.nan,
                "latency_p95_ms": float(np.percentile(latencies, 95)) if latencies else np.nan,
                "results": len(latencies),
                **{name: self.listener.count(name) for name in ("received", "processed", "dropped", "failed", "lost")},
                "acts": sum(self.acts.values()),
                "faults": len(self.faults),
            }
        )

    def report(self, words: str) -> None:
        self.faults.append((round(time.monotonic() - self.started, 1), words))
        print(f"{self.faults[-1][0]:8.1f} s  {words}", flush=True)

    # -- the acts ------------------------------------------------------------------------------------

    def send(self, during: Callable[[], None] = lambda: None, exact: bool = True, **stretch: Any) -> dict[str, Any]:
        """A stretch of images, something done meanwhile, and the counts afterwards."""
        self.camera.begin(**{"rate": self.rate, **stretch})
        during()
        answer = self.camera.answer()
        self.measure(answer)
        if exact:
            self.sent += answer["sent"]
            self.check_counts()
        else:
            self.uncounted += answer["sent"]
        return answer

    def check_counts(self) -> None:
        wanted = self.sent - self.base_sent
        good = self.listener.wait(lambda: self.received_now() == wanted and self.listener.count("in_flight") == 0, 10)
        if not good:
            self.report(
                f"received {self.received_now()} of {wanted} images; in flight {self.listener.values.get('in_flight')}"
            )
            self.resume_counting()

    def received_now(self) -> int:
        """Images that the node knows of: those it has, and those it knows to be lost."""
        return self.known() - self.base

    def known(self) -> int:
        return self.listener.count("received") + self.listener.count("lost")

    def resume_counting(self) -> None:
        """Count from here: images were sent while nobody listened, or the node counts anew."""
        self.listener.settle()
        self.base, self.base_sent = self.known(), self.sent

    def measure(self, answer: dict[str, Any]) -> None:
        """Latencies of what came back, from sending to arrival here."""
        time.sleep(0.1)
        self.latencies_ms.extend(1e3 * seconds for seconds in self.listener.latencies_s(answer))

    def recover(self, name: str) -> None:
        """Good images; a pose has to come soon."""
        answer = self.send(count=int(2 * self.rate))
        took = self.listener.recovery_s(answer)
        self.recoveries_s.append(took)
        if took > RECOVERY_S:
            self.report(f"no pose within {RECOVERY_S:g} s after {name}: {took:.2f} s (load {os.getloadavg()[0]:.1f})")

    def run(self, minutes: float) -> None:
        """Until the time is over."""
        self.listener.wait(lambda: self.listener.values, 60)
        self.camera.send(count=1, rate=self.rate)  # both sides know each other from here on
        time.sleep(1.0)
        self.resume_counting()
        self.recover("start")
        acts = self.all_acts()
        deck: list[str] = []  # each fault comes as often as the others
        end, due = self.started + 60 * minutes, self.started + SAMPLE_S
        while time.monotonic() < end:
            if not deck:
                deck = self.random.sample(list(acts), len(acts))
            name = deck.pop()
            self.acts[name] += 1
            try:
                acts[name]()
                self.recover(name)
            except Exception as fault:  # the soak goes on, and says so
                self.report(f"{name}: {type(fault).__name__}: {fault}")
                if self.camera.process.poll() is not None:
                    self.camera = CameraProcess(environment(), demo=bool(self.model))
            if self.node.poll() is not None:
                self.report(f"the node ended with {self.node.returncode} during {name}")
                return
            if time.monotonic() >= due:
                self.sample()
                self.write_samples()
                due = time.monotonic() + SAMPLE_S
                line = self.samples[-1]
                print(
                    f"{line['elapsed_s']:8.1f} s  {line['rss_mb']:.1f} MB, {line['threads']} threads, p95 "
                    f"{line['latency_p95_ms']:.0f} ms, {line['acts']} acts, {line['faults']} faults",
                    flush=True,
                )

    def all_acts(self) -> dict[str, Callable[[], None]]:
        few, some = int(self.rate), int(2 * self.rate)

        def plain(**stretch: Any) -> Callable[[], None]:
            return lambda: void(self.send(**{"count": few, **stretch}))

        return {
            "nothing": plain(count=some),
            "dropped images": plain(drop_every=3),
            "repeated images": plain(twice_every=2),
            "images out of order": plain(swap_every=4),
            "bag loop": plain(jump_s=-30.0),
            "short bag loop": plain(jump_s=-0.5),
            "clock an hour ahead": plain(jump_s=3600.0),
            "clock an hour back": plain(jump_s=-3600.0),
            "a stamp of zero": plain(count=5, stamp_ns=0),
            "another size": plain(size=(320, 240)),
            "mono8": plain(encoding="mono8"),
            "yuv422": plain(encoding="yuv422_yuy2"),
            "unknown encoding": plain(encoding="h264"),
            "truncated images": plain(truncated=True),
            "black images": plain(value=0),
            "another frame": plain(frame_id="other_optical_frame"),
            "no frame": plain(frame_id=""),
            "calibration not finite": plain(info="nan"),
            "calibration of zeros": plain(info="zero"),
            "calibration of another model": plain(info="unknown_model"),
            "calibration of another size": plain(info="other_size"),
            "calibration changed": plain(info="zoomed"),
            "calibration late": plain(info_delay_s=0.3 / self.rate),
            "no calibration": plain(info="none"),
            "stall": lambda: time.sleep(self.random.uniform(2, 12)),
            "burst": plain(count=2 * some, rate=4 * self.rate),
            "publisher restarted": self.restart_camera,
            "publisher killed at work": self.kill_camera,
            "subscriber added": lambda: void(self.send(self.add_subscribers, count=some)),
            "subscriber that hangs": lambda: void(self.send(self.add_hanging_subscriber, count=some)),
            "services": lambda: void(self.send(self.call_services, count=some)),
            "parameters": lambda: void(self.send(self.change_parameters, count=some)),
            "deactivated": lambda: self.live(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE),
            "configured anew": lambda: self.live(
                Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE,
                Transition.TRANSITION_ACTIVATE,
            ),
        }  # fmt: skip

    def restart_camera(self) -> None:
        self.camera.kill()
        self.camera = CameraProcess(environment(), demo=bool(self.model))
        self.meet()

    def kill_camera(self) -> None:
        self.camera.begin(count=1000, rate=self.rate)
        time.sleep(0.5)
        self.restart_camera()

    def meet(self) -> None:
        """An image that may be lost, for the other side may not have heard of the camera yet."""
        self.camera.send(count=1, rate=self.rate)
        time.sleep(0.5)
        self.resume_counting()

    def add_subscribers(self) -> None:
        taken = [self.listener.create_subscription(Correspondences, "matches", lambda msg: None, 1) for _ in range(5)]
        time.sleep(0.5)
        for one in taken:
            self.listener.destroy_subscription(one)

    def add_hanging_subscriber(self) -> None:
        program = (
            "import rclpy, time; from stfm_ros.msg import Correspondences; rclpy.init();"
            "n = rclpy.create_node('hangs'); n.create_subscription(Correspondences, 'matches', print, 10);"
            "time.sleep(20)"
        )
        process = subprocess.Popen([sys.executable, "-c", program], env=environment())
        time.sleep(1.2)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        process.kill()
        process.wait()

    def call_services(self) -> None:
        for name in ("reset", "set_keyframe", "pause", "resume"):
            answer = self.listener.call(Trigger, f"/matcher/{name}", Trigger.Request())
            if answer is None or not answer.success:
                self.report(f"service {name} said {answer}")

    def change_parameters(self) -> None:
        for name, value in (
            ("tracker.reference", "previous"), ("pose.inlier_px", 2.0),
            ("tracker.reference", "keyframe"), ("pose.inlier_px", 1.5),
        ):  # fmt: skip
            request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
            answer = self.listener.call(SetParameters, "/matcher/set_parameters", request)
            if answer is None or not answer.results[0].successful:
                self.report(f"parameter {name} said {answer}")

    def live(self, *transitions: int) -> None:
        """Transitions under load; what is sent meanwhile is not counted."""

        def change() -> None:
            for one in transitions:
                request = ChangeState.Request(transition=Transition(id=one))
                answer = self.listener.call(ChangeState, "/matcher/change_state", request)
                if answer is None or not answer.success:
                    self.report(f"transition {one} said {answer}")

        counted = dict(self.listener.values)
        self.send(change, exact=False, count=int(2 * self.rate))
        if Transition.TRANSITION_CLEANUP in transitions:
            self.keep(counted)
        self.meet()

    def keep(self, values: dict[str, str]) -> None:
        """Remember the faults of a life that ended."""
        self.named.update({name: int(value) for name, value in values.items() if name.startswith("fault.")})

    # -- the verdict ---------------------------------------------------------------------------------

    def close(self) -> dict[str, Any]:
        """End everything, and say what came of it."""
        self.keep(self.listener.values)
        values = dict(self.listener.values)
        began = time.monotonic()
        code: int | None = self.node.poll()
        if code is None:
            self.camera.begin(count=200, rate=self.rate)
            time.sleep(0.5)
            began = time.monotonic()
            self.node.send_signal(signal.SIGINT)
            try:
                code = self.node.wait(10)
            except subprocess.TimeoutExpired:
                self.node.kill()
            if code != 0 or time.monotonic() - began > 2:
                self.report(f"the end under load took {time.monotonic() - began:.1f} s and gave {code}")
        self.camera.kill()
        self.listener.close()
        self.log.close()
        said = (self.out / "node.log").read_text()
        if "Traceback" in said:
            self.report("the log holds a traceback")
        if self.named["fault.internal"]:
            self.report(f"{self.named['fault.internal']} internal faults: {values.get('last_error')}")
        if self.listener.unbalanced:
            self.report(f"{len(self.listener.unbalanced)} reports whose counts do not add up")
        verdict = judge(self.samples)
        for words in verdict.pop("failed"):
            self.report(words)
        recoveries = np.array(self.recoveries_s)
        self.write_samples()
        verdict = {
            "passed": not self.faults,
            "minutes": round((time.monotonic() - self.started) / 60, 1),
            "model": self.model or "fake",
            "rate_hz": self.rate,
            "images_sent_and_counted": self.sent,
            "images_sent_during_transitions": self.uncounted,
            "messages": dict(self.listener.came),
            "acts": dict(sorted(self.acts.items())),
            "faults_named": dict(self.named),
            "recovery_s": {"p50": float(np.median(recoveries)), "max": float(recoveries.max())},
            **verdict,
            "violations": self.faults,
        }
        (self.out / "soak.json").write_text(json.dumps(verdict, indent=1))
        return verdict

    def write_samples(self) -> None:
        with (self.out / "samples.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.samples[0]) if self.samples else ["elapsed_s"])
            writer.writeheader()
            writer.writerows(self.samples)


def void(value: Any) -> None:
    """Throw a result away."""


def judge(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Figures of the samples, and what is wrong with them in ``failed``."""
    failed: list[str] = []
    if not samples:
        return {"failed": ["no samples: the soak was too short"]}
    table = {name: np.array([sample[name] for sample in samples], float) for name in samples[0]}
    seconds, rss = table["elapsed_s"], table["rss_mb"]
    half = seconds > seconds[-1] / 2
    tenth = max(1, len(rss) // 10)
    first, last = float(np.median(rss[half][:tenth])), float(np.median(rss[-tenth:]))
    slope, error = slope_of(seconds[half] / 3600, rss[half])
    if last > first * (1 + GROWTH) and slope - 2 * error > SLOPE_MB_H:
        failed.append(
            f"memory grew from {first:.1f} to {last:.1f} MB in the second half, by {slope:.2f} +- {error:.2f} MB an "
            f"hour: expected {100 * GROWTH:g} % or {SLOPE_MB_H:g} MB an hour at most"
        )
    for name in ("threads", "descriptors"):
        begin, end = np.median(table[name][:tenth]), np.median(table[name][-tenth:])
        if end > begin:
            failed.append(f"{name} grew from {begin:g} to {end:g}")
    p95 = table["latency_p95_ms"][np.isfinite(table["latency_p95_ms"])]
    if len(p95) and p95.max() > LATENCY_MS:
        failed.append(f"latency p95 of ten seconds was {p95.max():.0f} ms: expected {LATENCY_MS:g} at most")
    return {
        "failed": failed,
        "rss_mb": {
            "start": round(float(rss[0]), 1),
            "half": round(first, 1),
            "end": round(last, 1),
            "max": round(float(rss.max()), 1),
        },
        "rss_slope_mb_h": [round(slope, 3), round(error, 3)] if np.isfinite(error) else None,
        "threads": [float(table["threads"][0]), float(table["threads"][-1])],
        "descriptors": [float(table["descriptors"][0]), float(table["descriptors"][-1])],
        "latency_p95_ms": {"median": round(float(np.median(p95)), 1), "max": round(float(p95.max()), 1)},
        "load": {"median": float(np.median(table["load"])), "max": float(table["load"].max())},
        "waited_for_a_core_share": round(float(table["waited_s"][-1] / seconds[-1]), 3),
        "cpu_share": round(float(table["cpu_s"][-1] / seconds[-1]), 3),
    }


def slope_of(hours: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope of a line through means of blocks (neighbours are alike), and its standard error."""
    blocks = [part for part in np.array_split(np.stack([hours, values]), 12, axis=1) if part.shape[1]]
    if len(blocks) < 4:
        return 0.0, float("inf")
    x, y = np.array([block.mean(axis=1) for block in blocks]).T
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residuals = y - y.mean() - slope * centred
    return slope, float(np.sqrt(residuals @ residuals / (len(x) - 2) / (centred @ centred)))


def plot(samples: list[dict[str, float]], out: Path) -> None:
    """Memory, threads and descriptors, latency over the time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    minutes = [sample["elapsed_s"] / 60 for sample in samples]
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    axes[0].plot(minutes, [sample["rss_mb"] for sample in samples], color="tab:blue")
    axes[0].set_ylabel("resident memory, MB")
    for name, colour in (("threads", "tab:blue"), ("descriptors", "tab:orange")):
        axes[1].plot(minutes, [sample[name] for sample in samples], color=colour, label=name)
    axes[1].legend(loc="lower right")
    axes[1].set_ylabel("number")
    for name, colour in (("latency_p95_ms", "tab:orange"), ("latency_p50_ms", "tab:blue")):
        axes[2].plot(minutes, [sample[name] for sample in samples], color=colour, label=name[8:11])
    axes[2].legend(loc="upper right")
    axes[2].set_ylabel("image sent to pose here, ms")
    axes[2].set_xlabel("minutes")
    for one in axes:
        one.set_ylim(0, 1.15 * one.get_ylim()[1])
        one.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--rate", type=float, default=20.0, help="images per second")
    parser.add_argument("--model", default="", help="weights; a fake network where it is not given")
    parser.add_argument("--plot", action="store_true", help="only plot again what lies in --out, and judge its samples")
    options = parser.parse_args()
    if options.plot:
        with (options.out / "samples.csv").open(newline="") as file:
            samples = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        plot(samples, options.out / "soak.png")
        print(json.dumps(judge(samples), indent=1))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.update({key: value for key, value in environment().items() if key.startswith(("ROS_", "FASTRTPS"))})
    rclpy.init()
    soak = Soak(options.out, options.seed, options.rate, options.model)
    try:
        soak.run(options.minutes)
    except KeyboardInterrupt:
        soak.report("interrupted")
    verdict = soak.close()
    rclpy.try_shutdown()
    try:
        plot(soak.samples, options.out / "soak.png")
    except ModuleNotFoundError:
        print("no plot: pip install matplotlib")
    print(json.dumps(verdict, indent=1))
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
