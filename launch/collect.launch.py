"""Collects data worth training on: the recorder, and a teacher that says where the student is weak.

    ros2 launch stfm_ros collect.launch.py image:=/camera/image_raw depth:=/camera/aligned_depth_to_color/image_raw
    ros2 launch stfm_ros collect.launch.py image:=/rgb depth:=/depth student:=default extra:=/odom,/tf,/tf_static
    ros2 launch stfm_ros collect.launch.py image:=/rgb depth:=/depth teacher:=false keep:=all folder:=/data/bags

The teacher is in the namespace teacher, as teacher.launch.py has it; topics are therefore named in full, with a slash
before them. An argument that is left empty leaves its parameter to the parameter file; one that is given goes before
it. docs/recording.md describes what is recorded.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from stfm_ros.nodes.launching import ARGUMENTS as OF_MATCHER
from stfm_ros.nodes.launching import PARAMETERS as OF_TEACHER
from stfm_ros.nodes.launching import SWITCH, given_to, started

SHARED = ("use_sim_time", "log_level", "autostart", "respawn", "fastdds_profile", "camera_info", "compressed")
ARGUMENTS = {
    "image": ("/image", "Topic of the images; compressed ones are expected on <image>/compressed.", ()),
    "depth": ("/depth", "Topic of the depth, registered to the images.", ()),
    "depth_transport": OF_MATCHER["depth_transport"],
    **{name: OF_MATCHER[name] for name in SHARED},
    "folder": ("", "Folder of the bags.", ()),
    "note": ("", "What the manifest of each bag shall say: the robot, the place, what was done.", ()),
    "keep": ("", "Keep the frames worth training on, or all.", ("", "chosen", "all")),
    "extra": ("", "Further topics, with commas between them: odometry, /tf, /tf_static, an IMU.", ()),
    "max_mb": ("", "Recording ends when a bag has so many megabytes.", ()),
    "keep_free_mb": ("", "Recording ends when the disk has less room than so many megabytes.", ()),
    "params_file": ("", "YAML file of the recorder's parameters; empty is config/recorder.yaml.", ()),
    "teacher": ("true", "Start the teacher; false records without.", SWITCH),
    "model": ("", "Weights of the teacher: a shipped name, or the path of an exported folder.", ()),
    "student": ("", "Weights of a student that the teacher is to judge (shadow.model); empty: none.", ()),
    "teacher_params_file": ("", "YAML file of the teacher's parameters; empty is config/teacher.yaml.", ()),
}
#: by argument: the parameter of the recorder that it sets where it is given
OF_RECORDER = {
    "use_sim_time": "use_sim_time",
    "autostart": "node.autostart",
    "compressed": "topics.compressed",
    "depth_transport": "topics.depth_transport",
    "folder": "bag.folder",
    "note": "bag.note",
    "keep": "selection.keep",
    "extra": "topics.extra",
    "max_mb": "storage.max_mb",
    "keep_free_mb": "storage.keep_free_mb",
    "relative_pose": "topics.relative_pose",
    "student_check": "topics.student_check",
}
#: the namespace of the teacher, as in teacher.launch.py
TEACHER = "teacher"


def generate_launch_description() -> LaunchDescription:
    """One launch argument for each entry of ARGUMENTS, and the processes."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=choices or None)
        for name, (default, description, choices) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=processes)])


def processes(context: LaunchContext) -> list[Node]:
    """The recorder, and the teacher where it is asked for."""
    given, config = given_to(context, ARGUMENTS)
    for_recorder = given | {"namespace": ""}
    if given["teacher"] == "false":
        return started("recorder", for_recorder, config, OF_RECORDER)
    for_teacher = given | {"namespace": TEACHER, "params_file": given["teacher_params_file"]}
    for_recorder |= {"relative_pose": f"/{TEACHER}/relative_pose"}
    for_recorder |= {"extra": ",".join(filter(None, (f"/{TEACHER}/odometry", given["extra"])))}
    if given["student"]:
        for_recorder |= {"student_check": f"/{TEACHER}/student_check"}
    return [
        *started("teacher", for_teacher, config, OF_TEACHER | {"student": "shadow.model"}),
        *started("recorder", for_recorder, config, OF_RECORDER),
    ]
