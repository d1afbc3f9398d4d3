"""The card that travels with a file of weights: README.md beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from stfm_ros import __version__
from stfm_training.reporting.record import Data, TrainingReport
from stfm_training.reporting.run_folder import RunFolder, commit
from stfm_training.reporting.tables import table_columns, table_row
from stfm_training.reporting.verdict import comparisons, licence_notes, licence_of


def model_card(run: RunFolder, report: TrainingReport, page: str) -> str:
    """Markdown: what the weights are, how good, made from what, under which terms.

    Args:
        page: name of the file with plots and pictures.
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    weights = run.weights
    kind = "RGB-D teacher (colour and depth)" if weights.channels == 4 else "RGB student"
    steps = f", {int(max(line['step'] for line in run.log))} steps" if run.log else ""
    lines = [
        f"# Model card: {report.title}",
        "",
        f"{kind} of 3DG-STFM, preset `{weights.preset}`: {weights.parameters / 1e6:.2f} M parameters. Weights "
        f"`{weights.hash}`{steps}. Made with stfm_ros {__version__} (commit {commit()}), {now}. Plots and pictures: "
        f"[{page}]({page}).",
        "",
        f"Licence of the weights: {licence_of(run, report)}.",
    ]
    lines += ["", "## Figures"]
    found = comparisons(report.evaluations)
    lines += ["", *(f"- {one.text}" for one in sorted(found, key=lambda one: one.tone != "bad"))] if found else []
    for evaluation in report.evaluations:
        one = next(iter(evaluation.main.values()))
        rows = [table_row(score) for scores in evaluation.scores.values() for score in scores.values()]
        lines += ["", f"### {evaluation.name}", ""]
        lines += [f"{evaluation.relation[:1].upper()}{evaluation.relation[1:]}."] if evaluation.relation else []
        lines += [f"{one.pairs} pairs, {one.image_size}; in %, 95 % intervals over the pairs in brackets.", ""]
        lines += _table(table_columns(one), rows)
    if not report.evaluations:
        lines += ["", "Not measured."]
    failures = [shown for evaluation in report.evaluations for shown in evaluation.shown if "Failure" in shown.title]
    if failures:
        lines += ["", "## Known failures", "", *(f"- {shown.title}: {shown.note}" for shown in failures)]
    if report.data:
        lines += ["", "## Data", ""]
        lines += _table(("data", "use", "licence", "images", "pairs", "SHA-256"), [_about(one) for one in report.data])
        left_out = [(d.name, reason, str(n)) for d in report.data for reason, n in d.left_out.items() if n]
        lines += ["", *_table(("left out of", "reason", "count"), left_out)] if left_out else []
    lines += ["", "## Licences and patent", "", *(f"- {note}" for note in licence_notes(run, report))]
    lines += ["", "## Notes", "", *(f"- {note}" for note in report.notes)] if report.notes else []
    if run.config:
        lines += ["", "## Config", "", "```yaml", run.config.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _about(data: Data) -> tuple[str, ...]:
    counts = ("" if count is None else str(count) for count in (data.images, data.pairs))
    return (data.name, data.use, data.licence or "not stated", *counts, data.sha256)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
