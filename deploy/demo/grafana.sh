# Sourced by demo.sh: Prometheus and Grafana on the demo, with the shipped rules and dashboards. Grafana
# is used where it is installed. It uses start, wait_for, free_port, listens, sql and fail of demo.sh.
# shellcheck shell=bash disable=SC2154

grafana_pid='' prometheus_pid=''

start_grafana() {
    local server port prometheus_port
    if ! server=$(command -v grafana-server); then
        echo "Grafana is not installed: grafana-server is not in PATH. Install the package grafana as its documentation"
        echo "describes, then run 'make demo GRAFANA=1' again."
        return
    fi
    prometheus_port=$(free_port)
    mkdir "$dir/prometheus" "$dir/grafana"
    cat >"$dir/prometheus.yml" <<CONF
global: {scrape_interval: 5s, evaluation_interval: 5s}
rule_files: ["$PWD/deploy/prometheus/*.yml"]
scrape_configs:
  - job_name: centiloc-bridge
    static_configs:
      - targets: ["127.0.0.1:$admin_port"]
CONF
    start TERM prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/prometheus" \
        --web.listen-address="127.0.0.1:$prometheus_port" >"$dir/prometheus.log" 2>&1 </dev/null &
    prometheus_pid=$!
    wait_for Prometheus "$prometheus_pid" "$dir/prometheus.log" listens "$prometheus_port"

    openssl rand -hex 16 >"$dir/reader.password"
    sql -f deploy/postgres/roles.sql >"$dir/roles.log" 2>&1 || fail "creating the reader failed" "$dir/roles.log"
    sql -c "alter role centiloc_reader login password '$(cat "$dir/reader.password")'"
    port=$(free_port)
    export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT=$port GF_PATHS_DATA=$dir/grafana \
        GF_PATHS_LOGS=$dir/grafana/log GF_PATHS_PROVISIONING=$PWD/deploy/grafana/provisioning \
        GF_AUTH_ANONYMOUS_ENABLED=true GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer GF_AUTH_DISABLE_LOGIN_FORM=true \
        GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false \
        CENTILOC_DATABASE_HOST=127.0.0.1:$postgres_port CENTILOC_DATABASE_NAME=centiloc \
        CENTILOC_DATABASE_USER=centiloc_reader CENTILOC_DATABASE_SSLMODE=disable \
        CENTILOC_PROMETHEUS_URL=http://127.0.0.1:$prometheus_port \
        CENTILOC_DASHBOARDS=$PWD/deploy/grafana/dashboards
    CENTILOC_DATABASE_PASSWORD=$(cat "$dir/reader.password")
    export CENTILOC_DATABASE_PASSWORD
    start TERM "$server" --homepath "${GRAFANA_HOME:-/usr/share/grafana}" >"$dir/grafana.log" 2>&1 </dev/null &
    grafana_pid=$!
    wait_for Grafana "$grafana_pid" "$dir/grafana.log" listens "$port"
    echo "Grafana: http://127.0.0.1:$port/d/centiloc-where"
}

end_grafana() {
    end "$grafana_pid" TERM 5
    end "$prometheus_pid" TERM 5
}
