#!/usr/bin/env bash
# Builds, checks and tests the package in a scratch colcon workspace, with the Python that is first on PATH and the ROS
# wheels of its venv (`make test` sets one up), or with a sourced ROS 2.
#
#   PATH=$PWD/.venv/bin:$PATH test/colcon.sh [arguments for pytest]
#   STFM_COLCON_ARGS=--symlink-install test/colcon.sh -m "not slow"
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT
cd "$workspace"

python=$(command -v python || command -v python3)
prefix=$("$python" -c 'import sys; print(sys.prefix)')
if [ -z "${AMENT_PREFIX_PATH:-}" ]; then
  export AMENT_PREFIX_PATH=$prefix CMAKE_PREFIX_PATH=$prefix
fi

echo "== colcon build"
# shellcheck disable=SC2086
colcon build --base-paths "$root" ${STFM_COLCON_ARGS:-} --event-handlers console_cohesion- \
  --cmake-args -DPython3_EXECUTABLE="$python"

echo "== what was installed"
set +u
# shellcheck disable=SC1091
source install/local_setup.bash
set -u
"$python" - "$workspace" ${STFM_COLCON_ARGS:-} <<'PY'
import sys
import stfm_ros, stfm_ros.nodes.matcher, stfm_training
from stfm_ros.msg import Correspondences, RelativePose
from stfm_ros.share import share_file

for module in (stfm_ros, stfm_ros.nodes.matcher, stfm_training, sys.modules[RelativePose.__module__]):
    assert module.__file__.startswith(sys.argv[1]) or "--symlink-install" in sys.argv, module.__file__
for name in ("launch/matcher.launch.py", "config/matcher.yaml", "config/fastdds_shm.xml", "msg/RelativePose.msg"):
    print(share_file(name))
PY
said=$(install/stfm_ros/lib/stfm_ros/matcher --ros-args -p matcher.treshold:=0.3 2>&1) && exit 1
grep -q "did you mean matcher.threshold" <<< "$said"

echo "== colcon test"
PYTEST_ADDOPTS=$(printf "'%s' " "$@") colcon test --base-paths "$root" --event-handlers console_direct+
colcon test-result --verbose
