"""RGB feature matching distilled from an RGB-D teacher (3DG-STFM), for ROS 2.

The core needs NumPy, OpenCV and one inference runtime. rclpy is imported by ``stfm_ros.nodes``
alone, torch by ``stfm_ros.model`` and ``stfm_ros.runtimes.torch_runtime`` alone.
"""
import pkgutil

# The generated messages (stfm_ros.msg) may be installed under another prefix than these modules:
# a run from the checkout or an editable install must not hide them.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"
