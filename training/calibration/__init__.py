"""Does a covariance say what the errors are? ``python -m stfm_training.calibration``; see docs/calibration.md."""
