"""The parallel runner, piece by piece."""
