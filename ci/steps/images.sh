# shellcheck shell=bash
# The images the tests run on, and the lock file that names them. Sourced by ci/setup.

PROJECT_LOCK=$ROOT/images.lock
LOCAL_LOCK=$CACHE/images.lock
ENVIRONMENT=$CACHE/env

# "NAME REFERENCE DIGEST" of each entry of lock file $1.
lock_entries() {
    awk -F'"' '
        /^\[images\./ { name = $0; sub(/^\[images\."?/, "", name); sub(/"?\].*/, "", name) }
        /^reference/ { reference = $2 }
        /^digest/ { print name, reference, $2 }' "$1"
}

# Does the engine have every image of lock file $1, by digest?
engine_has_all() {
    local name reference digest
    local -a images=()
    while read -r name reference digest; do
        images+=("$(by_digest "$reference" "$digest")")
    done < <(lock_entries "$1")
    ((${#images[@]} > 0)) && docker image inspect "${images[@]}" >/dev/null 2>&1
}

# REPOSITORY@DIGEST of a reference: a colon after the last slash begins the tag.
by_digest() {
    local repository=$1
    [[ ${1##*/} != *:* ]] || repository=${1%:*}
    printf '%s@%s' "$repository" "$2"
}

# The lock is right when it names today's recipes, and the registry and the engine have them.
local_images_ready() {
    local name reference digest
    [[ -s $LOCAL_LOCK ]] || return 1
    [[ $(lock_entries "$LOCAL_LOCK" | cut -d' ' -f1,2) == "$("$ROOT/ci/images/build" --references)" ]] || return 1
    while read -r name reference digest; do
        [[ $(registry_digest "$reference") == "$digest" ]] || return 1
    done < <(lock_entries "$LOCAL_LOCK")
    engine_has_all "$LOCAL_LOCK"
}

images_ready() {
    local ORCHESTRATOR_IMAGES_LOCK=''
    [[ -s $ENVIRONMENT ]] || return 1
    # shellcheck source=/dev/null
    source "$ENVIRONMENT"
    case $ORCHESTRATOR_IMAGES_LOCK in
    "$PROJECT_LOCK") engine_has_all "$PROJECT_LOCK" ;;
    "$LOCAL_LOCK") local_images_ready ;;
    *) false ;; # written by a clone that has moved since
    esac
}

# Bounded, because a machine without a registry may also be one whose requests simply vanish; by
# SIGKILL in the end, because the docker command sits out a SIGTERM.
# `--insecure` also asks a registry without TLS; whether to pull from one is for the engine to say.
can_pull() {
    local name reference digest
    [[ ${ORCHESTRATOR_CI_IMAGES:-auto} != build && -s $PROJECT_LOCK ]] || return 1
    read -r name reference digest < <(lock_entries "$PROJECT_LOCK") || return 1
    # In braces, so that the shell's own word about the killed command goes the same way.
    { DOCKER_CLI_EXPERIMENTAL=enabled timeout --kill-after=1 9 \
        docker manifest inspect --insecure "$(by_digest "$reference" "$digest")"; } >/dev/null 2>&1
}

pull_images() {
    local name reference digest
    while read -r name reference digest; do
        say "pulling $reference"
        docker pull --quiet "$(by_digest "$reference" "$digest")" >/dev/null </dev/null || return 1
    done < <(lock_entries "$PROJECT_LOCK")
}

# Fills the registry and the engine with the test images, from whichever of the two has them.
provide_test_images() {
    local name reference
    local -a missing=()
    while read -r name reference; do
        if registry_digest "$reference" >/dev/null; then
            docker pull --quiet "$reference" >/dev/null </dev/null
        else
            missing+=("$name")
        fi
    done < <("$ROOT/ci/images/build" --references)
    ((${#missing[@]} > 0)) || return 0
    has mmdebstrap || install_packages mmdebstrap
    has mvn || install_packages maven
    "$ROOT/ci/images/build" "${missing[@]}"
    for name in "${missing[@]}"; do
        reference=$("$ROOT/ci/images/build" --references | awk -v name="$name" '$1 == name { print $2 }')
        logged "push-$name" docker push "$reference"
    done
}

write_local_lock() {
    local name reference digest
    {
        printf '# Written by ci/setup: test images of this machine. Not for a commit.\nversion = 1\n'
        while read -r name reference; do
            digest=$(registry_digest "$reference")
            printf '\n[images.%s]\nreference = "%s"\ndigest = "%s"\n' "$name" "$reference" "$digest"
        done < <("$ROOT/ci/images/build" --references)
    } >"$LOCAL_LOCK.new"
    mv "$LOCAL_LOCK.new" "$LOCAL_LOCK"
}

make_images() {
    local lock
    if can_pull && pull_images; then
        lock=$PROJECT_LOCK
    else
        registry_ready || make_registry
        provide_test_images
        write_local_lock
        lock=$LOCAL_LOCK
    fi
    printf 'export ORCHESTRATOR_IMAGES_LOCK=%q\n' "$lock" >"$ENVIRONMENT.new"
    mv "$ENVIRONMENT.new" "$ENVIRONMENT"
}
