"""Recorded bags as training data: ``prepare`` reads a bag once into a folder, ``Recording`` is what stands in it."""

from stfm_training.recordings.config import ESTIMATE, TF, RecordingConfig
from stfm_training.recordings.pairs import PosedPairs
from stfm_training.recordings.prepare import prepare
from stfm_training.recordings.recording import Recording

__all__ = ["ESTIMATE", "TF", "PosedPairs", "Recording", "RecordingConfig", "prepare"]
