"""Tests."""

import os

# A test leaves nothing on the machine; those of snapshots, and ci/bench, ask for them.
os.environ.setdefault("ORCHESTRATOR_SNAPSHOTS", "0")
# Our machines are slow when all is tested at once; tests of deadlines leave it out.
os.environ.setdefault("ORCHESTRATOR_STARTUP_TIMEOUT", "240")
