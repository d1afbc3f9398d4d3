"""What follows from measured times: operations a second, the ratio to SIFT, the exponent of time over pixels.

This machine's peak is that of float32 products of two 2048x2048 matrices in NumPy, the best of several, with as many
threads as the case had. Arithmetic in bf16 or int8 may go beyond it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stfm_ros.benchmark import Case
from stfm_ros.fresh_process import run_fresh
from stfm_ros.machine import cores

ORDER = 2048  #: of the square matrices
RUNS = 16  #: of which the best counts
#: where the libraries under NumPy look for their number of threads
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
ON_CPU = ("openvino", "onnxruntime")

#: method, threads, name, weights_hash, runtime, precision
_Key = tuple[str, int, str | None, str | None, str | None, str | None]


@dataclass(frozen=True)
class Rate:
    """One graph of a case: 1e9 operations, as many a second at the median, and the share of the CPU's peak."""

    gflop: float
    gflop_s: float
    share_of_peak: float | None


@dataclass(frozen=True)
class Cost:
    """One method on pictures of several sizes: time = constant * pixels ** exponent, by stage.

    Attributes:
        method, threads: as in :class:`stfm_ros.benchmark.Case`.
        name, weights_hash, runtime, precision: of the model; None for a classical method.
        pixels: of the pictures.
        exponents: by stage; least squares of the logarithms of the medians.
    """

    method: str
    threads: int
    name: str | None
    weights_hash: str | None
    runtime: str | None
    precision: str | None
    pixels: tuple[int, ...]
    exponents: Mapping[str, float]


def measure_peak(threads: int) -> float:
    """GFLOP/s of float32 matrix products with so many threads; 0 are all cores that this process may use."""
    count = str(threads or cores())
    return run_fresh(matrix_products, environment=dict.fromkeys(BLAS_THREADS, count))


def matrix_products() -> float:
    """GFLOP/s of the best of :data:`RUNS`; with the threads that NumPy took when it was imported."""
    a, b = np.random.default_rng(0).random((2, ORDER, ORDER), np.float32)
    out = np.empty_like(a)
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        np.matmul(a, b, out=out)
        seconds.append(time.perf_counter() - began)
    return 2 * ORDER**3 / min(seconds) / 1e9


def rates(case: Case, peaks: Mapping[int, float], gpu: bool = False) -> dict[str, Rate]:
    """By graph; empty where the export did not count its operations.

    Args:
        peaks: GFLOP/s by number of threads.
        gpu: whether there is one, on which torch then runs.
    """
    found: dict[str, Rate] = {}
    if case.model is None:
        return found
    on_cpu = case.model.runtime in ON_CPU or (case.model.runtime == "torch" and not gpu)
    for stage, gflop in case.model.gflops.items():
        speed = gflop / (case.stages[stage].median / 1e3)
        found[stage] = Rate(gflop, speed, speed / peaks[case.threads] if on_cpu else None)
    return found


def beside_sift(case: Case, cases: Iterable[Case]) -> float | None:
    """The time of a frame as a multiple of SIFT's, on pictures of this size with as many threads."""
    for other in cases:
        same = (other.threads, other.width, other.height) == (case.threads, case.width, case.height)
        if other.method == "sift" and same:
            return case.stages["frame"].median / other.stages["frame"].median
    return None


def costs(cases: Sequence[Case]) -> list[Cost]:
    """Of each method that was measured at several sizes.

    Of a model: the same weights in networks of several sizes, each on pictures of its own size.
    """
    groups: dict[_Key, list[Case]] = defaultdict(list)
    for case in cases:
        key: _Key = (case.method, case.threads, None, None, None, None)
        if (model := case.model) is not None:
            if (model.width, model.height) != (case.width, case.height):
                continue
            key = (case.method, case.threads, model.name, model.weights_hash, model.runtime, model.precision)
        groups[key].append(case)
    found = []
    for key, members in groups.items():
        members.sort(key=lambda case: case.width * case.height)
        pixels = [case.width * case.height for case in members]
        if len(set(pixels)) > 1:
            medians = {stage: [case.stages[stage].median for case in members] for stage in members[0].stages}
            found.append(Cost(*key, tuple(pixels), {stage: exponent(pixels, ms) for stage, ms in medians.items()}))
    return found


def exponent(pixels: Sequence[int], ms: Sequence[float]) -> float:
    """Slope of the logarithm of the time over that of the pixels, by least squares."""
    return float(np.polyfit(np.log(pixels), np.log(ms), 1)[0])
