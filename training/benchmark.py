"""How fast a config trains here: its sources, its step, and the loop of both. docs/training.md has figures.

Each of the three is what a run uses: a pair of a source with its photometric changes, as a worker makes it; forward,
backward, optimiser and moving average on one batch; and ``stfm_training.run.train`` itself for some steps.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from stfm_ros.benchmark import Times, quartiles, timed
from stfm_ros.machine import cores
from stfm_training.batches import Batches
from stfm_training.config import TrainingConfig
from stfm_training.mix import Opened
from stfm_training.module import TrainingModule
from stfm_training.optimiser import make_optimiser, update_average
from stfm_training.run import LOG, make_networks, train
from stfm_training.sources.pair import Source
from stfm_training.sources.rendered import Rendered

#: steps behind one figure of the loop: a single one would be all waiting, or none
WINDOW = 5
LATE = 10**6  #: a step at which the data are as hard as they get


@dataclass(frozen=True)
class Case:
    """One thing that was timed.

    Attributes:
        kind: ``source``, ``step`` or ``loop``.
        name: of the source; the role that is trained.
        device, precision: where it ran; precision is empty where nothing is computed by the network.
        pairs: of one call.
        pairs_s: pairs a second, at the median.
        waiting: share of the time spent waiting for data; None but for the loop.
        ms: of one call (of the loop: one step).
    """

    kind: str
    name: str
    device: str
    precision: str
    pairs: int
    pairs_s: float
    waiting: float | None
    ms: Times


def devices() -> list[str]:
    """``cpu``, and ``cuda`` where torch has a GPU."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def device_name(device: str) -> str:
    """Of a GPU; empty for the CPU, which the machine's record names."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


def sources(config: TrainingConfig, opened: Opened, repeat: int, warm_up: int) -> Iterator[Case]:
    """Each line of the mix alone, in this process; the renderer on every device."""
    cv2.setNumThreads(1)
    lines = [line for line in config.mix if line.weight > 0]
    for line, (source, _) in zip(lines, opened.train, strict=True):
        drawn = devices() if isinstance(source, Rendered) else ["cpu"]
        for device in drawn:
            one = Rendered(source.textures, device) if isinstance(source, Rendered) else source
            name = f"{line.source} {line.path}".strip()
            yield _case("source", name, device, "", 1, _pairs(config, one, repeat, warm_up))


def _pairs(config: TrainingConfig, source: Source, repeat: int, warm_up: int) -> Times:
    data = config.data
    batches = Batches([(source, 1.0)], data.height, data.width, 1, config.run.seed, data.ramp_steps)
    steps = iter(range(LATE, LATE + repeat + warm_up))
    return timed(lambda: batches[next(steps)], repeat, warm_up)


def step(
    role: str, config: TrainingConfig, opened: Opened, device: str, precision: str, repeat: int, warm_up: int
) -> Case:
    """A whole step on a batch that lies on the device already."""
    config = replace(config, run=replace(config.run, precision=precision))
    data = config.data
    torch.set_num_threads(cores())
    batch = Batches(opened.train, data.height, data.width, data.pairs, config.run.seed, data.ramp_steps)[LATE].to(
        device
    )
    network, teacher = make_networks(role, config)
    module = TrainingModule(config, network, teacher, opened.train, [])
    module.to(device).train()
    optimiser, _ = make_optimiser(module.network, config.optimiser)
    done = iter(range(1, repeat + warm_up + 1))

    def one() -> None:
        losses, _ = module.objective(batch)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        nn.utils.clip_grad_norm_(module.network.parameters(), config.optimiser.clip)
        optimiser.step()
        update_average(module.average, module.network, config.optimiser.ema, next(done))
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return _case("step", role, device, precision, data.pairs, timed(one, repeat, warm_up))


def loop(role: str, config: TrainingConfig, opened: Opened, precision: str, repeat: int, warm_up: int) -> Case:
    """A run of ``repeat`` times :data:`WINDOW` steps, on the device that a run takes, with its workers."""
    steps = WINDOW * (repeat + warm_up)
    run = replace(
        config.run,
        precision=precision,
        log_every=WINDOW,
        checkpoint_every=steps,
        validate_every=0,
        max_minutes=0.0,
    )
    config = replace(config, run=run, optimiser=replace(config.optimiser, steps=steps))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice is for those who wrote the loop
        train(role, config, Path(folder), opened)
        lines = [json.loads(line) for line in (Path(folder) / LOG).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "pairs_s" in line][warm_up:]
    ms = quartiles([1e3 * config.data.pairs / line["pairs_s"] for line in lines])
    waiting = float(np.median([line["waiting"] for line in lines]))
    return replace(_case("loop", role, devices()[-1], precision, config.data.pairs, ms), waiting=waiting)


def _case(kind: str, name: str, device: str, precision: str, pairs: int, ms: Times) -> Case:
    return Case(kind, name, device, precision, pairs, 1e3 * pairs / ms.median, None, ms)
