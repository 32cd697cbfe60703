# scripts/lib.sh: what the scripts of this directory share; sourced, not run.
#
# Defines the tree's place, which Debian packages a server version needs, and
# how a private copy of a server, a build of pgpubsub in it and throwaway
# clusters are made.  Nothing here writes into the system's directories except
# install_packages, which calls apt-get.

# shellcheck shell=bash

TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() { warn "error: $*"; exit 1; }

# ----------------------------------------------------------------------------
# Which tests
# ----------------------------------------------------------------------------

# asked_for KIND NAME: does TESTS ask for that test?  If it is not set, for all.
asked_for() {
    local pattern rc=1
    [ -n "${TESTS:-}" ] || return 0
    set -f
    for pattern in $TESTS; do
        # shellcheck disable=SC2254
        case $1/$2 in
            $1/$pattern | $pattern) rc=0; break ;;
        esac
    done
    set +f
    return "$rc"
}

# program_tests MAJOR: the tests of the programs that this run has, on one line.
#
# With another server version than Debian 12's they run only if TESTS asks for
# them: the programs are clients of libpq, to which all versions are alike, and
# .ci/run, which has three of these, must end within 75 minutes.  Those of the
# bridge, which need brokers, run only if TESTS asks for them.
program_tests() {
    local kind file name tests=
    [ "$1" = 15 ] || [ -n "${TESTS:-}" ] || return 0
    for kind in ${KIND:-tap}; do
        [ "$kind" = tap ] || continue
        for file in "$TREE"/test/t/{gateway,bridge}_*.pl; do
            name=$(basename "$file" .pl)
            [ "${name#bridge_}" = "$name" ] || [ -n "${TESTS:-}" ] || continue
            ! asked_for tap "$name" || tests+=" $name"
        done
    done
    echo "${tests# }"
}

# monitoring_tests MAJOR: those that need Prometheus, in the same way.
monitoring_tests() {
    local kind name tests=
    [ "$1" = 15 ] || [ -n "${TESTS:-}" ] || return 0
    for kind in ${KIND:-tap}; do
        [ "$kind" = tap ] || continue
        for name in monitoring gateway_http; do
            ! asked_for tap "$name" || tests+=" $name"
        done
    done
    echo "${tests# }"
}

# ----------------------------------------------------------------------------
# Debian
# ----------------------------------------------------------------------------

# The server version that this Debian release carries.
default_major() {
    local codename=
    [ -r /etc/os-release ] && codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    case $codename in
        trixie) echo 17 ;;
        forky) echo 18 ;;
        *) echo 15 ;;
    esac
}

# The Debian suite that carries a server version; empty when none does.
suite_of_major() {
    case $1 in
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo forky ;;
        19) echo experimental ;;
    esac
}

# Packages to build pgpubsub and make a server of that version run.
build_packages() {
    echo "gcc libc6-dev make libkrb5-dev postgresql-$1 postgresql-server-dev-$1"
}

# Packages to build the programs beside the extension.
program_packages() {
    echo "gcc libc6-dev make pkg-config libuv1-dev libpq-dev libssl-dev libjansson-dev libidn-dev"
    echo "librabbitmq-dev libnats-dev librdkafka-dev libhiredis-dev"
}

# Brokers of the bridge's tests, and a client of one of them.  Debian starts what it
# installs, unless policy-rc.d forbids: the tests start their own.
broker_packages() {
    echo "rabbitmq-server nats-server redis-server python3-pika"
}

# Drivers that listen and notify through the gateway in its test of drivers, but
# for those that need hundreds of megabytes: scripts/test-clients has these, too.
driver_packages() {
    echo "python3-psycopg python3-psycopg2 python3-asyncpg ruby-pg libdbd-pg-perl"
}

# Packages to run the tests of the extension.  pgTAP has no package for a server
# version that is not released yet.
test_packages() {
    echo "$(build_packages "$1") perl libipc-run-perl"
    [ "$1" -ge 19 ] ||
        echo "postgresql-$1-pgtap libtap-parser-sourcehandler-pgtap-perl"
}

# Packages to run those of the programs' tests that this run has.
program_test_packages() {
    local tests
    tests=$(program_tests "$1")
    [ -n "$tests" ] || return 0
    echo "$(program_packages) curl openssl"
    case "$tests" in *gateway_drivers*) driver_packages ;; esac
    case "$tests" in *bridge_*) broker_packages ;; esac
}

package_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Root runs a command as it is, everybody else through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: $*"
    fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

# install_packages PACKAGE...: install those that are missing, and say so.
#
# A PostgreSQL server package would create and start a cluster "main"; while
# we install, a file of ours tells postgresql-common not to.  It goes
# afterwards, so that the machine's administrator finds the usual behaviour.
install_packages() {
    local package missing=() log rc=0
    local hold=/etc/postgresql-common/createcluster.d/pgpubsub-no-main.conf

    for package; do
        package_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "missing, and no apt-get to install them: ${missing[*]}"

    for package in "${missing[@]}"; do
        say "installing package $package"
    done
    # apt's own locks do not wait; two of our scripts may run at a time
    exec 8</var/lib/dpkg
    flock 8
    log=$(mktemp)
    as_root install -d -m 755 "${hold%/*}"
    as_root tee "$hold" >/dev/null <<<"create_main_cluster = false"
    {
        apt_get update &&
            apt_get install -y --no-install-recommends --no-upgrade "${missing[@]}"
    } >"$log" 2>&1 || rc=$?
    as_root rm -f "$hold"
    exec 8<&-
    if [ "$rc" != 0 ]; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: ${missing[*]}"
    fi
    rm -f "$log"
}

# The base address of the Debian mirror that this machine's apt uses.
debian_mirror() {
    local codename targets uri
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    for _ in 1 2; do
        targets=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' || true)
        uri=$(awk -v r="$codename" '$2 == r && $3 == "main" { print $1; exit }' <<<"$targets")
        [ -n "$uri" ] && { echo "$uri"; return; }
        apt_get update >/dev/null
    done
    die "apt knows no mirror for Debian $codename"
}

# ----------------------------------------------------------------------------
# Who does it and where
# ----------------------------------------------------------------------------

# A number that stands for this tree, in names outside it.
tree_number() { cksum <<<"$TREE" | cut -d ' ' -f 1; }

# PostgreSQL refuses to run as root: root hands over to this user.
unprivileged_user() {
    if [ "$(id -u)" != 0 ]; then
        id -un
    elif id postgres >/dev/null 2>&1; then
        echo postgres
    else
        echo nobody
    fi
}

# as_user USER COMMAND...
as_user() {
    local user=$1
    shift
    if [ "$(id -un)" = "$user" ]; then
        "$@"
    else
        runuser -u "$user" -- "$@"
    fi
}

# work_place NAME USER: make a directory that the user can write to, in the
# tree if the user can reach it there, else under /var/tmp, and print it.
work_place() {
    local place=$TREE/$1 user=$2
    if ! as_user "$user" test -x "$TREE" 2>/dev/null; then
        place=/var/tmp/pgpubsub-$(tree_number)/$1
        warn "user $user cannot reach $TREE: working in $place"
    fi
    mkdir -p "$place"
    if [ "$(id -un)" != "$user" ]; then
        chown "$user" "$place"
    fi
    echo "$place"
}

# copy_tree PLACE: mirror the tree's own files into PLACE/src.  Times are
# kept, so that make rebuilds only what changed.
copy_tree() {
    local to=$1/src
    mkdir -p "$to"
    (
        cd "$TREE" || exit
        find . \( -path ./.git -o -path ./build -o -path ./demo \) -prune -o \
            -type f ! -name '*.o' ! -name '*.so' ! -name '*.bc' -print0
    ) | sort -z >"$1/src.list"
    tar -C "$TREE" --null --no-recursion -T "$1/src.list" -c \
        --owner=0 --group=0 --ignore-failed-read |
        tar -C "$to" -x --no-same-owner --unlink-first
    (cd "$to" && find . -type f -print0) | sort -z |
        comm -z -13 "$1/src.list" - |
        (cd "$to" && xargs -0 -r rm -f --)
}

# hand_over PLACE USER: let the user own what root put there.
hand_over() {
    [ "$(id -un)" = "$2" ] || chown -R "$2" "$1"
}

# ----------------------------------------------------------------------------
# A private server
# ----------------------------------------------------------------------------

# private_server PLACE PG_CONFIG: copy that server's programs and files to
# PLACE/root, where pgpubsub can be installed without touching the original.
# PostgreSQL finds its files relative to its programs, so the copy is whole.
# Sets server_bin and server_config, the copy's program directory and
# pg_config.
private_server() {
    local place=$1 config=$2 what dir state
    local bin share lib
    bin=$("$config" --bindir) share=$("$config" --sharedir) lib=$("$config" --pkglibdir)
    server_bin=$place/root$bin
    server_config=$server_bin/pg_config

    # Anything installed or upgraded there since makes a new copy.
    state=$("$config" --version; stat -c '%n %Y %s' \
        "$bin" "$bin/postgres" "$lib" "$share/extension")
    if [ -f "$place/root.state" ] && [ "$(cat "$place/root.state")" = "$state" ]; then
        return
    fi
    rm -rf "$place/root" "$place/root.state" "$place/template"
    for what in bindir sharedir pkglibdir includedir pkgincludedir includedir-server; do
        dir=$("$config" --$what)
        mkdir -p "$place/root$dir"
        tar -C "$dir" --exclude=./bitcode --exclude='./pgpubsub*' \
            --exclude='./extension/pgpubsub*' -c . | tar -C "$place/root$dir" -x --no-same-owner
    done
    printf '%s\n' "$state" >"$place/root.state"
}

# How the tests build: what a compiler has to say counts.  Callbacks have
# parameters that they do not need, hence the one exception.
# shellcheck disable=SC2034
test_copt="-Wextra -Wno-unused-parameter -Werror -DUSE_ASSERT_CHECKING"

# build PLACE COPT: build PLACE/src in PLACE/obj and install it into the
# private server.  Nothing of the caller's make reaches this one.
build() {
    local place=$1 copt=$2
    mkdir -p "$place/obj"
    if ! [ -f "$place/obj/.copt" ] || [ "$(cat "$place/obj/.copt")" != "$copt" ]; then
        rm -rf "$place/obj"
        mkdir -p "$place/obj"
        printf '%s\n' "$copt" >"$place/obj/.copt"
    fi
    tree_make "$place" -j "$(nproc)" COPT="$copt" all &&
        rm -f "$("$server_config" --sharedir)"/extension/pgpubsub* &&
        tree_make "$place" COPT="$copt" install >/dev/null
}

# tree_make PLACE ARGUMENT...: make in the build directory of PLACE, through
# the command in make_through if one is set.
# shellcheck disable=SC2034
make_through=()
tree_make() {
    local place=$1
    shift
    "${make_through[@]}" env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MAKEOVERRIDES \
        make -s -C "$place/obj" -f "$place/src/Makefile" --no-print-directory \
        PG_CONFIG="$server_config" with_llvm=no "$@"
}

# new_cluster PLACE DATA CONF...: a cluster at DATA, configured by those files.
# initdb runs once per server; later clusters are copies of its result.
new_cluster() {
    local place=$1 data=$2
    shift 2
    if ! [ -d "$place/template" ]; then
        rm -rf "$place/template.new"
        "$server_bin/initdb" -D "$place/template.new" -U postgres -A trust -N \
            -E UTF8 --no-locale >"$place/initdb.log" 2>&1 ||
            { cat "$place/initdb.log" >&2; die "initdb failed"; }
        mv "$place/template.new" "$place/template"
    fi
    rm -rf "$data"
    cp -a "$place/template" "$data"
    cat "$@" >>"$data/postgresql.conf"
}

# start_cluster DATA LOG SOCKETDIR; stop_cluster DATA
start_cluster() {
    "$server_bin/pg_ctl" -s -D "$1" -l "$2" -t 60 -w \
        -o "-c unix_socket_directories='$3' -c listen_addresses=''" start
}

stop_cluster() {
    [ ! -f "$1/postmaster.pid" ] || "$server_bin/pg_ctl" -s -D "$1" -m fast -t 60 -w stop
}

# stop_leftovers DIRECTORY: end the servers whose data lies below it, which an
# interrupted test left.  A pid file may be older than the process of that
# number, hence the look at its command line.
stop_leftovers() {
    local file data pid
    while IFS= read -r file; do
        data=${file%/postmaster.pid}
        pid=$(head -n 1 "$file" 2>/dev/null) || continue
        if tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$data"; then
            "$server_bin/pg_ctl" -s -D "$data" -m immediate -t 60 -w stop || true
        fi
    done < <(find "$1" -name postmaster.pid 2>/dev/null)
}

# private_socket_dir PLACE: a directory for the server's socket.  A socket's
# path ends at 107 bytes, which a deep tree exceeds.
private_socket_dir() {
    if [ ${#1} -lt 80 ]; then
        mkdir -p "$1"
        echo "$1"
    else
        mktemp -d /tmp/pgpubsub.XXXXXX
    fi
}
