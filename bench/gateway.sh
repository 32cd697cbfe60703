# bench/gateway.sh: the section "gateway", which bench/run reads.
#
# BENCH_CLIENTS (10000) clients on one gateway, beside as many direct connections
# as the server bears, and as clients of a pool that poll.  Each round opens all
# anew: what a login and an idle client cost is measured each time.

# shellcheck shell=bash

gateway_port=5433
pool_port=6432
event_bytes=300

# Transactions have so many events where the rate counts: then a flush can have as
# many.
per_commit=20

# Clients of a channel where the latency counts, and events a second.
clients_per_channel=100
latency_rate=1000

# Logins a second, every other with a wrong password.
login_rate=500

# More than the aim, so that whoever could, does.
offered_deliveries=1200000

gateway_pid='' pool_pid='' listeners_pid=''

# end_helpers: those that run.
end_helpers() {
    end_process "$listeners_pid"
    end_process "$pool_pid"
    end_process "$gateway_pid"
    gateway_pid='' pool_pid='' listeners_pid=''
}

# field NAME: of the last answer.
field() { sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<<"$answer"; }

# ----------------------------------------------------------------------------
# Who takes part
# ----------------------------------------------------------------------------

# start_listeners PORT DATABASE [HOST]: bench/listeners, which has no connection yet.
start_listeners() {
    rm -f "$place/to" "$place/from"
    mkfifo "$place/to" "$place/from"
    PGHOST=${3:-$PGHOST} PGPORT=$1 PGDATABASE=$2 "$place/bin/listeners" <"$place/to" >"$place/from" &
    listeners_pid=$!
    exec {to}>"$place/to" {from}<"$place/from"
}

# ask COMMAND...: have the listeners do it; the line that they say is in answer.
ask() {
    printf '%s\n' "$*" >&"$to"
    read -r answer <&"$from" || die "the listeners have ended at: $*"
    if [ "$(field failed)" ] && [ "$(field failed)$(field closed)" != 00 ]; then
        warn "$answer"
    fi
}

stop_listeners() {
    echo quit >&"$to"
    exec {to}>&- {from}<&-
    wait "$listeners_pid" || true
    listeners_pid=''
}

# start_gateway OPTION...: sets gateway_pid.
start_gateway() {
    local log=$place/gateway.log
    rm -f "$log"
    "$place/programs/pgpubsub-gateway" \
        --dbname "host=$socket_dir port=$PGPORT user=$PGUSER dbname=pubsub" \
        --socket-dir "$socket_dir" --port "$gateway_port" --name bench \
        --allow-unproven-login --max-clients $((gateway_clients + 5000)) "$@" >"$log" 2>&1 &
    gateway_pid=$!
    until grep -q 'is ready' "$log"; do
        kill -0 "$gateway_pid" 2>/dev/null || { cat "$log" >&2; die "the gateway did not start"; }
        sleep 0.05
    done
}

# The port that it has got, with --listen 127.0.0.1:0.
tcp_port() { sed -n 's/.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$place/gateway.log" | head -n 1; }

stop_gateway() {
    end_process "$gateway_pid"
    gateway_pid=''
}

# find_pgbouncer: sets pgbouncer, the command's words; none where there is none.
find_pgbouncer() {
    local unpacked=$place/pgbouncer
    pgbouncer=()
    if [ -x "$unpacked/usr/sbin/pgbouncer" ]; then
        pgbouncer=(env "LD_LIBRARY_PATH=$(find "$unpacked/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd :)"
            "$unpacked/usr/sbin/pgbouncer")
    elif PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null; then
        pgbouncer=("$(PATH=$PATH:/usr/sbin command -v pgbouncer)")
    fi
}

start_pool() {
    printf '%s\n' '[databases]' "pubsub = host=$socket_dir port=$PGPORT user=$PGUSER dbname=pubsub" \
        '[pgbouncer]' "unix_socket_dir = $socket_dir" "listen_port = $pool_port" 'listen_addr =' \
        'auth_type = any' 'pool_mode = transaction' 'default_pool_size = 20' \
        "max_client_conn = $((pool_clients + 10))" 'max_db_connections = 20' >"$place/pgbouncer.ini"
    "${pgbouncer[@]}" "$place/pgbouncer.ini" >"$place/pgbouncer.log" 2>&1 &
    pool_pid=$!
    until [ -S "$socket_dir/.s.PGSQL.$pool_port" ]; do
        kill -0 "$pool_pid" 2>/dev/null || { cat "$place/pgbouncer.log" >&2; die "PgBouncer did not start"; }
        sleep 0.05
    done
}

# ----------------------------------------------------------------------------
# What is measured
# ----------------------------------------------------------------------------

resident() { awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$1/status"; }

# waited_ms PID: how long it could have run and had no core, in its life, in
# milliseconds; nothing where the kernel does not say.
waited_ms() { awk '{ print $2 / 1e6 }' "/proc/$1/schedstat" 2>/dev/null || true; }

# publish COUNT RATE EVENTS NAME MANY: see bench/publisher.c; as the variant would.
publish() {
    local database=pubsub how=async
    [ "$variant" != native ] || { database=native how=native; }
    PGOPTIONS="-c synchronous_commit=off" PGDATABASE=$database \
        "$place/bin/publisher" "$how" "$1" "$2" "$3" "$event_bytes" "$4" "$5"
}

# CPU seconds of the server, and of what stands before it.
all_cpu() {
    local helper=''
    case $variant in
        gateway | tcp) helper=$gateway_pid ;;
        pool) helper=$pool_pid ;;
    esac
    { server_cpu; [ -z "$helper" ] || cpu_seconds "$helper"; } | awk '{ sum += $1 } END { printf "%.6f\n", sum }'
}

# channels_of CLIENTS: those that the clients share where the latency counts.
channels_of() { echo $(($1 > clients_per_channel ? $1 / clients_per_channel : 1)); }

# listen_to NAME MANY: have all listeners do so instead of what they did.
listen_to() {
    if [ "$variant" = pool ]; then
        ask poll "$1" 20ms
        return
    fi
    ask unlisten
    ask listen "$1" "$2"
}

# measure_throughput CLIENTS: all on one channel.  What is published at once can
# be flushed at once; what comes at a rate, above what is hoped for, cannot.
measure_throughput() {
    local x=$1 rate events=$((500 * seconds))
    [ "$x" -gt 1000 ] || events=2000
    listen_to all 1
    measure_rate "$x" "$events" 0 ''
    rate=$((offered_deliveries / per_commit / x))
    measure_rate "$x" $((rate * per_commit * 5 * seconds)) "$rate" paced_
}

# measure_rate CLIENTS EVENTS RATE PREFIX: deliveries per second, of so many events
# of so many transactions a second, or as fast as they go.
measure_rate() {
    local x=$1 events=$2 prefix=$4 before after deliveries
    # what a client has not taken yet may have as many bytes as the gateway's
    # client-buffer
    [ "$events" -le 2000 ] || events=2000
    events=$((events / per_commit * per_commit))
    before=$(all_cpu)
    ask begin
    publish $((events / per_commit)) "$3" "$per_commit" all 1 >"$place/published"
    ask end $((events * x))
    after=$(all_cpu)
    deliveries=$(field deliveries)
    record "$variant" "$x" "$round" "${prefix}deliveries" "$(quotient "$deliveries" "$(field seconds)")"
    record "$variant" "$x" "$round" "${prefix}megabytes" "$(quotient "$(field bytes)" "$(field seconds)" 1e-6)"
    record "$variant" "$x" "$round" "${prefix}per_read" "$(field per_read)"
    record "$variant" "$x" "$round" "${prefix}missing" $((events * x - deliveries))
    record "$variant" "$x" "$round" "${prefix}cpu_us" "$(quotient "$(awk -v a="$before" -v b="$after" 'BEGIN { print (b - a) * 1e6 }')" "$deliveries")"
}

# measure_paced CLIENTS SECONDS PREFIX [COMMAND...]: the latency of a steady
# stream, perhaps beside a command.
measure_paced() {
    local x=$1 count=$((latency_rate * $2)) prefix=$3 channels publisher waited=''
    shift 3
    [ -z "$gateway_pid" ] || waited=$(waited_ms "$gateway_pid")
    channels=$(channels_of "$x")
    count=$((count / channels * channels))
    ask begin
    publish "$count" "$latency_rate" 1 some "$channels" >"$place/published" &
    publisher=$!
    [ $# = 0 ] || "$@"
    wait "$publisher" || die "the publisher failed"
    # (with fewer on some channels than on others, this is a little less)
    ask end $((count / channels * x))
    [ -z "$waited" ] || record "$variant" "$x" "$round" "${prefix}waited" \
        "$(awk -v a="$waited" -v b="$(waited_ms "$gateway_pid")" -v s="$(field seconds)" 'BEGIN { print (b - a) / s }')"
    record "$variant" "$x" "$round" "${prefix}p50" "$(field p50)"
    record "$variant" "$x" "$round" "${prefix}p99" "$(field p99)"
    record "$variant" "$x" "$round" "${prefix}max" "$(field max)"
    record "$variant" "$x" "$round" "${prefix}offered" "$(quotient $((count / channels * x)) "$((count))" "$latency_rate")"
    record "$variant" "$x" "$round" "${prefix}made" "$(quotient "$(field deliveries)" "$(field seconds)")"
    record "$variant" "$x" "$round" "${prefix}late" "$(sed -n 's/.* late=//p' "$place/published")"
}

# measure_latency_of CLIENTS: their latency with channels of their own.
measure_latency_of() {
    listen_to some "$(channels_of "$1")"
    measure_paced "$1" $((5 * seconds)) ''
}

# measure_idle_clients CLIENTS BYTES: what each costs, when the gateway had so many
# bytes without them; each has a channel of its own.
measure_idle_clients() {
    local x=$1 before
    ask unlisten
    ask listen each "$x"
    record gateway "$x" "$round" listen_seconds "$(field seconds)"
    record gateway "$x" "$round" client_bytes $((($(resident "$gateway_pid") - $2) / x))
    record gateway "$x" "$round" connections "$(psql_in postgres -c "SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")"
    # what the LISTENs leave to do is done
    sleep 2
    before=$(cpu_seconds "$gateway_pid")
    sleep 5
    record gateway "$x" "$round" idle_ms "$(awk -v a="$before" -v b="$(cpu_seconds "$gateway_pid")" 'BEGIN { print (b - a) * 1000 / 5 }')"
}

# login_storm SECONDS: its answer is in PLACE/storm.
login_storm() {
    PGPORT=$gateway_port PGDATABASE=pubsub PGOPTIONS='' \
        "$place/bin/logins" storm "$login_rate" "$1" storm right >"$place/storm"
}

# measure_storm CLIENTS: how the streams fare while so many log in.
measure_storm() {
    local x=$1 storm=$((5 * seconds)) before metric
    before=$(resident "$gateway_pid")
    # until the last login is answered, and longer
    measure_paced "$x" $((4 * storm)) storm_ login_storm "$storm"
    record gateway "$x" "$round" storm_bytes $(($(resident "$gateway_pid") - before))
    answer=$(cat "$place/storm")
    for metric in offered in refused other wrong seconds p50 max open; do
        record gateway "$x" "$round" "logins_$metric" "$(field "$metric")"
    done
}

# measure_tls: what an idle client with TLS takes, on a gateway of its own.
measure_tls() {
    local count=$native_clients before during port variant
    command -v openssl >/dev/null || { warn "no openssl: TLS is not measured"; return; }
    rm -f "$place/tls.key"
    (umask 077; openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 30 \
        -keyout "$place/tls.key" -out "$place/tls.crt" 2>/dev/null)
    for variant in tls libpq; do
        start_gateway --listen 127.0.0.1:0 --tls-cert "$place/tls.crt" --tls-key "$place/tls.key"
        port=$(tcp_port)
        before=$(resident "$gateway_pid")
        PGHOST=127.0.0.1 PGPORT=$port PGDATABASE=pubsub PGOPTIONS='' \
            PGSSLMODE=$([ "$variant" = tls ] && echo require || echo disable) \
            "$place/bin/logins" hold "$count" idle "grep ^VmRSS /proc/$gateway_pid/status >$place/resident"
        during=$(awk '{ print $2 * 1024 }' "$place/resident")
        record "$variant" "$count" 1 client_bytes $(((during - before) / count))
        stop_gateway
    done
}

# ----------------------------------------------------------------------------
# The variants
# ----------------------------------------------------------------------------

measure_native_clients() {
    local variant=native
    start_listeners "$PGPORT" native
    ask connect "$native_clients"
    measure_throughput "$native_clients"
    measure_latency_of "$native_clients"
    stop_listeners
}

measure_pool_clients() {
    local variant=pool
    start_pool
    psql_in pubsub -c "SELECT count(pgpubsub.subscribe('all_' || i, '{all_0}', 'drop')),
            count(pgpubsub.subscribe('some_' || i, ARRAY['some_' || i % $(channels_of "$pool_clients")], 'drop'))
        FROM generate_series(0, $((pool_clients - 1))) AS i" >/dev/null
    start_listeners "$pool_port" pubsub
    ask connect "$pool_clients"
    measure_throughput "$pool_clients"
    measure_latency_of "$pool_clients"
    stop_listeners
    end_process "$pool_pid"
    pool_pid=''
    psql_in pubsub -c "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE datname = 'pubsub' AND backend_type = 'client backend' AND pid <> pg_backend_pid()" \
        -c "SELECT count(pgpubsub.unsubscribe(n || '_' || i))
            FROM unnest('{all,some}'::text[]) AS n, generate_series(0, $((pool_clients - 1))) AS i" >/dev/null
}

measure_gateway_clients() {
    local variant=gateway without few=$native_clients
    start_gateway
    without=$(resident "$gateway_pid")
    start_listeners "$gateway_port" pubsub
    if [ "$few" -lt "$gateway_clients" ]; then
        ask connect "$few"
        measure_throughput "$few"
        measure_latency_of "$few"
        stop_listeners
        # what the few have left behind would be lacking with the many
        stop_gateway
        start_gateway
        without=$(resident "$gateway_pid")
        start_listeners "$gateway_port" pubsub
    fi
    ask connect "$gateway_clients"
    record gateway "$gateway_clients" "$round" connect_seconds "$(field seconds)"
    measure_idle_clients "$gateway_clients" "$without"
    measure_throughput "$gateway_clients"
    measure_latency_of "$gateway_clients"
    measure_storm "$gateway_clients"
    stop_listeners
    stop_gateway
}

# The same clients at a TCP port.
measure_tcp_clients() {
    local variant=tcp
    start_gateway --listen 127.0.0.1:0
    start_listeners "$(tcp_port)" pubsub 127.0.0.1
    ask connect "$gateway_clients"
    measure_throughput "$gateway_clients"
    measure_latency_of "$gateway_clients"
    stop_listeners
    stop_gateway
}

# A role with a password of one round of hashing, which PostgreSQL takes as it is:
# what a client spends to prove that it knows its password, which is as much as all
# the rest, would not be spent on these cores.
create_storm_role() {
    local secret
    secret=$(perl -MDigest::SHA=hmac_sha256,sha256 -MMIME::Base64 -e '
        my $salt = "0123456789abcdef";
        my $salted = hmac_sha256($salt . pack("N", 1), "right");
        my $client = sha256(hmac_sha256("Client Key", $salted));
        my $server = hmac_sha256("Server Key", $salted);
        my ($of_salt, $of_client, $of_server) = map { encode_base64($_, "") } $salt, $client, $server;
        print "SCRAM-SHA-256\$1:$of_salt\$$of_client:$of_server";')
    psql_in postgres -c "CREATE ROLE storm LOGIN PASSWORD '$secret'"
    sed -i '1i local all storm scram-sha-256' "$data/pg_hba.conf"
    psql_in postgres -c "SELECT pg_reload_conf()" >/dev/null
}

measure_gateway() {
    local round files
    gateway_clients=${BENCH_CLIENTS:-10000}
    files=$(ulimit -Hn)
    if [ "$files" != unlimited ] && [ "$gateway_clients" -gt $((files - 500)) ]; then
        gateway_clients=$((files - 500))
        warn "only $gateway_clients clients, as $files files may be open"
    fi
    native_clients=$((gateway_clients < 500 ? gateway_clients / 2 : 500))
    pool_clients=$((gateway_clients < 200 ? gateway_clients : 200))
    [ ${#pgbouncer[@]} -gt 0 ] || warn "no PgBouncer here: no pool is measured"
    mkdir -p "$place/programs"
    make -s -f "$place/src/programs/Makefile" OUT="$place/programs" || die "the programs were not built"
    server "max_connections = $((native_clients + 100))" "pgpubsub.queue_size = '256MB'" \
        "pgpubsub.staging_size = '64MB'" "pgpubsub.max_channels = $((gateway_clients * 2 + 2000))" \
        "pgpubsub.max_subscriptions = $((gateway_clients / 8 + 2000))"
    create_storm_role
    measure_tls
    # (a round takes some minutes)
    for ((round = 1; round <= (rounds + 1) / 2; round++)); do
        measure_native_clients
        [ ${#pgbouncer[@]} = 0 ] || measure_pool_clients
        measure_gateway_clients
        measure_tcp_clients
    done
}
