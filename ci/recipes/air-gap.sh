#!/bin/sh
# Carry the locked images to a machine that reaches no registry.
#
#   outside:  air-gap.sh pack FOLDER     pulls, saves, and adds the lock file and a checksum
#   inside:   air-gap.sh unpack FOLDER   verifies and loads; run it where images.lock is
set -eu

python=${PYTHON:-python3}
usage() {
    echo "usage: air-gap.sh pack|unpack FOLDER" >&2
    exit 2
}
[ $# -eq 2 ] || usage
folder=$2

case $1 in
pack)
    mkdir -p "$folder"
    "$python" -m orchestrator pull
    "$python" -m orchestrator save "$folder/images.tar.gz"
    (cd "$folder" && sha256sum images.tar.gz >SHA256SUMS)
    ;;
unpack)
    # The checksum finds a broken medium early; that the images are the locked ones is for load.
    (cd "$folder" && sha256sum --check --quiet SHA256SUMS)
    "$python" -m orchestrator load "$folder/images.tar.gz"
    echo "Run the tests with ORCHESTRATOR_PULL=never: a missing image is then an error at once."
    ;;
*) usage ;;
esac
