"""``stfm bench``: what each stage costs here, beside classical methods (``stfm_ros.benchmark``, ``stfm_ros.cost``)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.table import Table

from stfm_ros.cli.command import Command, Outcome, Screen, table
from stfm_ros.cli.options import MACHINE_FIELDS, at_least, image_size

if TYPE_CHECKING:
    from stfm_ros.benchmark import Case, Job, PicturePair, Times
    from stfm_ros.config import MatcherConfig
    from stfm_ros.cost import Cost, Rate


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", default="default", metavar="LIST", help="shipped names or exported folders (default: default)"
    )
    parser.add_argument(
        "--runtimes", default="auto", metavar="LIST", help="e.g. openvino,torch; all for those that can be had"
    )
    parser.add_argument(
        "--precisions", default="auto", metavar="LIST", help="some of auto (default), fp32, bf16, fp16, int8"
    )
    parser.add_argument(
        "--threads", default="0", metavar="LIST", help="e.g. 1,2,4; 0 leaves it to the runtime (default)"
    )
    parser.add_argument(
        "--peers",
        default="sift,orb,akaze",
        metavar="LIST",
        help="what stands beside (default: sift,orb,akaze), or none",
    )
    parser.add_argument(
        "--size", type=image_size, action="append", metavar="WxH",
        help="of the pictures; may be repeated (default: that of each model's network)",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, nargs=2, metavar=("A", "B"), help="two pictures instead of the demo's")
    parser.add_argument("--repeat", type=at_least(2), default=20, metavar="N", help="timed runs a stage (default 20)")
    parser.add_argument(
        "--warm-up", type=at_least(0), default=3, metavar="N", help="runs before, not timed (default 3)"
    )
    parser.add_argument(
        "--node", action="store_true",
        help="also the demo's recording through the real node, with the first of each list (needs ROS 2)",
    )  # fmt: skip


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros import benchmark, cost, machine
    from stfm_ros.demo import require_ros

    wanted = benchmark.configs(options.models, options.runtimes, options.precisions, options.threads)
    jobs = benchmark.plan(wanted, benchmark.peer_names(options.peers), options.size)
    if options.node:
        require_ros()
    pair = benchmark.picture_pair(options.images)
    cases, left_out = _measure(jobs, pair, options, screen)
    peaks = {threads: cost.measure_peak(threads) for threads in dict.fromkeys(case.threads for case in cases)}
    gpu = machine.gpu().available
    rates = [cost.rates(case, peaks, gpu) for case in cases]
    beside_sift = [cost.beside_sift(case, cases) for case in cases]
    costs = cost.costs(cases)
    node = _play(wanted[0], screen) if options.node else None
    about = machine.about_machine()
    screen.show(f"{about['cpu']}, {about['cores']} cores; {options.repeat} runs after {options.warm_up}; ms\n")
    screen.show(_stages(cases, rates))
    screen.show()
    screen.show(_frames(cases, beside_sift))
    if costs:
        screen.show("\ntime = constant * pixels ^ exponent\n")
        screen.show(_exponents(costs))
    screen.show("\npeak: " + ", ".join(f"{peak:.0f} GFLOP/s, threads {_threads(n)}" for n, peak in peaks.items()))
    if node is not None:
        screen.show(f"\nthe node, {node['model']} on {node['runtime']}: {node['received']} images over DDS\n")
        screen.show(_latencies(node["latency_ms"]))
    for reason in dict.fromkeys(one["reason"] for one in left_out):
        screen.say("left out: " + "; ".join(one["what"] for one in left_out if one["reason"] == reason))
        screen.say(f"  {reason}")
    return Outcome(
        {
            "machine": about,
            "versions": machine.versions(),
            "pictures": pair.names,
            "repeat": options.repeat,
            "warm_up": options.warm_up,
            "cases": [
                asdict(case)
                | {"rates": {graph: asdict(one) for graph, one in rate.items()}, "frame_beside_sift": ratio}
                for case, rate, ratio in zip(cases, rates, beside_sift)
            ],
            "left_out": left_out,
            "peak_gflop_s": peaks,
            "costs": [asdict(one) for one in costs],
            "node": node,
        }
    )


def _measure(
    jobs: list[Job], pair: PicturePair, options: argparse.Namespace, screen: Screen
) -> tuple[list[Case], list[dict[str, str]]]:
    """The cases; and the jobs that could not be done, with the reasons.

    Raises:
        RuntimeNotAvailable: no model could be measured.
    """
    from stfm_ros.benchmark import measure
    from stfm_ros.errors import RuntimeNotAvailable, StfmError
    from stfm_ros.fresh_process import run_fresh

    cases: list[Case] = []
    left_out: list[dict[str, str]] = []
    with screen.progress("measuring") as step:
        for done, job in enumerate(jobs):
            step(done, len(jobs))
            try:
                cases.append(run_fresh(measure, job, pair, options.repeat, options.warm_up))
            except StfmError as fault:
                left_out.append({"what": str(job), "reason": str(fault)})
        step(len(jobs), len(jobs))
    if not any(case.model for case in cases):
        reasons = [f"  {one['what']}: {one['reason']}" for one in left_out]
        raise RuntimeNotAvailable("\n".join(["no model could be measured:", *reasons]))
    return cases, left_out


def _play(config: MatcherConfig, screen: Screen) -> dict[str, Any]:
    """The demo's recording through the real node over DDS."""
    from stfm_ros.demo import run_demo

    settings = {"model": config.model, "runtime": config.runtime, "precision": config.precision}
    parameters = {f"matcher.{name}": value for name, value in settings.items()}
    with TemporaryDirectory(prefix="stfm_bench_") as out, screen.progress("playing") as step:
        played = run_demo(out, parameters={**parameters, "matcher.threads": config.threads}, progress=step).to_dict()
    about = {"model": played["about"].get("model"), "runtime": played["about"].get("runtime")}
    return about | {key: played[key] for key in ("sent", "received", "dropped", "posed", "latency_ms")}


# -- for people --------------------------------------------------------------------------------------------------------


def _stages(cases: Sequence[Case], rates: Sequence[Mapping[str, Rate]]) -> Table:
    rows = table("method", "threads", "pictures", "stage", "median", "IQR", "p95", "GFLOP", "GFLOP/s", "of peak")
    for case, rate in zip(cases, rates):
        for stage, ms in case.stages.items():
            one = rate.get(stage)
            work = (f"{one.gflop:.1f}", f"{one.gflop_s:.0f}", _share(one.share_of_peak)) if one else ("", "", "")
            rows.add_row(*_case(case), stage, *_times(ms), *work)
        rows.add_section()
    return rows


def _frames(cases: Sequence[Case], beside_sift: Sequence[float | None]) -> Table:
    rows = table("method", "threads", "pictures", "matches", "frame", "IQR", "p95", "/ SIFT", "load s", "MiB", "before")
    for case, ratio in zip(cases, beside_sift):
        load = f"{case.model.load_s:.1f}" if case.model else ""
        memory = (f"{case.memory_mib:.0f}", f"{case.memory_before_mib:.0f}")
        beside = "" if ratio is None else f"{ratio:.2f}"
        rows.add_row(*_case(case), str(case.matches), *_times(case.stages["frame"]), beside, load, *memory)
    return rows


def _exponents(costs: Sequence[Cost]) -> Table:
    stages = list(dict.fromkeys(stage for cost in costs for stage in cost.exponents))
    rows = table("method", "threads", "sizes", *stages)
    for cost in costs:
        method = " ".join(filter(None, (cost.name or cost.method, cost.runtime, cost.precision)))
        found = (f"{cost.exponents[stage]:.2f}" if stage in cost.exponents else "" for stage in stages)
        rows.add_row(method, _threads(cost.threads), str(len(cost.pixels)), *found)
    return rows


def _latencies(latency_ms: Mapping[str, Mapping[str, float | None]]) -> Table:
    rows = table("stage", "median", "p95")
    for stage, ms in latency_ms.items():
        rows.add_row(stage, *("" if ms[key] is None else f"{ms[key]:.1f}" for key in ("median", "p95")))
    return rows


def _case(case: Case) -> tuple[str, str, str]:
    model = case.model
    method = f"{Path(model.given).name} {model.runtime} {model.precision}" if model else case.method
    return method, _threads(case.threads), f"{case.width}x{case.height}"


def _times(ms: Times) -> tuple[str, str, str]:
    return f"{ms.median:.1f}", f"{ms.q25:.1f}-{ms.q75:.1f}", f"{ms.p95:.1f}"


def _threads(count: int) -> str:
    return str(count) if count else "auto"


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


COMMAND = Command(
    name="bench",
    summary="time each stage on this machine, beside SIFT, ORB and AKAZE",
    description=(
        "Time each stage on two pictures (of the demo's recording, unless others are given), for every combination of "
        "the models, runtimes, precisions and numbers of threads; each in a fresh process. What cannot be had is left "
        "out, with its reason. The stages are fit (picture to the network's input), features (the network on one "
        "picture), pair (the network on two encoded pictures), select (rows of the network to matches), geometry "
        "(relative pose of these matches), and frame, all of them as for each image of a camera, its reference being "
        "encoded already. SIFT, ORB and AKAZE have features (of one picture), match (of two described pictures), "
        "geometry, frame, and both (two pictures described and matched). To see what pixels cost, give exports of the "
        "same weights in several sizes: stfm export default --width 320 --height 256 --out small_pictures. This "
        "machine's peak is that of float32 products of 2048x2048 matrices in NumPy with as many threads; bf16 and int8 "
        "may go beyond it."
    ),
    example="stfm bench --models default,small_pictures --precisions fp32,bf16 --threads 1,2",
    negative="",
    fields={
        **MACHINE_FIELDS,
        "versions": "by distribution",
        "pictures": "what was matched",
        "repeat": "timed runs of each stage",
        "warm_up": "runs before them",
        "cases": "one object for each method, number of threads and size:",
        "cases[].method": "stfm, sift, orb or akaze",
        "cases[].model": "null for SIFT, ORB and AKAZE, else:",
        "cases[].model.given": "as in --models",
        "cases[].model.name": "of the model",
        "cases[].model.weights_hash": "first 12 hex digits of the SHA-256 over its weights",
        "cases[].model.width": "of the network's input, px",
        "cases[].model.height": "of the network's input, px",
        "cases[].model.runtime": "what ran it",
        "cases[].model.precision": "of its arithmetic",
        "cases[].model.load_s": "time to load it, s",
        "cases[].model.gflops": "1e9 operations by graph, counted at export; empty in exports that did not",
        "cases[].threads": "CPU threads; 0 is the runtime's own choice, for OpenCV all cores",
        "cases[].width": "of the pictures, px",
        "cases[].height": "of the pictures, px",
        "cases[].matches": "of the pair",
        "cases[].memory_before_mib": "most memory of the process before the model was loaded, MiB; not that of a GPU",
        "cases[].memory_mib": "most memory of the process, MiB; not that of a GPU",
        "cases[].stages": "by stage: median, q25, q75, p95, ms",
        "cases[].rates": "by graph, where its operations were counted: gflop; gflop_s at the median time; "
        "share_of_peak, null where it ran on a GPU",
        "cases[].frame_beside_sift": "median of frame as a multiple of SIFT's with as many threads; null without SIFT",
        "left_out": "one object for each combination that cannot be had:",
        "left_out[].what": "the combination",
        "left_out[].reason": "why",
        "peak_gflop_s": "this machine's measured peak, GFLOP/s, by number of threads (0: all cores)",
        "costs": "one object for each method that was measured at several sizes (a model: the same weights):",
        "costs[].method": "stfm, sift, orb or akaze",
        "costs[].threads": "as in cases",
        "costs[].name": "of the model; this and the next three are null for SIFT, ORB and AKAZE",
        "costs[].weights_hash": "of the model",
        "costs[].runtime": "what ran it",
        "costs[].precision": "of its arithmetic",
        "costs[].pixels": "of the pictures, by size",
        "costs[].exponents": "by stage: time is a constant times pixels to this power (least squares of logarithms)",
        "node": "null without --node, else:",
        "node.model": "name of the model",
        "node.runtime": "what ran it",
        "node.sent": "images that were published",
        "node.received": "images that came in at the node",
        "node.dropped": "of these, those that made way for a newer one",
        "node.posed": "images whose relative pose has a rotation",
        "node.latency_ms": "median and p95 by stage, ms; overhead is the node's own work (docs/node.md)",
    },
    arguments=arguments,
    execute=execute,
)
