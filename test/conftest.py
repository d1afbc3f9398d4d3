"""What every test needs before ROS's messages are imported."""

import os

# rclpy stores a wrong type silently unless this is set when the message classes are imported
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
