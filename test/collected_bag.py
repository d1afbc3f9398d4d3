"""A bag as the recorder leaves it on a robot, made of a recording with poses that is played to it as a live camera.

    python test/collected_bag.py hololens.mcap collected/office

Images are decoded and given raw, depth as 16UC1, each with calibration and pose, in the pace and with the stamps of the
recording; the recorder chooses and compresses.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from recorded_camera import IMAGE, POSE, TOPICS, serialised

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE
from stfm_ros.posed_bag import PosedBag
from stfm_ros.recording.config import RecordingConfig, SelectionConfig
from stfm_ros.recording.recorder import Recorder, Status


def collect(bag: Path, folder: Path, config: RecordingConfig | None = None, pace: float = 1.0) -> Status:
    """Play ``bag`` to a recorder that writes ``folder``; ``pace`` 0 does not wait between frames."""
    with PosedBag(bag) as posed, Recorder(folder, TOPICS, config, {"place": bag.stem}) as recorder:
        began = time.monotonic()
        for i, stamp in enumerate(posed.stamps.tolist()):
            if pace:
                time.sleep(max(0.0, began + (stamp - posed.stamps[0]) / pace - time.monotonic()))
            stamp_ns, depth = round(stamp * 1e9), posed.depth(i)
            assert depth is not None
            for topic, type_name, fields in (
                ("/camera/image", IMAGE, messages.image(stamp_ns, "camera", posed.image(i))),
                ("/camera/depth", IMAGE, messages.depth_image(stamp_ns, "camera", depth)),
                ("/camera/camera_info", CAMERA_INFO_TYPE, messages.camera_info(stamp_ns, "camera", posed.camera)),
                ("/camera/pose", POSE, messages.pose_stamped(stamp_ns, "world", posed.poses[i])),
            ):
                recorder.take(topic, serialised(fields, type_name), stamp_ns)
    return recorder.status()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pace", type=float, default=1.0, help="1 is that of the recording")
    usual = SelectionConfig().min_interval_s
    parser.add_argument("--min-interval", type=float, default=usual, help="s between kept frames")
    options = parser.parse_args()
    config = RecordingConfig(SelectionConfig(min_interval_s=options.min_interval))
    status = collect(options.bag, options.folder, config, options.pace)
    for name, of in status.topics.items():
        print(json.dumps({"topic": name, "taken": of.taken, "kept": of.written, "left_out": dict(of.left_out)}))


if __name__ == "__main__":
    main()
