# shellcheck shell=bash
# The virtual environment `.venv`. Sourced by ci/setup.

VENV=$ROOT/.venv

# What the environment was made from: another place or other requirements make another one.
venv_key() {
    { printf '%s\n' "$ROOT" && cat "$ROOT/pyproject.toml"; } | sha256sum
}

venv_ready() {
    [[ $(cat "$VENV/.made-from" 2>/dev/null) == "$(venv_key)" ]] &&
        "$VENV/bin/python" -c '' 2>/dev/null
}

# The first Python that is new enough: the caller's own, else Debian's.
find_python() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$python"
            return
        fi
    done
    fail 'no Python 3.11 or newer found as python3'
}

pip_install() { "$VENV/bin/python" -m pip install --disable-pip-version-check "$@"; }

make_venv() {
    local python
    python=$(find_python)
    # Debian ships Python without the part that puts pip into a new environment.
    "$python" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making .venv with $("$python" --version)"
        logged venv "$python" -m venv --clear "$VENV"
    fi
    say 'installing the package and its development tools into .venv'
    # Dependency groups are newer than the pip that comes with Python 3.11.
    if [[ $("$VENV/bin/python" -m pip install --help) != *--group* ]]; then
        logged pip-upgrade pip_install --upgrade pip
    fi
    (cd "$ROOT" && logged pip-install pip_install --editable '.[all]' --group dev)
    venv_key >"$VENV/.made-from"
}
