#!/usr/bin/env bash
# The entry point of docker.io/redpandadata/redpanda: its arguments go to rpk.
set -euo pipefail
exec /usr/bin/rpk "$@"
