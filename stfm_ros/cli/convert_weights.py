"""``stfm convert-weights``: a public checkpoint of LoFTR or 3DG-STFM becomes weights of this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from stfm_ros.cli.command import Command, Outcome, Screen, UsageError
from stfm_ros.errors import RuntimeNotAvailable


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help=".ckpt, .pt or .safetensors that you have")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.safetensors", help="what to write")
    parser.add_argument("--teacher", action="store_true", help="of a file with student and teacher, take the teacher")
    parser.add_argument(
        "--mended-encoding", action="store_true", default=None,
        help="the weights were trained after the slip in LoFTR's sine encoding was mended (no file says so; unless "
        "given, LoFTR's were if the file's name ends in _new)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a file of this name")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.runtimes import is_installed

    if not is_installed("torch"):
        raise RuntimeNotAvailable("convert-weights needs torch, which is not installed: pip install torch safetensors")
    from stfm_ros.model.published import load_published
    from stfm_ros.model.weights import save_weights
    from stfm_ros.runtimes.store import sha256

    out: Path = options.out
    if out.suffix != ".safetensors":
        raise UsageError(f"--out is {out}, expected a name that ends in .safetensors")
    if out.exists() and not options.overwrite:
        raise UsageError(f"{out} is there already; choose another name, or give --overwrite")
    network = load_published(options.checkpoint, teacher=options.teacher, mended_encoding=options.mended_encoding)
    source = sha256(options.checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    digest = save_weights(network, out, {"converted from": options.checkpoint.name, "sha256": source})
    parameters = sum(parameter.numel() for parameter in network.parameters())
    record = {
        "weights": out,
        "preset": network.config.preset,
        "channels": network.config.in_channels,
        "parameters": parameters,
        "mended_encoding": not network.config.sine_slip,
        "hash": digest,
        "source_sha256": source,
    }
    screen.show(
        f"{out}: preset {record['preset']}, {record['channels']} channels, hash {digest}, "
        f"{parameters / 1e6:.1f} M parameters"
    )
    screen.show(f"sine encoding: {'mended' if record['mended_encoding'] else 'with the slip of the first release'}")
    screen.say("The weights stay under the terms of those who published them and of the data they were trained on.")
    return Outcome(record)


COMMAND = Command(
    name="convert-weights",
    summary="turn a public checkpoint of LoFTR or 3DG-STFM into weights of this package",
    description=(
        "Turn a checkpoint of LoFTR (outdoor_ds, indoor_ds, indoor_ds_new) or 3DG-STFM (student, teacher, or both in "
        "one file) into weights that --model takes (with torch). Nothing is fetched, and nothing that the file brings "
        "is run. The weights stay under the terms of those who published them and of the data they were trained on "
        "(ScanNet, MegaDepth): read these before you use them."
    ),
    example="stfm convert-weights outdoor_ds.ckpt --out loftr_outdoor.safetensors",
    negative="",
    fields={
        "weights": "what was written",
        "preset": "loftr, loftr-new, 3dg-stfm, or paper (3DG-STFM with a mended encoding)",
        "channels": "3 (RGB), or 4 of a teacher (RGB and depth)",
        "parameters": "how many",
        "mended_encoding": "whether the network encodes positions without the slip of LoFTR's first release",
        "hash": "of the weights, as `stfm match --json` gives it",
        "source_sha256": "of the checkpoint's file",
    },
    arguments=arguments,
    execute=execute,
)
