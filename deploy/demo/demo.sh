#!/usr/bin/env bash
# The whole path of an event on one machine: simulated boards -> Mosquitto with mutual TLS and a
# password -> centiloc-bridge -> PostgreSQL -> SQL. Everything is in a scratch directory, on free
# loopback ports, and is removed when the script ends.
#
# DEMO_SECONDS  publish for this many seconds, then compare and end (empty: until Ctrl-C)
# DEMO_GRAFANA  1: start Prometheus and, where it is installed, Grafana
# DEMO_EVENTS   publish this many events (without DEMO_SECONDS: as fast as the broker accepts them)
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly seconds=${DEMO_SECONDS:-} events=${DEMO_EVENTS:-}
readonly tenant=acme boards=100 items=600
# Default events per second: far more than a busy shop has.
readonly default_rate=1000
# Limit for the bridge to commit the published events.
readonly settle_seconds=60

number() { [[ $2 =~ ^([1-9][0-9]*)?$ ]] || { echo "$1 must be a whole number, not '$2'" >&2; exit 64; }; }
number SECONDS "$seconds"
number EVENTS "$events"
if [ -n "$seconds" ] && [ -n "$events" ]; then
    count=$events rate=$(((events + seconds - 1) / seconds))
elif [ -n "$seconds" ]; then
    rate=$default_rate count=$((default_rate * seconds))
elif [ -n "$events" ]; then
    rate=0 count=$events
else
    rate=$default_rate count=
fi

# --- processes and folders, ended and removed on every exit ---------------------------------------

umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/centiloc-demo.XXXXXX")
postgres_pid='' mosquitto_pid='' bridge_pid='' simulate_pid=''
# shellcheck source=deploy/demo/grafana.sh
. deploy/demo/grafana.sh

# Starts a background program in a separate session, so that Ctrl-C reaches only this script, which
# ends the programs in order. If this script is killed, the program gets SIGNAL.
start() { exec setsid setpriv --pdeathsig "$@"; } # SIGNAL [SETPRIV-OPTION...] PROGRAM...

end() { # PID SIGNAL SECONDS
    [ -n "$1" ] || return 0
    kill "-$2" "$1" 2>/dev/null || return 0
    local tick
    for ((tick = 0; tick < $3 * 10; tick++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

finish() {
    local status=$?
    trap '' INT TERM
    end "$simulate_pid" TERM 5
    end_grafana
    end "$bridge_pid" TERM 25
    end "$mosquitto_pid" TERM 5
    end "$postgres_pid" INT 10
    rm -rf -- "$dir"
    exit "$status"
}
trap finish EXIT
trap 'printf "\nstopping\n"; exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "demo: $1" >&2
    if [ -n "${2:-}" ] && [ -s "$2" ]; then
        echo "--- the end of $(basename "$2"):" >&2
        tail -n 25 "$2" >&2
    fi
    exit 1
}

# Returns a port below the range of outgoing connections.
free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

wait_for() { # WHAT PID LOG COMMAND...
    local what=$1 pid=$2 log=$3 tick
    shift 3
    for ((tick = 0; tick < 300; tick++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        kill -0 "$pid" 2>/dev/null || fail "$what ended" "$log"
        sleep 0.1
    done
    fail "$what was not ready after 30 seconds" "$log"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

http() { # PORT PATH
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$2" >&3
    cat <&3
    exec 3>&-
}
is_ready() { http "$admin_port" /readyz | head -n 1 | grep -q ' 200 '; }

# --- the program ----------------------------------------------------------------------------------

echo "building (release)"
"${CARGO:-cargo}" build --release --locked --quiet --bin centiloc-bridge
bridge=$(realpath "${CARGO_TARGET_DIR:-target}/release/centiloc-bridge")

# --- certificates: a stand-in for Centiloc's CA, a server, and the customer's key and request ------

certificates() {
    local pki=$dir/pki
    mkdir "$pki"
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/ca.key"
    openssl req -x509 -new -key "$pki/ca.key" -subj '/O=Demo/CN=Demo Root CA' -days 365 -out "$pki/ca.crt"
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/server.key"
    openssl req -new -key "$pki/server.key" -subj '/CN=localhost' -out "$pki/server.csr"
    sign server.csr server.crt 'subjectAltName=DNS:localhost,IP:127.0.0.1' 'extendedKeyUsage=serverAuth'
    "$bridge" csr --tenant "$tenant" --organization Demo --email demo@example.com --out "$pki"
    sign certificate-request.csr tls-cert.pem 'extendedKeyUsage=clientAuth'
}

sign() { # REQUEST CERTIFICATE EXTENSION...
    local request=$1 certificate=$2
    shift 2
    printf '%s\n' 'basicConstraints=CA:FALSE' "$@" >"$dir/pki/extensions"
    openssl x509 -req -in "$dir/pki/$request" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" \
        -CAcreateserial -days 365 -extfile "$dir/pki/extensions" -out "$dir/pki/$certificate"
}

echo "creating certificates"
certificates >"$dir/certificates.log" 2>&1 || fail "creating certificates failed" "$dir/certificates.log"

# --- PostgreSQL -----------------------------------------------------------------------------------

newest=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$newest/postgres" ] && PATH=$newest:$PATH
as_postgres=()
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root.
    owner=postgres
    id -u "$owner" >/dev/null 2>&1 || owner=nobody
    as_postgres=(--reuid="$owner" --regid="$(id -g "$owner")" --clear-groups)
fi
postgres_port=$(free_port)
mkdir "$dir/postgres"
if [ -n "${owner:-}" ]; then
    chmod 711 "$dir"
    chown "$owner" "$dir/postgres"
fi
openssl rand -hex 16 >"$dir/database.password"
echo "starting PostgreSQL on 127.0.0.1:$postgres_port"
(
    cd "$dir/postgres"
    setpriv "${as_postgres[@]}" initdb --pgdata data --username postgres --encoding UTF8 --locale C \
        --auth-local trust --auth-host scram-sha-256 --no-sync
) >"$dir/postgres.log" 2>&1 || fail "initdb failed" "$dir/postgres.log"
start INT "${as_postgres[@]}" postgres -D "$dir/postgres/data" -p "$postgres_port" -k "$dir/postgres" \
    -c listen_addresses=127.0.0.1 >>"$dir/postgres.log" 2>&1 </dev/null &
postgres_pid=$!
admin_sql() { psql -X -q -h "$dir/postgres" -p "$postgres_port" -U postgres "$@"; }
wait_for PostgreSQL $postgres_pid "$dir/postgres.log" admin_sql -c 'select 1'
admin_sql -c "create role bridge login password '$(cat "$dir/database.password")'" \
    -c 'create database centiloc owner bridge'
database_url="postgres://bridge:$(cat "$dir/database.password")@127.0.0.1:$postgres_port/centiloc"
echo "$database_url" >"$dir/database.url"
sql() { admin_sql -d centiloc "$@"; }

# --- Mosquitto ------------------------------------------------------------------------------------

PATH=$PATH:/usr/sbin
broker_port=$(free_port)
openssl rand -hex 16 >"$dir/mqtt.password"
touch "$dir/mqtt.passwords"
mosquitto_passwd -b "$dir/mqtt.passwords" demo "$(cat "$dir/mqtt.password")"
mkdir "$dir/mosquitto"
# The queue is unbounded, because with EVENTS only, the demo publishes faster than any real tenant.
# TCP_NODELAY is set, because otherwise the lag shown would be the simulator's wait for its PUBACKs.
cat >"$dir/mosquitto.conf" <<CONF
user root
persistence true
persistence_location $dir/mosquitto/
log_dest stderr
allow_anonymous false
password_file $dir/mqtt.passwords
max_queued_messages 0
set_tcp_nodelay true
listener $broker_port 127.0.0.1
cafile $dir/pki/ca.crt
certfile $dir/pki/server.crt
keyfile $dir/pki/server.key
require_certificate true
CONF
echo "starting Mosquitto on 127.0.0.1:$broker_port (mutual TLS and password)"
start TERM mosquitto -c "$dir/mosquitto.conf" >"$dir/mosquitto.log" 2>&1 </dev/null &
mosquitto_pid=$!
wait_for Mosquitto $mosquitto_pid "$dir/mosquitto.log" listens "$broker_port"

# --- the bridge -----------------------------------------------------------------------------------

admin_port=$(free_port)
cat >"$dir/config.toml" <<CONF
tenant = "$tenant"

[mqtt]
host = "localhost"
port = $broker_port
username = "demo"
password_file = "$dir/mqtt.password"
items = "both"
boards = "both"

[mqtt.tls]
ca_file = "$dir/pki/ca.crt"
cert_file = "$dir/pki/tls-cert.pem"
key_file = "$dir/pki/private-key.pem"

[database]
url_file = "$dir/database.url"

[admin]
listen = "127.0.0.1:$admin_port"
CONF
echo "starting centiloc-bridge"
start TERM "$bridge" run -c "$dir/config.toml" >"$dir/bridge.log" 2>&1 </dev/null &
bridge_pid=$!
wait_for centiloc-bridge $bridge_pid "$dir/bridge.log" is_ready

"$bridge" simulate --print-layout --boards $boards | "$bridge" import-layout -c "$dir/config.toml" - \
    >"$dir/layout.log" 2>&1 || fail "importing the layout failed" "$dir/layout.log"
echo
echo "  look here:  http://127.0.0.1:$admin_port/map   live map"
echo "              http://127.0.0.1:$admin_port/      status"
echo

if [ "${DEMO_GRAFANA:-}" = 1 ]; then start_grafana; fi

# --- boards and items -----------------------------------------------------------------------------

if [ "$rate" = 0 ]; then pace='as fast as the broker accepts them'; else pace="at $rate events per second"; fi
echo "simulating $boards boards and $items items, protobuf and JSON, $pace"
start TERM "$bridge" simulate --host localhost --port "$broker_port" --tenant "$tenant" \
    --ca "$dir/pki/ca.crt" --cert "$dir/pki/tls-cert.pem" --key "$dir/pki/private-key.pem" \
    --username demo --password-file "$dir/mqtt.password" --rate "$rate" ${count:+--count "$count"} \
    --boards $boards --items $items --format both --board-events --seed 1 \
    >"$dir/simulate.out" 2>"$dir/simulate.log" </dev/null &
simulate_pid=$!

# --- progress -------------------------------------------------------------------------------------

# Sums of the metrics over their labels: received committed lag-sum lag-count
metrics() {
    http "$admin_port" /metrics | awk '
        { name = $1; sub(/\{.*/, "", name); sum[name] += $2 }
        END {
            p = "centiloc_bridge_"
            printf "%d %d %f %d\n", sum[p "received_total"], sum[p "committed_total"],
                sum[p "event_to_commit_seconds_sum"], sum[p "event_to_commit_seconds_count"]
        }'
}

last_lag='0 0'
line() {
    local received committed lag_sum lag_count lag items_in up
    read -r received committed lag_sum lag_count < <(metrics) || return 0
    lag=$(echo "$last_lag $lag_sum $lag_count" | awk '
        $4 > $2 { printf "%.0f ms", 1000 * ($3 - $1) / ($4 - $2); next } { printf "-" }')
    last_lag="$lag_sum $lag_count"
    IFS='|' read -r items_in up < <(sql -At -c "
        select (select count(*) from centiloc.item_location where is_in),
               (select count(*) filter (where status = 'CONNECTED') || '/' || count(*)
                  from centiloc.board_health)") || return 0
    printf '%4ds  messages received %-8d events committed %-8d lag %-8s items in %-5s boards up %s\n' \
        $((SECONDS - began)) "$received" "$committed" "$lag" "$items_in" "$up"
}

queries() {
    echo
    echo "Sample queries and their results. To run your own:"
    echo "  psql '$database_url'"
    sql -f deploy/demo/queries.sql -v ECHO=queries -P pager=off
    echo
}

runs() { kill -0 "$1" 2>/dev/null; }

began=$SECONDS shown=no
while runs $simulate_pid; do
    sleep 1
    line
    runs $bridge_pid || fail "centiloc-bridge ended" "$dir/bridge.log"
    if [ -z "$count" ] && [ $shown = no ] && [ $((SECONDS - began)) -ge 5 ]; then
        queries
        echo "Ctrl-C ends everything and removes all files."
        shown=yes
    fi
done
wait $simulate_pid || fail "the simulation failed" "$dir/simulate.log"
simulate_pid=''

# --- the comparison -------------------------------------------------------------------------------

summary=$(tail -n 1 "$dir/simulate.out")
[[ $summary =~ published=([0-9]+)\ acknowledged=([0-9]+) ]] || fail "unexpected output of simulate: '$summary'" "$dir/simulate.log"
published=${BASH_REMATCH[1]} acknowledged=${BASH_REMATCH[2]}
rows() {
    sql -At -c 'select (select count(*) from centiloc.item_event)
                     + (select count(*) from centiloc.board_event)'
}
settled=$((SECONDS + settle_seconds))
while [ "$(rows)" -lt "$published" ] && [ $SECONDS -lt $settled ]; do
    sleep 1
    line
done
took=$((SECONDS - began))
queries
committed=$(rows)
dead=$(sql -At -c 'select count(*) from centiloc.dead_letter')
gaps=$(sql -At -c 'select count(*) from centiloc.data_gap')
cat <<SUMMARY
published     $published events ($acknowledged acknowledged by the broker)
committed     $committed rows in ${took} s
dead letters  $dead
gaps          $gaps
SUMMARY
if [ "$published" != "$committed" ] || [ "$published" != "$acknowledged" ] || [ "$dead" != 0 ] || [ "$gaps" != 0 ]; then
    fail "published and committed differ" "$dir/bridge.log"
fi
echo "every published event is one row"
