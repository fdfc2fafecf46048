# shellcheck shell=bash
# A Docker Engine that answers. Sourced by ci/setup.

DOCKERD_PID=/var/run/docker.pid

engine_ready() { timeout --kill-after=1 9 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# An engine that is only slow to come up must not get a second one beside it.
engine_starting() {
    local pid
    pid=$(cat "$DOCKERD_PID" 2>/dev/null) && grep --quiet --no-messages '^dockerd$' "/proc/$pid/comm" &&
        ! grep --quiet '^State:[[:space:]]*Z' "/proc/$pid/status"
}

start_dockerd() {
    # A bare machine without an init system may not have mounted these yet.
    mountpoint --quiet /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # Left by a crash or a reboot: dockerd would refuse to start when any process has that number now.
    rm -f "$DOCKERD_PID"
    # A session of its own, so that it survives this script and its terminal. Descriptor 9 is the
    # set-up's lock, which it must not keep.
    setsid --fork dockerd --host "$1" >>"$CACHE/dockerd.log" 2>&1 </dev/null 9>&-
}

make_engine() {
    local socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
    case $socket in
    unix://*) ;;
    *) fail "DOCKER_HOST is $socket, and no engine answers there" ;;
    esac
    if ! has docker || ! has dockerd; then
        install_packages docker.io
        # Newer releases have the command line in a package of its own.
        has docker || install_packages docker-cli
        ! engine_ready || return 0
    fi
    if [[ $EUID != 0 ]]; then
        fail "no Docker Engine answers at $socket, and only root can start one here." \
            "Start Docker, or if it runs, join its group: sudo usermod -aG docker $USER"
    fi
    if engine_starting; then
        say 'waiting for the Docker Engine that is starting'
    elif [[ -d /run/systemd/system ]]; then
        say 'starting the Docker Engine'
        logged dockerd systemctl start docker
    else
        say "starting the Docker Engine (log: $CACHE/dockerd.log)"
        start_dockerd "$socket"
    fi
    if ! wait_until 60 engine_ready; then
        [[ ! -f $CACHE/dockerd.log ]] || tail -n 20 "$CACHE/dockerd.log" >&2
        fail "the Docker Engine did not answer at $socket within 60 s"
    fi
}
