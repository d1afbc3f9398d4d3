"""``stfm import-rgbd``: a folder of colour images, depth and poses becomes a bag."""

from __future__ import annotations

import argparse
from pathlib import Path

from stfm_ros.cli.command import Command, Outcome, Screen


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="with intrinsics.yaml, poses.txt, rgb/ and depth/")
    parser.add_argument("bag", type=Path, help="NAME.mcap for a single file, any other name for a rosbag2 folder")
    parser.add_argument("--images", default="rgb", metavar="NAME", help="its folder of images, grey too (default rgb)")
    parser.add_argument("--no-depth", action="store_true", help="the folder has no depth; the bag gets none")
    parser.add_argument("--raw", action="store_true", help="sensor_msgs/Image instead of the files as they are")
    parser.add_argument("--overwrite", action="store_true", help="replace a bag of this name")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.bags import BagReader
    from stfm_ros.import_rgbd import import_rgbd

    with screen.progress(f"writing {options.bag.name}") as step:
        frames = import_rgbd(
            options.folder,
            options.bag,
            compressed=not options.raw,
            progress=step,
            overwrite=options.overwrite,
            images=options.images,
            with_depth=not options.no_depth,
        )
    with BagReader(options.bag) as bag:
        topics = {name: {"type": info.type, "count": info.count} for name, info in bag.topics.items()}
    screen.show(f"{options.bag}: {frames} frames, {_megabytes(options.bag):.1f} MB")
    for name, topic in topics.items():
        screen.show(f"  {name}  {topic['type']}  {topic['count']}")
    return Outcome({"bag": options.bag, "frames": frames, "topics": topics})


def _megabytes(bag: Path) -> float:
    files = bag.iterdir() if bag.is_dir() else (bag,)
    return sum(file.stat().st_size for file in files) / 1e6


COMMAND = Command(
    name="import-rgbd",
    summary="make a bag of a folder of colour images, depth and poses",
    description=(
        "Write a folder in TUM layout (intrinsics.yaml, poses.txt, rgb/, depth/; see stfm_ros/rgbd.py) into a bag that "
        "plays like a camera: image, depth, camera_info and the true pose. The image files go in as they are. A "
        "driving sequence, say, of one camera: --images image_left --no-depth."
    ),
    example="stfm import-rgbd recordings/office office.mcap",
    negative="",
    fields={
        "bag": "what was written",
        "frames": "how many images went in",
        "topics": "type and count of messages, by topic; read back from the bag",
    },
    arguments=arguments,
    execute=execute,
)
