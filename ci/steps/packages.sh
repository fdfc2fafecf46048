# shellcheck shell=bash
# Debian packages. Sourced by ci/setup and ci/check.

has() { command -v "$1" >/dev/null 2>&1; }

# install_packages PACKAGE...: through apt, whose lists may be missing on a fresh machine.
install_packages() {
    has apt-get || fail "this machine has no apt-get; install by hand: $*"
    [[ $EUID == 0 ]] || fail "not root; run: sudo apt-get install $*"
    say "installing Debian packages: $*"
    # needrestart would otherwise restart the Docker daemon under whoever is using it.
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
    # Slim Debian images lack this directory, and the Java packages fail to install without it.
    mkdir -p /usr/share/man/man1
    logged apt-update apt-get -o DPkg::Lock::Timeout=300 update
    logged apt-install apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
}
