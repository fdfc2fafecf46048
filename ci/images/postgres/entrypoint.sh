#!/usr/bin/env bash
# Entry point with the contract of the official postgres image: see ci/images/README.md.
set -Eeuo pipefail

say() { printf 'entrypoint: %s\n' "$*"; }
refuse() {
    printf 'entrypoint: error: %s\n' "$*" >&2
    exit 1
}

# NAME from the environment, or from the file that NAME_FILE names, or the default.
setting() {
    local name=$1 default=${2-} file_name="${1}_FILE"
    if [[ -n ${!name-} && -n ${!file_name-} ]]; then
        refuse "both $name and $file_name are set; give one"
    fi
    if [[ -n ${!file_name-} ]]; then
        [[ -r ${!file_name} ]] || refuse "$file_name names ${!file_name}, which cannot be read"
        printf -v "$name" '%s' "$(<"${!file_name}")"
    elif [[ -z ${!name-} ]]; then
        printf -v "$name" '%s' "$default"
    fi
    # An init script sees the settled value, and no server inherits the file's name.
    export "${name?}"
    unset "$file_name"
}

# psql on the unix socket as the superuser, never reading the user's own ~/.psqlrc.
sql() {
    PGPASSWORD=$POSTGRES_PASSWORD psql --no-psqlrc --no-password \
        -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" "$@"
}

read_settings() {
    setting POSTGRES_PASSWORD
    setting POSTGRES_USER postgres
    setting POSTGRES_DB "$POSTGRES_USER"
    setting POSTGRES_INITDB_ARGS
    setting POSTGRES_INITDB_WALDIR
    setting POSTGRES_HOST_AUTH_METHOD
    if [[ -z $POSTGRES_PASSWORD && $POSTGRES_HOST_AUTH_METHOD != trust ]]; then
        refuse "the database is not initialised and has no superuser password:" \
            "set POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) to a non-empty value," \
            "or POSTGRES_HOST_AUTH_METHOD=trust to let everyone in without one"
    fi
}

create_cluster() {
    local -a arguments=(--username "$POSTGRES_USER")
    local -a extra=()
    # The value is shell words, as in `--locale="en_US.utf8" --data-checksums`.
    eval "extra=($POSTGRES_INITDB_ARGS)"
    if [[ -n $POSTGRES_INITDB_WALDIR ]]; then
        extra+=(--waldir "$POSTGRES_INITDB_WALDIR")
    fi
    # A file, because a password in an argument could be read in the process list.
    initdb "${arguments[@]}" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") "${extra[@]}"
}

allow_hosts() {
    local method=${POSTGRES_HOST_AUTH_METHOD:-$(postgres -C password_encryption "$@")}
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# Unix socket only: a client that waits for the TCP port must not meet this server.
start_temporary_server() {
    local options
    printf -v options '%q ' "$@" -c listen_addresses= -p "${PGPORT:-5432}"
    NOTIFY_SOCKET='' pg_ctl --pgdata "$PGDATA" -o "$options" --wait --silent start
}

create_database() {
    local found
    found=$(sql --dbname postgres --tuples-only --no-align -v name="$POSTGRES_DB" \
        <<<"select 1 from pg_database where datname = :'name'")
    if [[ -z $found ]]; then
        sql --dbname postgres -v name="$POSTGRES_DB" <<<'create database :"name"'
    fi
}

run_init_files() {
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
        *.sh)
            say "running $file"
            if [[ -x $file ]]; then
                "$file"
            else
                # Sourced, as the official image does: it may use this script's variables.
                # shellcheck source=/dev/null
                . "$file"
            fi
            ;;
        *.sql) say "running $file" && sql --dbname "$POSTGRES_DB" --file "$file" ;;
        *.sql.gz) say "running $file" && gunzip --stdout "$file" | sql --dbname "$POSTGRES_DB" ;;
        *.sql.xz) say "running $file" && xzcat "$file" | sql --dbname "$POSTGRES_DB" ;;
        *.sql.zst) say "running $file" && zstd --decompress --stdout "$file" | sql --dbname "$POSTGRES_DB" ;;
        '/docker-entrypoint-initdb.d/*') ;; # an empty directory
        *) say "ignoring $file" ;;
        esac
    done
}

initialise() {
    read_settings
    create_cluster
    allow_hosts "$@"
    start_temporary_server "$@"
    create_database
    # Scripts call psql as they like; these make it reach the right place.
    export PGUSER=${PGUSER:-$POSTGRES_USER} PGDATABASE=${PGDATABASE:-$POSTGRES_DB}
    export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
    run_init_files
    unset PGUSER PGDATABASE PGPASSWORD
    pg_ctl --pgdata "$PGDATA" --mode fast --wait --silent stop
    say 'the database is initialised; starting the server'
}

only_asks() {
    local argument
    for argument; do
        case $argument in
        -'?' | --help | -V | --version | --describe-config) return 0 ;;
        esac
    done
    return 1
}

prepare_directories() {
    mkdir --parents "$PGDATA" /var/run/postgresql
    chmod 0700 "$PGDATA" || :          # read-only or foreign mounts may refuse
    chmod 3775 /var/run/postgresql || :
    if [[ -n ${POSTGRES_INITDB_WALDIR-} ]]; then
        mkdir --parents "$POSTGRES_INITDB_WALDIR"
        chmod 0700 "$POSTGRES_INITDB_WALDIR"
    fi
    if [[ $(id --user) == 0 ]]; then
        find "$PGDATA" /var/run/postgresql ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} \
            \! -user postgres -exec chown postgres '{}' +
    fi
}

if [[ ${1-} == -* ]]; then
    set -- postgres "$@"
fi
if [[ ${1-} == postgres ]] && ! only_asks "$@"; then
    prepare_directories
    if [[ $(id --user) == 0 ]]; then
        # setpriv leaves HOME alone; root's would be unreadable for psql and init scripts.
        export HOME=/var/lib/postgresql
        exec setpriv --reuid postgres --regid postgres --init-groups "${BASH_SOURCE[0]}" "$@"
    fi
    if [[ -s $PGDATA/PG_VERSION ]]; then
        say 'PGDATA has a database already; nothing to initialise'
    else
        initialise "${@:2}"
    fi
fi
exec "$@"
