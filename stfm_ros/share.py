"""Where the package's data files are: in a checkout, in a colcon install, or in a plain venv."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stfm_ros.errors import ConfigError


def share_file(name: str) -> Path:
    """The path of an installed data file.

    Args:
        name: relative to the package's share folder, e.g. ``msg/Correspondences.msg``.

    Raises:
        ConfigError: the file is in none of the places; lists them.
    """
    package = Path(__file__).resolve().parent
    roots = [package.parent] if (package.parent / "package.xml").is_file() else []
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    roots += [prefix / "share" / "stfm_ros" for prefix in [*prefixes, Path(sys.prefix)]]
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise ConfigError(f"{name} is in none of {', '.join(map(str, roots))}; reinstall stfm_ros")
