"""The page of an adaptation: the verdict and what it rests on, the training's report, and what the bags are like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stfm_ros.report import Finding, Heading, Report, Table
from stfm_training.gate import Verdict
from stfm_training.inspection import Inspection
from stfm_training.inspection.page import make_page
from stfm_training.inspection.problem import ERROR, WARNING
from stfm_training.reporting.page import training_page
from stfm_training.reporting.record import TrainingReport
from stfm_training.reporting.run_folder import RunFolder


def adaptation_page(
    run: RunFolder, training: TrainingReport, inspections: Sequence[Inspection], verdict: Verdict, engine: str
) -> Report:
    """One page: verdict, before and after, the run, the bags."""
    trained, inspected = training_page(run, training), make_page(inspections)
    rows = tuple(
        ("yes" if one.passed else "NO", *one.name.partition(", ")[::2], one.found, one.needed) for one in verdict.checks
    )
    rule = Table(
        "What had to hold", ("holds", "check", "of", "found", "needed"), rows,
        "The interval is a paired bootstrap over groups of pairs that share their first image. It says how far the "
        "choice of pairs could mislead on this recording; not what another day or other light would bring.",
        texts=5,
    )  # fmt: skip
    problems = [
        Finding(f"{one.path.name}: {problem}.", "bad" if problem.severity == ERROR else "")
        for one in inspections
        for problem in one.problems
        if problem.severity in (ERROR, WARNING)
    ]
    return replace(
        trained,
        findings=(Finding(verdict.text, "good" if verdict.accepted else "bad"), *problems, *trained.findings),
        parts=(Heading("Verdict", f"engine: {engine}"), rule, *trained.parts, Heading("The bags"), *inspected.parts),
    )
