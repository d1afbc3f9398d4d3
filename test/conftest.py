"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# no deadline for a single example: the machines of CI are shared, and pytest-timeout ends what hangs
settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
