"""A call in a fresh Python process: its memory and its loading time are its own, and Ctrl-C ends it at once.

    run_fresh(measure, case)    # is measure(case); a StfmError that it raises is raised here

Function, arguments and result travel as pickles, so the function is one of a module.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from stfm_ros.errors import StfmError

T = TypeVar("T")


def run_fresh(function: Callable[..., T], *arguments: Any, environment: Mapping[str, str] | None = None) -> T:
    """Call a function in a fresh process.

    Args:
        environment: variables on top of this process's own.

    Raises:
        StfmError: the function's own; or it raised another exception, whose traceback is on stderr; or its process
            was killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # Ctrl-C comes to this process alone, which then ends the other without its traceback
    )
    try:
        answer, _ = process.communicate(pickle.dumps((function, arguments)))
    finally:
        process.kill()
        process.wait()
    if not answer:
        how = f"was ended by signal {-process.returncode}" if process.returncode < 0 else "ended without an answer"
        raise StfmError(f"the process of {function.__name__} {how}: is there enough memory? (`dmesg` tells)")
    result, fault = pickle.loads(answer)
    if fault is not None:
        raise fault
    found: T = result
    return found


def _answer() -> None:
    """What the fresh process does."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
        function, arguments = pickle.load(sys.stdin.buffer)
        result, fault = None, None
        try:
            result = function(*arguments)
        except StfmError as known:
            fault = known
        except Exception as unknown:  # a runtime out of memory must not take the other cases with it
            traceback.print_exc()
            fault = StfmError(f"{type(unknown).__name__}: {unknown}")
        pickle.dump((result, fault), out)


if __name__ == "__main__":
    _answer()
