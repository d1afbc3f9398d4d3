"""RGB feature matching distilled from an RGB-D teacher (3DG-STFM), for ROS 2.

The core needs NumPy, OpenCV and one inference runtime. rclpy is imported by ``stfm_ros.nodes``
alone, torch by ``stfm_ros.model`` and ``stfm_ros.runtimes.torch_runtime`` alone.
"""
import os
import pkgutil

# OpenBLAS's threads spin for tens of milliseconds after each larger product of NumPy's, on cores that the network wants
# back at once: on two cores that made an image take 210 ms instead of 150. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

# The generated messages (stfm_ros.msg) may be installed under another prefix than these modules:
# a run from the checkout or an editable install must not hide them.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"
