"""Tests."""

from hypothesis import settings

# How long an example takes says nothing on a busy machine: hypothesis' 0.2 s are too few there.
settings.register_profile("orchestrator", deadline=None)
settings.load_profile("orchestrator")
