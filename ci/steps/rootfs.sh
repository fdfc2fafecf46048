# shellcheck shell=bash
# Root file systems of other Debian releases, for engines and Pythons that this one lacks. Sourced by
# ci/engines and ci/pythons.

ROOTS=$CACHE/roots

# make_rootfs SUITE FOLDER PACKAGE...: extracted and never configured: no maintainer script runs, so
# that it takes less than a minute and needs nothing but mmdebstrap. Kept for the next time.
make_rootfs() {
    local suite=$1 folder=$2 name target
    shift 2
    [[ $(cat "$folder/.made-of" 2>/dev/null) != "$suite $*" ]] || return 0
    has mmdebstrap || install_packages mmdebstrap
    say "making a root file system of Debian $suite (log: $CACHE/rootfs-$suite.log)"
    rm -rf "$folder"
    mkdir -p "$ROOTS"
    # forky's lists are valid for a week, and a mirror may be older.
    logged "rootfs-$suite" mmdebstrap --variant=extract --include="$(
        IFS=,
        printf %s "$*"
    )" --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
        "$suite" "$folder" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    rm -rf "$folder"/usr/share/{doc,man,locale}
    # What configuring the packages would have done, as far as it is needed.
    for name in bin sbin lib lib64; do
        [[ ! -d $folder/usr/$name || -e $folder/$name ]] || ln -s "usr/$name" "$folder/$name"
    done
    for name in iptables ip6tables; do
        for target in "$name" "$name-save" "$name-restore"; do
            [[ ! -e $folder/usr/sbin/xtables-nft-multi ]] ||
                ln -sfn xtables-nft-multi "$folder/usr/sbin/$target"
        done
    done
    (cd "$folder" && mkdir -p proc sys dev run tmp root old var/lib var/tmp etc/ssl/certs)
    ln -sfn /run "$folder/var/run"
    [[ -e $folder/etc/passwd ]] || printf 'root:x:0:0:root:/root:/bin/sh\n' >"$folder/etc/passwd"
    [[ -e $folder/etc/group ]] || printf 'root:x:0:\n' >"$folder/etc/group"
    ldconfig -r "$folder"
    printf '%s' "$suite $*" >"$folder/.made-of"
}
