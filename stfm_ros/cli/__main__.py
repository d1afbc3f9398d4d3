"""``python -m stfm_ros.cli``, where the console script is not on PATH."""

import sys

from stfm_ros.cli import main

sys.exit(main())
