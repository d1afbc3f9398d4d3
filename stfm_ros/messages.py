"""Messages as plain nested dicts with ROS field names, built here and nowhere else.

``stfm_ros.nodes.conversion`` makes rclpy messages of them and ``stfm_ros.bags`` writes them into recordings, so that a
live and an offline run say the same. Arrays stay NumPy arrays; converting them safely is left to those two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stfm_ros.errors import ImageError
from stfm_ros.rotation import matrix_to_quaternion
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray

if TYPE_CHECKING:
    from stfm_ros.odometry import Estimate
    from stfm_ros.shadow import StudentCheck
    from stfm_ros.tracker import Track

Fields = dict[str, Any]


def camera_info_topic(image_topic: str) -> str:
    """The calibration that belongs to an image topic by ROS's convention: beside it, whatever the transport.

    >>> camera_info_topic("/camera/image/compressed")
    '/camera/camera_info'
    """
    return image_topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


def time(stamp_ns: int) -> Fields:
    """builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return {"sec": seconds, "nanosec": nanoseconds}


def stamp_ns(header: Any) -> int:
    """The stamp of a std_msgs/Header (of rclpy or of rosbags) in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def valid_stamp_ns(header: Any) -> int:
    """The same of a message that came in.

    Raises:
        ImageError: it is no time (builtin_interfaces/Time).
    """
    if not 0 <= int(header.stamp.nanosec) < 1_000_000_000:
        raise ImageError(
            f"the stamp has {int(header.stamp.nanosec)} nanoseconds beside its {int(header.stamp.sec)} s: expected 0 "
            "to 999999999; check the driver"
        )
    return stamp_ns(header)


def header(stamp_ns: int, frame_id: str) -> Fields:
    """std_msgs/Header."""
    return {"stamp": time(stamp_ns), "frame_id": frame_id}


def correspondences(track: Track, model_name: str, weights_hash: str) -> Fields:
    """stfm_ros/Correspondences of a tracked image."""
    matches = track.matches
    return {
        **_of_pair(track),
        "width0": track.size0[0],
        "height0": track.size0[1],
        "width1": track.size1[0],
        "height1": track.size1[1],
        "keypoints0": matches.keypoints0.ravel(),
        "keypoints1": matches.keypoints1.ravel(),
        "confidence": matches.confidence,
        "sigma": matches.sigma,
        "inliers": track.pose.inliers,
        "model_name": model_name,
        "weights_hash": weights_hash,
    }


def relative_pose(track: Track) -> Fields:
    """stfm_ros/RelativePose of a tracked image: the current camera in the reference camera."""
    pose = track.pose
    R, t = pose.camera1_in_camera0
    return {
        **_of_pair(track),
        "pose": {
            "pose": {
                "position": dict(zip("xyz", t.tolist())),
                "orientation": dict(zip("xyzw", matrix_to_quaternion(R).tolist())),
            },
            "covariance": pose.covariance.ravel(),
        },
        "metric": pose.metric,
        "matches": len(track.matches),
        "inliers": int(np.count_nonzero(pose.inliers)),
        "parallax_deg": pose.parallax_deg,
        "status": int(pose.status),
        "reason": pose.reason,
    }


def student_check(track: Track, check: StudentCheck, teacher: tuple[str, str], student: tuple[str, str]) -> Fields:
    """stfm_ros/StudentCheck of a teacher's track.

    Args:
        teacher, student: name of the model and hash of its weights.
    """
    same = (
        "reason", "disagreement", "teacher_matches", "teacher_inliers", "student_matches", "student_inliers",
        "limit_px", "common", "common_px", "judged", "right", "error_px",
        "teacher_right", "teacher_error_px", "covered", "within_1_sigma", "within_2_sigma",
    )  # fmt: skip
    pose = ("rotation_deg", "direction_deg", "length_m", "rotation_nees", "translation_nees")
    return {
        **_of_pair(track),
        "teacher_name": teacher[0],
        "teacher_hash": teacher[1],
        "student_name": student[0],
        "student_hash": student[1],
        "verdict": int(check.verdict),
        **{name: getattr(check, name) for name in same},
        "confidence_judged": check.confidences.judged,
        "confidence_right": check.confidences.right,
        "confidence_sum": check.confidences.total,
        "teacher_status": int(check.teacher_status),
        "student_status": int(check.student_status),
        **{name: getattr(check.pose, name) for name in pose},
    }


def image(stamp_ns: int, frame_id: str, rgb: ByteArray) -> Fields:
    """sensor_msgs/Image of a (H, W, 3) uint8 RGB picture."""
    height, width = rgb.shape[:2]
    return {
        "header": header(stamp_ns, frame_id),
        "height": height,
        "width": width,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": 3 * width,
        "data": np.ascontiguousarray(rgb).ravel(),
    }


def compressed_image(stamp_ns: int, frame_id: str, form: str, data: bytes) -> Fields:
    """sensor_msgs/CompressedImage.

    Args:
        form: the encoding and the codec, e.g. ``rgb8; jpeg compressed bgr8``.
        data: a whole JPEG or PNG file.
    """
    return {"header": header(stamp_ns, frame_id), "format": form, "data": np.frombuffer(data, np.uint8)}


def depth_image(stamp_ns: int, frame_id: str, depth: Float32Array) -> Fields:
    """sensor_msgs/Image in 16UC1, millimetres (REP-118), of (H, W) float32 metres; 0 also where 16 bit do not reach."""
    millimetres = np.round(depth.astype(np.float64) * 1000)
    height, width = depth.shape
    return {
        "header": header(stamp_ns, frame_id),
        "height": height,
        "width": width,
        "encoding": "16UC1",
        "is_bigendian": 0,
        "step": 2 * width,
        "data": np.where(millimetres <= 65535, millimetres, 0).astype("<u2").view(np.uint8).ravel(),
    }


def camera_info(stamp_ns: int, frame_id: str, camera: Camera) -> Fields:
    """sensor_msgs/CameraInfo, without ROI and binning."""
    # ROS has no name for an undistorted camera: it is plumb_bob with zeros
    undistorted = camera.distortion_model == "none"
    return {
        "header": header(stamp_ns, frame_id),
        "height": camera.height,
        "width": camera.width,
        "distortion_model": "plumb_bob" if undistorted else camera.distortion_model,
        "d": np.zeros(5) if undistorted else camera.D,
        "k": camera.K.ravel(),
        "r": camera.R.ravel(),
        "p": camera.P.ravel(),
    }


def pose_stamped(stamp_ns: int, frame_id: str, pose: FloatArray) -> Fields:
    """geometry_msgs/PoseStamped of a (4, 4) transform from the body into ``frame_id``, metres."""
    return {"header": header(stamp_ns, frame_id), "pose": _pose(pose)}


def odometry(estimate: Estimate, odom_frame: str) -> Fields:
    """nav_msgs/Odometry: the pose in ``odom_frame``, the twist in the child frame."""
    linear, angular = estimate.twist[:3].tolist(), estimate.twist[3:].tolist()
    twist = {"linear": dict(zip("xyz", linear)), "angular": dict(zip("xyz", angular))}
    return {
        **pose_with_covariance(estimate, odom_frame),
        "child_frame_id": estimate.child_frame,
        "twist": {"twist": twist, "covariance": estimate.twist_covariance.ravel()},
    }


def pose_with_covariance(estimate: Estimate, odom_frame: str) -> Fields:
    """geometry_msgs/PoseWithCovarianceStamped of the body in ``odom_frame``."""
    return {
        "header": header(estimate.stamp_ns, odom_frame),
        "pose": {"pose": _pose(estimate.pose), "covariance": estimate.covariance.ravel()},
    }


def lost_odometry(stamp_ns: int, odom_frame: str, child_frame: str) -> Fields:
    """nav_msgs/Odometry that says that nothing is known, as rtabmap does: null orientation, covariances of 9999."""
    unknown = 9999.0 * np.eye(6).ravel()
    return {
        **lost_pose(stamp_ns, odom_frame),
        "child_frame_id": child_frame,
        "twist": {"covariance": unknown},
    }


def lost_pose(stamp_ns: int, odom_frame: str) -> Fields:
    """geometry_msgs/PoseWithCovarianceStamped that says that nothing is known; see :func:`lost_odometry`."""
    null = {"orientation": dict.fromkeys("xyzw", 0.0)}
    return {
        "header": header(stamp_ns, odom_frame),
        "pose": {"pose": null, "covariance": 9999.0 * np.eye(6).ravel()},
    }


def transform(estimate: Estimate, odom_frame: str) -> Fields:
    """geometry_msgs/TransformStamped from ``odom_frame`` (parent) to the child frame."""
    pose = _pose(estimate.pose)
    return {
        "header": header(estimate.stamp_ns, odom_frame),
        "child_frame_id": estimate.child_frame,
        "transform": {"translation": pose["position"], "rotation": pose["orientation"]},
    }


def point_cloud(track: Track, estimate: Estimate) -> Fields:
    """sensor_msgs/PointCloud2 of the triangulated inliers in the reference camera (optical), at the reference's stamp.

    Fields x, y, z (float32, in the units of the odometry), rgb (of the reference image), confidence and sigma (of the
    match, see stfm_ros/Correspondences).
    """
    placed = estimate.placed
    matches = track.matches.take(placed.index)
    height, width = track.image0.shape[:2]
    columns, rows = np.round(matches.keypoints0).astype(int).T
    colours = track.image0[rows.clip(0, height - 1), columns.clip(0, width - 1)].astype(np.uint32)
    points = np.empty((len(placed.points), 6), np.float32)
    points[:, :3] = placed.points
    points[:, 3] = (colours[:, 0] << 16 | colours[:, 1] << 8 | colours[:, 2]).view(np.float32)
    points[:, 4], points[:, 5] = matches.confidence, matches.sigma
    names = ("x", "y", "z", "rgb", "confidence", "sigma")
    step = 4 * len(names)
    return {
        "header": header(track.reference_stamp_ns, track.reference_frame_id),
        "height": 1,
        "width": len(points),
        "fields": [{"name": name, "offset": 4 * i, "datatype": 7, "count": 1} for i, name in enumerate(names)],
        "is_bigendian": False,
        "point_step": step,
        "row_step": step * len(points),
        "data": points.astype("<f4").view(np.uint8).ravel(),
        "is_dense": True,
    }


def _pose(pose: FloatArray) -> Fields:
    """geometry_msgs/Pose of a (4, 4)."""
    return {
        "position": dict(zip("xyz", pose[:3, 3].tolist())),
        "orientation": dict(zip("xyzw", matrix_to_quaternion(pose[:3, :3]).tolist())),
    }


def diagnostics(stamp_ns: int, name: str, level: int, summary: str, values: Mapping[str, str]) -> Fields:
    """diagnostic_msgs/DiagnosticArray of one status.

    Args:
        level: 0 OK, 1 WARN, 2 ERROR, 3 STALE.
    """
    pairs: Sequence[Fields] = [{"key": key, "value": value} for key, value in values.items()]
    status = {"level": level, "name": name, "message": summary, "hardware_id": "", "values": pairs}
    return {"header": header(stamp_ns, ""), "status": [status]}


def _of_pair(track: Track) -> Fields:
    return {
        "header": header(track.stamp_ns, track.frame_id),
        "reference_stamp": time(track.reference_stamp_ns),
        "reference_frame_id": track.reference_frame_id,
    }
