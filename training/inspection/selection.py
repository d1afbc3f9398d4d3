"""Which topics of a bag are taken for what, and which frames belong together; what stands in the way is a problem.

The rules are those of the distillation (``stfm_training.recordings.index``). Where it would refuse a bag, as much as
can still be looked at is taken, and its refusal is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES
from stfm_ros.errors import CameraError, StfmError
from stfm_ros.images import camera_from_info, is_depth
from stfm_ros.messages import camera_info_topic
from stfm_ros.posed_bag import nearest
from stfm_ros.types import Camera, FloatArray
from stfm_training.inspection.digest import Digest
from stfm_training.inspection.problem import ERROR, WARNING, Problem
from stfm_training.recordings.config import ESTIMATE, RecordingConfig
from stfm_training.recordings.index import Index


@dataclass(frozen=True)
class Selection:
    """What is looked at.

    Attributes:
        topics: image, depth, camera_info and poses by name, "" for what is not there.
        why: by role.
        stamps_ns: (n,) of the frames, in order of time.
        images, depths: (n,) number of the message on its topic; depth -1 where there is none.
        camera: None where there is no calibration that can be used.
        poses: (n, 4, 4) camera to a fixed frame, or None.
        poses_from: in words.
        counts: of images, and of those left out.
    """

    topics: dict[str, str]
    why: dict[str, str]
    stamps_ns: NDArray[np.int64]
    images: NDArray[np.int64]
    depths: NDArray[np.int64]
    camera: Camera | None
    poses: FloatArray | None
    poses_from: str
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.images)


def candidates(digest: Digest) -> tuple[list[str], list[str]]:
    """Topics of colour or grey images, and topics of depth."""
    pictures = [name for name, info in digest.topics.items() if info.type in IMAGE_TYPES and digest.first(name)]
    depths = [name for name in pictures if is_depth(digest.first(name))]
    return [name for name in pictures if name not in depths], depths


def select(
    digest: Digest, config: RecordingConfig, best: tuple[str, str] | None = None
) -> tuple[Selection, list[Problem]]:
    """Take topics and pair frames.

    Args:
        best: image and depth topics to take where the config names none and there are several.
    """
    images, depths = candidates(digest)
    problems = _named_otherwise(digest, images, depths)
    image = config.image_topic or (images[0] if len(images) == 1 else best[0] if best else "")
    depth = config.depth_topic or (depths[0] if len(depths) == 1 else best[1] if best else "")
    why = {"image": _why(config.image_topic, images), "depth": _why(config.depth_topic, depths)}
    named = replace(config, image_topic=image, depth_topic=depth)
    refusal: StfmError | None = None
    for trial in (named, replace(named, poses=ESTIMATE)):
        try:
            index = Index(digest, trial)
            break
        except StfmError as fault:
            refusal = refusal or fault
    else:
        if refusal is not None:
            problems.append(_refused(refusal, bool(depths)))
        return _images_alone(digest, config, image, depth, why), problems
    if refusal is not None:
        problems.append(
            Problem(ERROR, "poses", str(refusal), "poses of the camera at the stamps of the images", _ESTIMATE_STEP)
        )
    why["camera_info"] = "named" if config.camera_info_topic else "beside the image, or the only one"
    why["poses"] = "named" if config.poses else index.poses_from
    topics = {**index.topics, "poses": index.topics["poses"] if index.topics["poses"] in digest.topics else ""}
    chosen = Selection(
        topics,
        why,
        index.stamps_ns,
        index.images,
        index.depths,
        index.camera,
        index.poses,
        index.poses_from,
        dict(index.counts),
    )
    return chosen, problems


_ESTIMATE_STEP = "record poses together with the images, or let them be estimated: --recording.poses estimate"


def _refused(fault: StfmError, has_depth: bool) -> Problem:
    check = "topics" if has_depth else "depth"
    return Problem(ERROR, check, str(fault), "a bag that the distillation reads", "see what it says")


def _why(wanted: str, found: list[str]) -> str:
    if wanted:
        return "named"
    return "the only one" if len(found) == 1 else f"its edges agree best of {len(found)}" if found else ""


def _named_otherwise(digest: Digest, images: list[str], depths: list[str]) -> list[Problem]:
    """Colour on a topic that is named depth, and depth on one that is not."""
    problems = []
    for name in images:
        if "depth" in name.lower():
            first = digest.first(name)
            holds = getattr(first, "encoding", "") or getattr(first, "format", "")
            problems.append(
                Problem(
                    ERROR if not depths else WARNING,
                    "topics",
                    f"{name} holds {holds}, no depth",
                    "16UC1 (millimetres) or 32FC1 (metres) on a topic that is named depth",
                    "record the sensor's depth, not a picture of it; check that topics were not swapped by a remap",
                )
            )
    for name in depths:
        if not any(word in name.lower() for word in ("depth", "range", "dist")):
            problems.append(
                Problem(
                    WARNING,
                    "topics",
                    f"{name} holds {getattr(digest.first(name), 'encoding', 'depth')}, depth",
                    "a colour image on a topic of this name",
                    "check that topics were not swapped by a remap",
                )
            )
    return problems


def _images_alone(digest: Digest, config: RecordingConfig, image: str, depth: str, why: dict[str, str]) -> Selection:
    """What can still be looked at where the distillation would refuse: images, and depth that pairs with them."""
    none = np.zeros(0, np.int64)
    if image not in digest.topics:
        return Selection({}, why, none, none, none, None, None, "", {"images": 0})
    info = config.camera_info_topic or camera_info_topic(image)
    infos = [name for name, about in digest.topics.items() if about.type == CAMERA_INFO_TYPE and about.count]
    info = info if info in infos else infos[0] if len(infos) == 1 else ""
    stamps, _ = digest.times(image)
    order = np.argsort(stamps, kind="stable")
    depths = digest.times(depth)[0] if depth in digest.topics else none
    depth_of = nearest(stamps[order], depths, round(config.tolerance_s * 1e9))
    topics = {"image": image, "depth": depth if depth in digest.topics else "", "camera_info": info, "poses": ""}
    counts = {"images": len(order), "without_depth": int((depth_of < 0).sum())}
    return Selection(topics, why, stamps[order], order, depth_of, _camera(digest, info), None, "", counts)


def _camera(digest: Digest, info: str) -> Camera | None:
    try:
        return camera_from_info(digest.first(info)) if info else None
    except CameraError:  # reported by the refusal
        return None
