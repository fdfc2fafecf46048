"""A worker process: ``python -m orchestrator.runner SOCKET LIFELINE``, started by the parent."""

import sys

from orchestrator.runner.worker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
