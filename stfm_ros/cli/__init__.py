"""``stfm``: what the package does, from a terminal or a script. docs/cli.md describes every command.

With ``--json`` a command prints exactly one object on stdout; refused, it is ``{"error": ..., "kind": ...}``. The exit
codes are :data:`stfm_ros.cli.command.EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from stfm_ros import __version__
from stfm_ros.cli import (
    adapt,
    bench,
    bench_train,
    build_engine,
    convert_weights,
    demo,
    distill,
    evaluation,
    export,
    import_rgbd,
    info,
    inspect,
    match,
    parity,
    quantize,
    recover,
    run,
    train,
)
from stfm_ros.cli.command import BROKEN, DONE, EXIT_CODES, INTERRUPTED, NEGATIVE, REFUSED, Screen, UsageError, to_json
from stfm_ros.errors import StfmError

COMMANDS = tuple(
    module.COMMAND
    for module in (
        demo,
        match,
        run,
        evaluation,
        parity,
        import_rgbd,
        recover,
        inspect,
        train,
        distill,
        adapt,
        convert_weights,
        export,
        quantize,
        build_engine,
        bench,
        bench_train,
        info,
    )
)


class Parser(argparse.ArgumentParser):
    """Wrong usage is an error like any other: one message, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def make_parser() -> Parser:
    """The parser of all commands."""
    codes = "; ".join(f"{code} {meaning.partition(' (')[0]}" for code, meaning in EXIT_CODES.items())
    parser = Parser("stfm", description="Learned image matching for robots.", epilog=f"Exit codes: {codes}.")
    parser.add_argument("--version", action="version", version=f"stfm_ros {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    groups = {"": commands}  # of commands of two words, by the first, which is a command itself
    parsers: dict[str, Parser] = {}
    for command in COMMANDS:
        first, _, last = command.name.rpartition(" ")
        if first not in groups:
            groups[first] = parsers[first].add_subparsers(metavar="", title="more")
        one = parsers[command.name] = groups[first].add_parser(
            last,
            help=command.summary,
            description=command.description,
            epilog=f"Example: {command.example}",
            allow_abbrev=False,
        )
        command.arguments(one)
        one.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
        one.add_argument("-v", "--verbose", action="store_true", help="log what happens on stderr")
        one.set_defaults(execute=command.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        options = make_parser().parse_args(given)
        level = logging.INFO if options.verbose else logging.WARNING
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
        outcome = options.execute(options, Screen(as_json))
        if as_json:
            print(to_json(outcome.record), flush=True)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout has gone, as `stfm info | head -1` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (StfmError, OSError) as fault:
        print(f"stfm: {fault}", file=sys.stderr)
        if as_json:
            print(to_json({"error": str(fault), "kind": type(fault).__name__}))
        return REFUSED
    except KeyboardInterrupt:
        print("stfm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        print("stfm: this is a fault of the program; please report it with the lines above", file=sys.stderr)
        return BROKEN
    return NEGATIVE if outcome.negative else DONE
