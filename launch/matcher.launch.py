"""Starts the matcher node, a process of its own (no container is needed), and RViz where it is asked for.

    ros2 launch stfm_ros matcher.launch.py image:=/camera/image_raw
    ros2 launch stfm_ros matcher.launch.py namespace:=front image:=/front/image_raw params_file:=matcher.yaml
    ros2 launch stfm_ros matcher.launch.py scale:=stereo image:=/left/image_raw right_image:=/right/image_raw
    ros2 launch stfm_ros matcher.launch.py image:=/camera/image_raw allow_unscaled:=true tf:=true rviz:=true
    ros2 launch stfm_ros matcher.launch.py autostart:=false     (a lifecycle manager configures and activates it)

An argument that is left empty leaves its parameter to the parameter file; one that is given goes before it.
"""

from launch import LaunchDescription

from stfm_ros.nodes.launching import ARGUMENTS as OF_ALL
from stfm_ros.nodes.launching import describe

ARGUMENTS = {name: about for name, about in OF_ALL.items() if name != "student"}


def generate_launch_description() -> LaunchDescription:
    """One launch argument for each entry of ARGUMENTS, and the processes."""
    return describe("matcher", ARGUMENTS)
