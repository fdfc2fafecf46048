#!/bin/bash
# Entry point with the contract of the official mysql image: see ci/images/README.md.
set -euo pipefail

DATA=/var/lib/mysql
SOCKET=/run/mysqld/mysqld.sock

say() { printf '[entry point] %s\n' "$*" >&2; }

# The value of $1, or of the file that ${1}_FILE names.
setting() {
    local name=$1 file=${1}_FILE
    if [[ -n ${!name-} && -n ${!file-} ]]; then
        say "both $name and $file are set; give one"
        exit 1
    fi
    if [[ -n ${!file-} ]]; then printf '%s' "$(<"${!file}")"; else printf '%s' "${!name-}"; fi
}

# Text as an SQL literal. The quote comes from a variable: bash versions differ on escaped ones here.
quoted() {
    local quote="'" text=${1//\\/\\\\}
    printf "'%s'" "${text//$quote/$quote$quote}"
}

name_quoted() { printf "\`%s\`" "${1//\`/\`\`}"; }

client() { mariadb --protocol=socket --socket="$SOCKET" --user=root "$@"; }

initialise() {
    local root database user password file
    root=$(setting MYSQL_ROOT_PASSWORD)
    database=$(setting MYSQL_DATABASE)
    user=$(setting MYSQL_USER)
    password=$(setting MYSQL_PASSWORD)
    if [[ -z $root && -z ${MYSQL_ALLOW_EMPTY_PASSWORD-} ]]; then
        say 'no root password: set MYSQL_ROOT_PASSWORD, or MYSQL_ALLOW_EMPTY_PASSWORD'
        exit 1
    fi
    say 'creating the data directory'
    mariadb-install-db --user=mysql --datadir="$DATA" --skip-test-db --auth-root-authentication-method=normal >/dev/null
    say 'temporary server, not on the network'
    "$@" --skip-networking --socket="$SOCKET" &
    local server=$!
    until client --execute='select 1' >/dev/null 2>&1; do
        kill -0 "$server" || exit 1
        sleep 0.1
    done
    {
        [[ -z $database ]] || printf 'create database if not exists %s;\n' "$(name_quoted "$database")"
        if [[ -n $user ]]; then
            printf 'create user %s@"%%" identified by %s;\n' "$(quoted "$user")" "$(quoted "$password")"
            [[ -z $database ]] || printf 'grant all on %s.* to %s@"%%";\n' "$(name_quoted "$database")" "$(quoted "$user")"
        fi
        # What the installation leaves open to whoever is on this host.
        printf 'drop user if exists root@"127.0.0.1", root@"::1", root@%s;\n' "$(quoted "$(hostname)")"
        printf 'create user root@"%%" identified by %s;\n' "$(quoted "$root")"
        printf 'grant all on *.* to root@"%%" with grant option;\n'
    } | client
    for file in /docker-entrypoint-initdb.d/*; do
        say "running $file"
        case $file in
        *.sh) bash "$file" ;;
        *.sql) client ${database:+"$database"} <"$file" ;;
        *.sql.gz) gunzip --stdout "$file" | client ${database:+"$database"} ;;
        esac
    done
    printf 'alter user root@localhost identified by %s;\n' "$(quoted "$root")" | client
    kill "$server"
    wait "$server" || true
    say 'initialised'
}

case ${1-} in
-*) set -- mysqld "$@" ;;
esac
if [[ ${1-} == mysqld ]]; then
    shift
    shopt -s nullglob
    chown -R mysql:mysql "$DATA" /run/mysqld
    set -- mariadbd --user=mysql --datadir="$DATA" --socket="$SOCKET" --bind-address='*' --skip-name-resolve "$@"
    [[ -d $DATA/mysql ]] || initialise "$@"
fi
exec "$@"
