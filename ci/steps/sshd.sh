# shellcheck shell=bash
# An ssh server for the tests of ssh://, unpacked and not installed: nothing of it runs but under
# them. Without one, or without apt, they are skipped. Sourced by ci/setup.

SSHD=$CACHE/sshd

sshd_ready() {
    has ssh && { [[ -x /usr/sbin/sshd || -x $SSHD/usr/sbin/sshd ]] || ! has apt-get; }
}

unpack_sshd() {
    local package
    rm -rf "$SSHD.new"
    mkdir -p "$SSHD.new"
    cd "$SSHD.new" || return
    apt-get download openssh-server libwrap0 || { apt-get update && apt-get download openssh-server libwrap0; }
    for package in *.deb; do
        dpkg --extract "$package" .
        rm "$package"
    done
}

make_sshd() {
    has ssh || install_packages openssh-client
    sshd_ready || {
        (logged sshd unpack_sshd) && mv "$SSHD.new" "$SSHD"
    } || say "no ssh server: tests of ssh:// are skipped"
}
