"""What a training run came to: one page with plots and pictures, the same as JSON, and the card of the new weights.

    methods = {"before": as_method(old), "after": as_method(new), "teacher": as_method(teacher)}
    kitchen = evaluate_recording("kitchen.mcap", methods, pairs, "never trained on")
    write_training_report(run_folder, TrainingReport("kitchen student", (kitchen,), data))

The run folder holds ``config.yaml``, ``log.jsonl`` and ``weights.safetensors`` and gets ``report.html``,
``report.json`` and ``README.md``. Losses stand beside wins: where the new weights are worse than the old ones, the page
begins with it. The page shows images of the recordings that were measured on: mind their terms before you pass it on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stfm_ros.errors import ConfigError
from stfm_ros.machine import about_machine, versions
from stfm_ros.report import write_report
from stfm_training.reporting.card import model_card
from stfm_training.reporting.page import facts_of, training_page
from stfm_training.reporting.record import AFTER, BEFORE, PATENT, VANILLA, Data, Evaluation, Shown, TrainingReport
from stfm_training.reporting.recordings import evaluate_recording
from stfm_training.reporting.run_folder import RunFolder
from stfm_training.reporting.verdict import comparisons, licence_of

__all__ = [
    "AFTER", "BEFORE", "VANILLA", "Data", "Evaluation", "Shown", "TrainingReport", "evaluate_recording",
    "write_training_report",
]  # fmt: skip

PAGE, RECORD, CARD = "report.html", "report.json", "README.md"


def write_training_report(run_folder: Path, report: TrainingReport) -> tuple[Path, Path, Path]:
    """Write ``report.html``, ``report.json`` and ``README.md`` into the run folder.

    Raises:
        WeightsError: the folder holds no weights.
        ConfigError: a file cannot be written.
    """
    run = RunFolder.read(run_folder)
    paths = run_folder / PAGE, run_folder / RECORD, run_folder / CARD
    record = to_dict(run, report)
    write_report(paths[0], training_page(run, report))
    for path, text in ((paths[1], json.dumps(record, indent=1, allow_nan=False) + "\n"),
                       (paths[2], model_card(run, report, PAGE))):  # fmt: skip
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as fault:
            raise ConfigError(
                f"{path} cannot be written ({fault}); free some space there, then report again"
            ) from fault
    return paths


def to_dict(run: RunFolder, report: TrainingReport) -> dict[str, Any]:
    """For JSON: everything but the pictures; what is not finite becomes None."""
    record = {
        "title": report.title,
        "weights": asdict(run.weights) | {"licence": licence_of(run, report)},
        "findings": [asdict(one) | {"text": one.text} for one in comparisons(report.evaluations)],
        "evaluations": [
            {
                "name": one.name,
                "relation": one.relation,
                "scores": [score.to_dict(True) for scores in one.scores.values() for score in scores.values()],
                "shown": [{"title": shown.title, "note": shown.note} for shown in one.shown],
            }
            for one in report.evaluations
        ],
        "data": [asdict(one) for one in report.data],
        "notes": list(report.notes),
        "config": run.config,
        "log": list(run.log),
        "facts": facts_of(run, report),
        "machine": about_machine(),
        "versions": versions(),
        "patent": PATENT,
    }
    plain: dict[str, Any] = _plain(record)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
