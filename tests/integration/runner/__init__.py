"""The parallel runner with real worker processes, on suites that behave."""
