# shellcheck shell=bash
# An image registry on this machine, shared by every clone on it. Sourced by ci/setup.

REGISTRY=${ORCHESTRATOR_CI_REGISTRY:-127.0.0.1:5001}
export ORCHESTRATOR_CI_REGISTRY=$REGISTRY # ci/images/build tags for it

# One request to the registry; the answer's head. Bash speaks enough HTTP for that, and needs no
# other program on a bare machine.
registry_head() {
    local line
    (
        exec 3<>"/dev/tcp/${REGISTRY%:*}/${REGISTRY##*:}" || exit 1
        printf 'HEAD %s HTTP/1.0\r\nHost: %s\r\nAccept: %s\r\nAccept: %s\r\nAccept: %s\r\nAccept: %s\r\n\r\n' \
            "$1" "$REGISTRY" \
            application/vnd.docker.distribution.manifest.v2+json \
            application/vnd.docker.distribution.manifest.list.v2+json \
            application/vnd.oci.image.manifest.v1+json \
            application/vnd.oci.image.index.v1+json >&3
        while IFS= read -r -t 10 line <&3; do
            printf '%s\n' "${line%$'\r'}"
        done
    ) 2>/dev/null
}

registry_ready() {
    # Not `grep --quiet`: it leaves at the first match, and the writer's SIGPIPE fails the line.
    registry_head /v2/ | grep --ignore-case '^Docker-Distribution-Api-Version: registry/2.0' >/dev/null
}

# The digest the registry has for REGISTRY/REPOSITORY:TAG, or failure when it has none.
registry_digest() {
    local path=${1#"$REGISTRY"/}
    registry_head "/v2/${path%:*}/manifests/${path##*:}" |
        sed -n 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: *//p' | grep '^sha256:'
}

make_registry() {
    has docker-registry || install_packages docker-registry
    mkdir -p "$MACHINE_STATE/registry"
    cat >"$MACHINE_STATE/registry.yml" <<END
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: $MACHINE_STATE/registry}
  delete: {enabled: true}
http: {addr: "$REGISTRY"}
END
    say "starting an image registry at $REGISTRY (log: $MACHINE_STATE/registry.log)"
    # Without descriptor 9, the set-up's lock.
    setsid --fork docker-registry serve "$MACHINE_STATE/registry.yml" \
        >>"$MACHINE_STATE/registry.log" 2>&1 </dev/null 9>&-
    if ! wait_until 20 registry_ready; then
        tail -n 5 "$MACHINE_STATE/registry.log" >&2
        fail "no registry answers at $REGISTRY; if another program has that port," \
            "set ORCHESTRATOR_CI_REGISTRY=127.0.0.1:PORT"
    fi
}
