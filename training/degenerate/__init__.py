"""Motions that two views cannot tell apart: ``python -m stfm_training.degenerate``; see docs/degenerate.md."""
