"""The parts of the report of a training run; its door is ``stfm_training.training_report``."""
