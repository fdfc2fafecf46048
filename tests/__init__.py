"""Tests."""

import os

# A test leaves nothing on the machine; those of snapshots, and ci/bench, ask for them.
os.environ.setdefault("ORCHESTRATOR_SNAPSHOTS", "0")
