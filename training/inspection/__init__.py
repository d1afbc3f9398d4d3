"""What a recorded bag is worth before training on it: measured on a few frames, and judged. Needs no torch."""

from stfm_training.inspection.inspection import FRAMES, Inspection, inspect_bag, to_record
from stfm_training.inspection.problem import ERROR, NOTE, WARNING, Problem

__all__ = ["ERROR", "FRAMES", "NOTE", "WARNING", "Inspection", "Problem", "inspect_bag", "to_record"]
