"""The parallel runner on suites, and on people, that do not behave."""
