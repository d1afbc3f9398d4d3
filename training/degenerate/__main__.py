"""``python -m stfm_training.degenerate --out runs/degenerate``: a table, degenerate.json and a picture of the films."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from stfm_ros.config import MatcherConfig
from stfm_ros.matcher import Matcher
from stfm_ros.types import ByteArray
from stfm_training.degenerate.sequences import KINDS, render
from stfm_training.degenerate.study import Row, run
from stfm_training.sources.homographies import Homographies


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for degenerate.json and films.jpg")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--films", type=int, default=12, help="of each kind")
    parser.add_argument("--seed", type=int, default=2001, help="of the first film; another one draws other films")
    parser.add_argument("--model", default="default", help="a shipped name or an exported folder")
    parser.add_argument("--threads", type=int, default=0, help="of the network's runtime")
    parser.add_argument("--photos", type=Path, help="folder of photographs; those that training holds out are textures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    photos = Homographies(options.photos, validation=True).photos if options.photos else []
    matcher = Matcher.from_pretrained(MatcherConfig(model=options.model, threads=options.threads))
    seeds = range(options.seed, options.seed + options.films)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("films", total=None)
        rows = run(
            options.kinds, seeds, matcher, photos, lambda done, total: bar.update(task, completed=done, total=total)
        )
    write(rows, options.out, {"seed": options.seed, "films": options.films, "model": options.model})
    sheet = contact_sheet(options.kinds, options.seed, photos)
    cv2.imwrite(str(options.out / "films.jpg"), sheet[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])


def write(rows: list[Row], out: Path, settings: dict[str, object]) -> None:
    """The table, and the same as JSON."""
    records = {row.kind: row.record() for row in rows}
    (out / "degenerate.json").write_text(json.dumps({**settings, "kinds": records}, indent=1) + "\n", encoding="utf-8")
    table = Table(
        "kind", "images", "right status", "poses", "wrong (unwarned)", "rotation deg", "direction deg", "status"
    )
    for kind, record in records.items():
        errors = ("-" if record[key] is None else f"{record[key]:.2f}" for key in ("rotation_deg", "direction_deg"))
        wrong = f"{record['wrong']} ({record['wrong_and_unwarned']})"
        counts = ", ".join(f"{name} {count}" for name, count in record["status"].items())
        table.add_row(
            kind, str(record["images"]), f"{100 * record['right']:.0f} %", str(record["poses"]), wrong, *errors, counts
        )
    Console(width=170).print(table)


def contact_sheet(kinds: list[str], seed: int, textures: list[ByteArray]) -> ByteArray:
    """Three images of one film of each kind, with its name; two films a row."""
    strips = []
    for kind in kinds:
        film = render(kind, seed, textures=textures if seed % 2 else ())
        small = [cv2.resize(film.images[i], (160, 120), interpolation=cv2.INTER_AREA) for i in (0, 4, 7)]
        strip = np.hstack(small)
        cv2.putText(strip, kind, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(strip, kind, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        strips.append(cv2.copyMakeBorder(strip, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    if len(strips) % 2:
        strips.append(np.full_like(strips[0], 255))
    sheet: ByteArray = np.vstack([np.hstack(strips[i : i + 2]) for i in range(0, len(strips), 2)])
    return sheet


if __name__ == "__main__":
    main()
