#!/bin/sh
# Entry point with the contract of the official redis image: see ci/images/README.md.
set -eu

case ${1-} in
-* | *.conf) set -- redis-server "$@" ;;
esac

if [ "${1-}" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        # Files of a mounted volume may belong to anyone; the server must be able to save there.
        find . \! -user redis -exec chown redis '{}' +
        exec setpriv --reuid redis --regid redis --init-groups "$0" "$@"
    fi
    # Nobody else may read the data files.
    if [ "$(umask)" = 0022 ]; then
        umask 0077
    fi
    shift
    # The official binary is compiled with protected mode off. Debian's is not, so the default is
    # given here: before the user's arguments, which win, and not over a line of the user's file.
    case ${1-} in
    *.conf)
        if grep -qi '^[[:space:]]*protected-mode[[:space:]]' "$1"; then
            exec redis-server "$@"
        fi
        file=$1
        shift
        exec redis-server "$file" --protected-mode no "$@"
        ;;
    *) exec redis-server --protected-mode no "$@" ;;
    esac
fi
exec "$@"
