# shellcheck shell=bash disable=SC2034  # the variables are for the scripts that source this
# What every script of ci/ shares. Sourced, with `set -euo pipefail` in force.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=$ROOT/.cache

# Registry data and locks belong to the machine: every clone on it shares one engine.
if [[ $EUID == 0 ]]; then
    MACHINE_STATE=/var/lib/orchestrator-ci
else
    MACHINE_STATE=${XDG_CACHE_HOME:-$HOME/.cache}/orchestrator-ci
fi

mkdir -p "$CACHE"

say() { printf 'ci: %s\n' "$*" >&2; }
fail() {
    printf 'ci: error: %s\n' "$*" >&2
    exit 1
}

# Runs a command with its output in a log, and shows the log's end only when it failed.
logged() {
    local log=$CACHE/$1.log
    shift
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 40 "$log" >&2
        fail "'$1' failed; its whole output is in $log"
    fi
}

# $1 seconds at most until the rest of the line succeeds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}
