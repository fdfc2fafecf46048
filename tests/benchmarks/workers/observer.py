"""`observer SERVICE PORT`: the time.monotonic() of a server's first answer."""

import sys

from tests.benchmarks.protocol import first_answer

if __name__ == "__main__":
    print("asking", flush=True)
    print(first_answer(sys.argv[1], int(sys.argv[2])))
