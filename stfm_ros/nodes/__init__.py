"""The ROS side: the only importer of rclpy. One module for each concern, the node itself in ``matcher``."""
