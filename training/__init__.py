"""Training of teacher and student, imported as ``stfm_training``. Needs torch; never ROS."""
