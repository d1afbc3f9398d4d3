"""What is known of a bag before its images are decoded: topics, stamps, calibration and poses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stfm_ros import messages
from stfm_ros.bags import IMAGE_TYPES, BagReader
from stfm_ros.errors import BagError, DatasetError
from stfm_ros.images import camera_from_info, is_depth
from stfm_ros.offline import find_topics
from stfm_ros.posed_bag import POSE_TYPES, nearest, pose_matrix
from stfm_ros.types import Camera, FloatArray
from stfm_training.recordings.config import ESTIMATE, TF, RecordingConfig
from stfm_training.recordings.poses import TF_TYPES, Track, Transforms, plain

#: poses that nobody asked for by name are used where they are those of so many of the images at least
LEAST_POSED = 0.5


class Index:
    """What is known of a bag before its images are decoded.

    Attributes:
        topics: image, depth, camera_info and poses by name.
        camera: of every image.
        stamps_ns: (n,) of the images that are wanted, in order of time.
        images, depths: number of the message on its topic, of each of them.
        poses: (n, 4, 4) camera to a fixed frame, None where there is none.
        poses_from: in words.
        counts: images of the bag, and what was left out so far.
    """

    def __init__(self, reader: BagReader, config: RecordingConfig) -> None:
        self.path = reader.path
        image, info = find_topics(reader, config.image_topic, config.camera_info_topic)
        if not info:
            raise BagError(f"{reader.path} has no sensor_msgs/msg/CameraInfo, which the true geometry needs: record it")
        try:
            depth = reader.find_topic(IMAGE_TYPES, config.depth_topic, is_depth)
        except BagError as fault:
            raise BagError(f"depth registered to {image} (16UC1 or 32FC1) is needed: {fault}") from None
        pose = self._pose_topic(reader, config.poses)
        for topic in (image, depth, info, pose):
            if topic in reader.topics and not reader.topics[topic].count:
                raise BagError(f"{reader.path} has no messages on {topic}: name another topic, or record it again")
        own_info = messages.camera_info_topic(depth.removesuffix("/compressedDepth"))
        infos = [info, *([own_info] if own_info in reader.topics and own_info != info else [])]
        tf = [name for name, about in reader.topics.items() if about.type in TF_TYPES]
        rows: dict[str, list[int]] = {image: [], depth: []}
        cameras: dict[str, list[Camera]] = {name: [] for name in infos}
        samples: list[tuple[int, FloatArray]] = []
        transforms, frame, pose_frame = Transforms(), "", config.pose_frame
        wanted = {image, depth, *infos, *tf, *([pose] if pose in reader.topics else [])}
        for topic, message, _ in reader.messages(wanted):
            if topic in rows:
                rows[topic].append(messages.stamp_ns(message.header))
                frame = message.header.frame_id if topic == image else frame
            elif topic in cameras:
                cameras[topic] = [*cameras[topic][:1], camera_from_info(message)]
                _check_constant(cameras[topic], topic)
            elif topic in tf:
                transforms.add(message, topic.endswith("static"))
            else:
                samples.append((messages.stamp_ns(message.header), pose_matrix(message)))
                pose_frame = pose_frame or getattr(message, "child_frame_id", "")
        self.camera = cameras[info][0]
        _check_registered(self.camera, cameras.get(own_info, [])[:1], depth, info)
        self._pair(np.array(rows[image], np.int64), np.array(rows[depth], np.int64), (image, depth), config)
        self.poses, self.poses_from = self._camera_poses(pose, samples, transforms, frame, pose_frame, config)
        self.topics = {"image": image, "depth": depth, "camera_info": info, "poses": pose}
        if self.poses is not None and not config.poses:
            self._leave_sparse(pose)
        if self.poses is not None:
            self._keep_posed(pose)

    @staticmethod
    def _pose_topic(reader: BagReader, wanted: str) -> str:
        """A topic of poses, ``tf``, ``estimate``, or "" for what tf may tell."""
        if wanted in (ESTIMATE, TF):
            return wanted
        there = any(about.type in POSE_TYPES and about.count for about in reader.topics.values())
        return reader.find_topic(POSE_TYPES, wanted) if wanted or there else ""

    def _pair(
        self, images: NDArray[np.int64], depths: NDArray[np.int64], topics: tuple[str, str], config: RecordingConfig
    ) -> None:
        order = np.argsort(images, kind="stable")
        depth_of = nearest(images[order], depths, round(config.tolerance_s * 1e9))
        paired = depth_of >= 0
        if not paired.any():
            gaps = np.abs(depths[nearest(images, depths, np.iinfo(np.int64).max)] - images)
            raise BagError(
                f"{self.path}: none of the {len(images)} images of {topics[0]} has depth on {topics[1]} within "
                f"{config.tolerance_s * 1e3:g} ms; the nearest is {gaps.min() / 1e6:.1f} ms away: record both with "
                "the stamp of their exposure, or allow a larger tolerance_s"
            )
        kept = np.flatnonzero(paired)
        thinned = kept[np.unique(np.linspace(0, len(kept) - 1, min(len(kept), config.max_frames)).round().astype(int))]
        self.counts = {
            "images": len(images), "without_depth": int((~paired).sum()), "thinned_out": len(kept) - len(thinned),
        }  # fmt: skip
        self.stamps_ns, self.images, self.depths = images[order[thinned]], order[thinned], depth_of[thinned]

    def _camera_poses(
        self, pose: str, samples: list[tuple[int, FloatArray]], tf: Transforms, frame: str, body: str,
        config: RecordingConfig,
    ) -> tuple[FloatArray | None, str]:  # fmt: skip
        """Poses of the camera at the images' stamps, and where they come from."""
        if pose == ESTIMATE or (not pose and not tf.moves(frame)):
            return None, ESTIMATE
        if pose in ("", TF):
            fixed = config.fixed_frame or tf.root(frame)
            return tf.lookup(fixed, frame, self.stamps_ns), f"tf: {plain(frame)} in {plain(fixed)}"
        poses = Track.of(samples).at(self.stamps_ns)
        if body and plain(body) != plain(frame) and (config.pose_frame or (body in tf and frame in tf)):
            return poses @ tf.lookup(body, frame, self.stamps_ns), f"{pose} of {plain(body)}, and tf to {plain(frame)}"
        return poses, f"{pose}, taken as poses of the camera"

    def _leave_sparse(self, pose: str) -> None:
        """Estimate motions rather than lose most frames to a slow source of poses, such as a teacher on a CPU."""
        assert self.poses is not None
        share = np.isfinite(self.poses).all(axis=(1, 2)).mean()
        if 0 < share < LEAST_POSED:
            self.poses = None
            self.poses_from = f"{ESTIMATE}: {pose or TF} tells those of {share:.0%} of the images alone"

    def _keep_posed(self, pose: str) -> None:
        assert self.poses is not None
        posed = np.asarray(np.isfinite(self.poses).all(axis=(1, 2)))
        if not posed.any():
            raise BagError(
                f"{self.path}: none of the {len(posed)} images with depth has a pose on {pose or TF} at its stamp: "
                "record poses and images together and with one clock, or choose poses: estimate"
            )
        self.counts["without_pose"] = int((~posed).sum())
        self.stamps_ns, self.images, self.depths = self.stamps_ns[posed], self.images[posed], self.depths[posed]
        self.poses = self.poses[posed]


def _check_constant(cameras: list[Camera], topic: str) -> None:
    first, last = cameras[0], cameras[-1]
    same = (first.width, first.height, first.distortion_model) == (last.width, last.height, last.distortion_model)
    if not (same and np.allclose(first.K, last.K, rtol=1e-4) and np.allclose(first.D, last.D, atol=1e-4)):
        raise DatasetError(
            f"the calibration on {topic} changes on the way, from fx {first.K[0, 0]:.2f} at "
            f"{first.width}x{first.height} to "
            f"fx {last.K[0, 0]:.2f} at {last.width}x{last.height}: expected one camera; cut the bag there"
        )


def _check_registered(camera: Camera, depth_cameras: list[Camera], depth_topic: str, info_topic: str) -> None:
    """The depth's own calibration, where it is recorded, must be the image's at another scale."""
    for depth in depth_cameras:
        scale = camera.width / depth.width
        off = np.abs(depth.K * np.array([[scale], [scale], [1.0]]) - camera.K)[:2].max()
        if off > 0.03 * camera.width:
            raise DatasetError(
                f"depth of {depth_topic} is not registered to the image: at the image's size its camera_info has "
                f"fx {depth.K[0, 0] * scale:.1f}, cx {depth.K[0, 2] * scale:.1f}, but {info_topic} has "
                f"fx {camera.K[0, 0]:.1f}, cx {camera.K[0, 2]:.1f}; record the aligned depth (e.g. "
                "aligned_depth_to_color, or depth_image_proc/register)"
            )
