# bench/bridge.sh: the section "bridge", which bench/run reads.
#
# Each broker that the machine has, private to the run and on loopback: a bare publisher
# with the broker's library, confirms and the bridge's window (bench/brokers.c), then the
# bridge from a durable channel; for RabbitMQ also what people write, NOTIFY and a
# listener that publishes without confirms.  How many they publish a second, and how
# long it takes from COMMIT, or from the publisher, to the broker's consumer.

# shellcheck shell=bash

bridge_event_bytes=300
bridge_window=1000

# Events a second where the latency counts.
bridge_latency_rate=200

broker_pid='' bridge_pid='' consumer_pid='' epmd_port=''

# end_bridge_helpers: those that run.
end_bridge_helpers() {
    end_process "$consumer_pid"
    end_process "$bridge_pid"
    stop_broker
    consumer_pid='' bridge_pid=''
}

# ----------------------------------------------------------------------------
# Brokers
# ----------------------------------------------------------------------------

# free_port: one of loopback that nobody has.
free_port() {
    perl -MIO::Socket::INET -e '
        print IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 0, Listen => 1)->sockport'
}

# listens PORT: does somebody?
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

have_broker() {
    case $1 in
        amqp) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] ;;
        nats) command -v nats-server >/dev/null ;;
        redis) command -v redis-server >/dev/null ;;
        kafka) [ -x "$place/programs/kafka-mock" ] ;;
    esac
}

# start_broker KIND: sets broker_pid, where (see brokers.c) and url.
start_broker() {
    local dir=$place/broker port log=$place/broker.log
    rm -rf "$dir" "$log"
    mkdir -p "$dir"
    port=$(free_port)
    where=$port url=$1://127.0.0.1:$port
    case $1 in
        amqp)
            epmd_port=$(free_port)
            printf '%s\n' "listeners.tcp.1 = 127.0.0.1:$port" 'log.console = true' 'log.file = false' >"$dir/rabbitmq.conf"
            echo '[].' >"$dir/enabled_plugins"
            HOME=$dir ERL_EPMD_PORT=$epmd_port ERL_EPMD_ADDRESS=127.0.0.1 \
                RABBITMQ_NODENAME=bench@localhost RABBITMQ_DIST_PORT=$(free_port) \
                RABBITMQ_MNESIA_BASE=$dir/mnesia RABBITMQ_LOG_BASE=$dir/log \
                RABBITMQ_CONFIG_FILE=$dir/rabbitmq.conf RABBITMQ_CONF_ENV_FILE=$dir/none.conf \
                RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins RABBITMQ_PID_FILE=$dir/pid \
                setsid /usr/lib/rabbitmq/bin/rabbitmq-server >"$log" 2>&1 &
            ;;
        nats)
            printf '%s\n' 'host: 127.0.0.1' "port: $port" "jetstream { store_dir: \"$dir/store\" }" >"$dir/nats.conf"
            setsid nats-server -c "$dir/nats.conf" >"$log" 2>&1 &
            ;;
        redis)
            setsid redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --appendonly yes --save '' >"$log" 2>&1 &
            ;;
        kafka)
            setsid "$place/programs/kafka-mock" serve 1 >"$log" 2>&1 &
            ;;
    esac
    broker_pid=$!
    if [ "$1" = kafka ]; then
        until grep -q '^serves' "$log"; do broker_lives; done
        where=$(sed -n 's/^serves //p' "$log")
        url=kafka://$where
    else
        until listens "$port"; do broker_lives; done
    fi
}

# A moment's wait for the broker, which must not have ended.
broker_lives() {
    kill -0 "$broker_pid" 2>/dev/null || { tail -n 40 "$place/broker.log" >&2; die "the broker did not start"; }
    sleep 0.1
}

# stop_broker: with all processes that it has started.
stop_broker() {
    [ -z "$broker_pid" ] || { kill -KILL -- "-$broker_pid" && wait "$broker_pid"; } 2>/dev/null || true
    broker_pid=''
    # RabbitMQ leaves a daemon, which does not end as long as it knows a node
    until [ -z "$epmd_port" ] || ERL_EPMD_PORT=$epmd_port ERL_EPMD_ADDRESS=127.0.0.1 epmd -kill >/dev/null 2>&1 ||
        ! listens "$epmd_port"; do
        sleep 0.1
    done
    epmd_port=''
}

# ----------------------------------------------------------------------------
# The bridge
# ----------------------------------------------------------------------------

# address_option KIND
address_option() {
    case $1 in
        amqp) echo --routing-key ;;
        nats) echo --subject ;;
        kafka) echo --topic ;;
        redis) echo --stream ;;
    esac
}

# start_bridge KIND NAME: from the subscription of that name to that place.
start_bridge() {
    local log=$place/bridge.log
    : >"$log"
    metrics_port=$(free_port)
    "$place/programs/pgpubsub-bridge" \
        --dbname "host=$socket_dir port=$PGPORT user=$PGUSER dbname=pubsub" \
        --subscription "$2" --to "$url" "$(address_option "$1")" "$2" --window "$bridge_window" \
        --metrics "127.0.0.1:$metrics_port" >"$log" 2>&1 &
    bridge_pid=$!
    until grep -q 'is ready' "$log"; do
        kill -0 "$bridge_pid" 2>/dev/null || { cat "$log" >&2; die "the bridge did not start"; }
        sleep 0.01
    done
}

# confirmed: how many messages the broker has confirmed.
confirmed() {
    exec {metrics}<>"/dev/tcp/127.0.0.1/$metrics_port"
    printf 'GET /metrics HTTP/1.1\r\n\r\n' >&"$metrics"
    sed -n 's/^pgpubsub_bridge_confirmed_total //p' <&"$metrics"
    exec {metrics}>&-
}

stop_bridge() {
    end_process "$bridge_pid"
    bridge_pid=''
}

# subscribe_bridge NAME: to the channel NAME_0, which is durable.
subscribe_bridge() {
    psql_in pubsub -c "SELECT pgpubsub.set_durable('$1_0'), pgpubsub.subscribe('$1', '{$1_0}')" >/dev/null
}

# ----------------------------------------------------------------------------
# What is measured
# ----------------------------------------------------------------------------

# measure_rates KIND: with as many events for each.
measure_rates() {
    local kind=$1 name=rate_${1}_$round events=$((300000 * seconds)) before started
    "$place/bin/brokers" publish "$kind" "$where" "bare_$name" "$events" 0 "$bridge_event_bytes" "$bridge_window" >"$place/published"
    record bare "$kind" "$round" rate "$(quotient "$events" "$(sed -n 's/.*seconds=//p' "$place/published")")"
    subscribe_bridge "$name"
    psql_in pubsub -c "SELECT count(pgpubsub.publish('${name}_0', rpad(i::text, $bridge_event_bytes, '.')))
        FROM generate_series(1, $events) AS i" >/dev/null
    settle
    "$place/bin/brokers" declare "$kind" "$where" "$name" 1
    start_bridge "$kind" "$name"
    # from when it is at work; asking takes time of the cores, too
    until before=$(confirmed) && [ "$before" -gt 0 ]; do sleep 0.01; done
    started=$EPOCHREALTIME
    until [ "$(confirmed)" -ge "$events" ]; do sleep 0.05; done
    record bridge "$kind" "$round" rate \
        "$(awk -v a="$started" -v b="$EPOCHREALTIME" -v n=$((events - before)) 'BEGIN { print n / (b - a) }')"
    stop_bridge
    psql_in pubsub -c "SELECT pgpubsub.unsubscribe('$name')" >/dev/null
}

# consume KIND NAME COUNT: in the background, when it is ready.
consume() {
    rm -f "$place/consumed"
    "$place/bin/brokers" consume "$1" "$where" "$2" "$3" >"$place/consumed" 2>&1 &
    consumer_pid=$!
    until grep -q ready "$place/consumed"; do
        kill -0 "$consumer_pid" 2>/dev/null || { cat "$place/consumed" >&2; die "the consumer did not start"; }
        sleep 0.01
    done
}

# consumed VARIANT KIND: what it has seen.
consumed() {
    local metric
    wait "$consumer_pid" || die "the consumer failed: $(cat "$place/consumed")"
    consumer_pid=''
    for metric in events p50 p99; do
        record "$1" "$2" "$round" "$metric" "$(sed -n "s/.*$metric=\([0-9]*\).*/\1/p" "$place/consumed")"
    done
}

# publish_paced HOW DATABASE NAME COUNT: as publisher.c does.
publish_paced() {
    PGOPTIONS="-c synchronous_commit=off" PGDATABASE=$2 \
        "$place/bin/publisher" "$1" "$4" "$bridge_latency_rate" 1 "$bridge_event_bytes" "$3" 1 >/dev/null
}

# measure_latencies KIND: of a steady stream.
measure_latencies() {
    local kind=$1 name=paced_${1}_$round count=$((bridge_latency_rate * 5 * seconds))
    consume "$kind" "bare_$name" "$count"
    "$place/bin/brokers" publish "$kind" "$where" "bare_$name" "$count" "$bridge_latency_rate" \
        "$bridge_event_bytes" "$bridge_window" >/dev/null
    consumed bare "$kind"
    subscribe_bridge "$name"
    consume "$kind" "$name" "$count"
    start_bridge "$kind" "$name"
    publish_paced async pubsub "$name" "$count"
    consumed bridge "$kind"
    stop_bridge
    psql_in pubsub -c "SELECT pgpubsub.unsubscribe('$name')" >/dev/null
}

# measure_listener: NOTIFY, and a listener that publishes to RabbitMQ without confirms.
measure_listener() {
    local name=listener_${round}_0 count=$((40000 * seconds)) listener
    rm -f "$place/listened"
    PGDATABASE=native "$place/bin/brokers" listen amqp "$where" "$name" "$count" >"$place/listened" &
    listener=$!
    until grep -q ready "$place/listened"; do sleep 0.01; done
    PGDATABASE=native psql_in native -c "SELECT count(pg_notify('$name', rpad(i::text, $bridge_event_bytes, '.')))
        FROM generate_series(1, $count) AS i" >/dev/null
    wait "$listener" || die "the listener failed"
    record listener amqp "$round" rate "$(quotient "$count" "$(sed -n 's/.*seconds=//p' "$place/listened")")"
    count=$((bridge_latency_rate * 5 * seconds)) name=paced_listener_$round
    consume amqp "${name}_0" "$count"
    rm -f "$place/listened"
    PGDATABASE=native "$place/bin/brokers" listen amqp "$where" "${name}_0" "$count" >"$place/listened" &
    listener=$!
    until grep -q ready "$place/listened"; do sleep 0.01; done
    publish_paced native native "$name" "$count"
    consumed listener amqp
    wait "$listener" || die "the listener failed"
}

measure_bridge() {
    local round kind
    mkdir -p "$place/programs"
    make -s -f "$place/src/programs/Makefile" OUT="$place/programs" "$place/programs/pgpubsub-bridge" \
        "$place/programs/kafka-mock" || die "the bridge was not built"
    # shellcheck disable=SC2046
    ${CC:-cc} -std=gnu11 -O2 -g -Wall -Wextra -Werror -I"$("$PG_CONFIG" --includedir)" \
        -o "$place/bin/brokers" "$bench/brokers.c" "$bench/client.c" -L"$("$PG_CONFIG" --libdir)" -lpq \
        $(pkg-config --libs librabbitmq libnats rdkafka hiredis) -pthread
    server "pgpubsub.queue_size = '256MB'" "pgpubsub.staging_size = '128MB'"
    for ((round = 1; round <= (rounds + 1) / 2; round++)); do
        for kind in amqp nats redis kafka; do
            have_broker "$kind" || { warn "no broker: $kind"; continue; }
            start_broker "$kind"
            measure_rates "$kind"
            measure_latencies "$kind"
            [ "$kind" != amqp ] || measure_listener
            stop_broker
        done
    done
}
