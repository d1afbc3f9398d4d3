"""The teacher node: a depth camera in; the matches and metric poses of an RGB-D model out, while data are collected.

The matcher node (:mod:`stfm_ros.nodes.matcher`) with a model that looks at depth too: each image waits for its depth,
metres come from that depth, and /diagnostics says how well the two go together. docs/teacher.md describes it.

    stfm-teacher --ros-args -r __ns:=/teacher -r image:=/camera/image_raw -r depth:=/camera/aligned_depth_to_color
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stfm_ros.config import TeacherAppConfig
from stfm_ros.errors import ConfigError
from stfm_ros.nodes import matcher as base

if TYPE_CHECKING:
    from stfm_ros.matcher import Matcher


class TeacherNode(base.MatcherNode):
    """See the module."""

    NAME = "teacher"
    CONFIG = TeacherAppConfig
    _config: TeacherAppConfig

    def _check(self, matcher: Matcher) -> None:
        if not matcher.takes_depth:
            raise ConfigError(
                f"matcher.model: {self._config.matcher.model} takes colour alone, and the teacher node is for a model "
                "that takes depth too: name an RGB-D model (teacher), or start the matcher node (matcher.launch.py, "
                "stfm-matcher) with odometry.scale depth for metres"
            )


def main(args: Sequence[str] | None = None, load: base.Load = base.load_matcher) -> int:
    """Run the node until it is interrupted; see :func:`stfm_ros.nodes.matcher.main`."""
    return base.main(args, load, TeacherNode)


if __name__ == "__main__":
    sys.exit(main())
