"""The parallel unittest runner."""
