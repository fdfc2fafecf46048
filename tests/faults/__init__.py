"""R1 to R20: every way in which a process can end, as real processes that really end.

Each case is a test, and runs once under ``ci/test``. ``ci/faults`` repeats them, adds those of
``chaos`` and ``crowd``, and prints how long it took until nothing was left. No case asserts a time:
the wait for "nothing left" has a deadline, and what it took is recorded.
"""
