"""``python -m stfm_training.calibration --out runs/calibration``: figures as JSON, and a plot of each part.

    --parts synthetic            2,000 two-view cases with known noise; needs nothing else
    --parts network              the network's own matches on rendered scenes; needs --photos
    --parts recorded             pairs of a recording; needs --bag

Parts that are not run stay as they are in the JSON of an earlier call.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from stfm_ros.config import MatcherConfig
from stfm_ros.matcher import Matcher
from stfm_training.calibration.plot import draw
from stfm_training.calibration.study import Step, Tally, network, recorded, synthetic
from stfm_training.sources.homographies import Homographies

PARTS = ("synthetic", "network", "recorded")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for calibration.json and the plots")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["synthetic"])
    parser.add_argument("--cases", type=int, default=2000, help="of the synthetic part")
    parser.add_argument("--pairs", type=int, default=200, help="of each of the other parts")
    parser.add_argument("--seed", type=int, default=2026, help="another one draws other cases")
    parser.add_argument("--model", default="default", help="a shipped name or an exported folder")
    parser.add_argument("--threads", type=int, default=0, help="of the network's runtime")
    parser.add_argument("--photos", type=Path, help="folder of photographs; those that training holds out are textures")
    parser.add_argument("--bag", type=Path, help="a bag with poses and depth")
    options = parser.parse_args()
    for part, needed in (("network", "photos"), ("recorded", "bag")):
        if part in options.parts and getattr(options, needed) is None:
            parser.error(f"--parts {part} needs --{needed}")
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        _write(_run(part, options), options)


def _run(part: str, options: argparse.Namespace) -> Tally:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(part, total=None)
        step: Step = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        if part == "synthetic":
            return synthetic(options.cases, options.seed, step)
        matcher = Matcher.from_pretrained(MatcherConfig(model=options.model, threads=options.threads))
        if part == "network":
            return network(
                matcher, Homographies(options.photos, validation=True).photos, options.pairs, options.seed, step
            )
        return recorded(matcher, options.bag, options.pairs, options.seed, step)


def _write(tally: Tally, options: argparse.Namespace) -> None:
    path = options.out / "calibration.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[tally.name] = {"seed": options.seed, **tally.record()}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    draw(tally, options.out / f"{tally.name}.png")
    table = Table("quantity", "errors", "68 %", "95 %", "NEES mean", "median", "expected", title=tally.name)
    record = tally.record()
    for group, rows in [("", record["coverage"]), *sorted(record["groups"].items())]:
        for name, row in rows.items():
            shares = (f"{100 * share:.1f}" for share in row["covered"])
            numbers = (f"{row['nees_mean']:.2f}", f"{row['nees_median']:.2f}", f"{row['nees_expected']:g}")
            table.add_row(f"{name} {group}".strip(), str(row["count"]), *shares, *numbers)
    Console(width=120).print(table)
    print(json.dumps({"status": record["status"], "median_error": record["median_error"]}))


if __name__ == "__main__":
    main()
