"""Measure the inspection: bags that are good, and the same with one thing wrong.

    python -m stfm_training.inspection.study hololens.mcap tum.mcap --json study.jsonl

Prints a row for each fault: of each bag the severity with which one of the expected checks told it; else the check that
called the bag useless for another reason; or a dash.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stfm_ros.errors import StfmError
from stfm_training.inspection.faults import FAULTS, corrupt
from stfm_training.inspection.inspection import FRAMES, inspect_bag
from stfm_training.inspection.problem import ERROR, NOTE


def measure(bag: Path, name: str, folder: Path, frames: int) -> dict[str, Any]:
    """Inspect a bag with this fault."""
    made, copy = FAULTS[name], folder / "faulty.mcap"
    corrupt(bag, copy, made.make)
    began = time.perf_counter()
    try:
        found = inspect_bag(copy, frames=frames)
        told = [(problem.severity, problem.check, problem.value) for problem in found.problems]
        usable = found.usable
    except StfmError as fault:
        told, usable = [("refused", "bag", str(fault))], False
    finding = next((severity for severity, check, _ in told if check in made.checks and severity != NOTE), "")
    seconds = time.perf_counter() - began
    return {"bag": bag.stem, "fault": name, "found": finding, "usable": usable, "told": told, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bags", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="a line for each bag and fault")
    parser.add_argument("--only", action="append", choices=tuple(FAULTS), help="may be repeated")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"looked at, of each bag (default {FRAMES})")
    options = parser.parse_args()
    print(f"| fault | {' | '.join(bag.stem for bag in options.bags)} |")
    print(f"|---|{'---|' * len(options.bags)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or FAULTS:
            cells = []
            for bag in options.bags:
                result = measure(bag, name, Path(folder), options.frames)
                if options.json:
                    with options.json.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(result) + "\n")
                others = ", ".join(f"{check} ({severity})" for severity, check, _ in result["told"])
                instead = next((f"only {check}" for severity, check, _ in result["told"] if severity == ERROR), "-")
                cells.append((result["found"] or instead) if FAULTS[name].checks else others or "nothing")
            print(f"| {name} | {' | '.join(cells)} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
