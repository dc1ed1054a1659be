#!/usr/bin/env bash
# Installs missing packages for demo and tests, on Debian and Ubuntu as root or with passwordless
# sudo. Elsewhere lists the packages to install. The default cluster, broker and pooler of the packages
# are not started: nothing here uses or occupies ports 5432, 6432, 1883 and 9090.
#
# usage: deps.sh [PROGRAM]   PROGRAM is needed too, and its package has the same name
set -euo pipefail

cargo=${CARGO:-cargo}

have() {
    command -v "$1" >/dev/null 2>&1 && return
    local place
    for place in /usr/sbin/"$1" /usr/lib/postgresql/*/bin/"$1"; do
        [ -x "$place" ] && return
    done
    return 1
}

missing=()
need() { # PROGRAM PACKAGE
    have "$1" || missing+=("$2")
}
need initdb postgresql
need psql postgresql-client
need pgbouncer pgbouncer
need mosquitto mosquitto
need mosquitto_passwd mosquitto
need promtool prometheus
need openssl openssl
need cc build-essential
need setpriv util-linux
for program in "$@"; do need "$program" "$program"; done

if ! command -v "$cargo" >/dev/null 2>&1; then
    echo "Rust is missing: '$cargo' was not found. Install Rust 1.89 or newer: https://www.rust-lang.org/tools/install" >&2
    exit 1
fi
[ "${#missing[@]}" -gt 0 ] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi
if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
    {
        echo "These packages are missing, and this script may not install them: ${missing[*]}"
        echo "On Debian or Ubuntu:  sudo apt-get install ${missing[*]}"
        echo "Elsewhere: a PostgreSQL server (14 or newer) with initdb, psql, PgBouncer, Mosquitto (2 or"
        echo "newer) with mosquitto_passwd, Prometheus with promtool, openssl, a C compiler and util-linux, all in"
        echo "PATH."
    } >&2
    exit 1
fi

echo "Installing: ${missing[*]}"
# The following is undone on exit. An existing cluster or configuration is not changed.
no_cluster=/etc/postgresql-common/createcluster.d/centiloc-bridge-demo.conf
has_systemd=no
[ -d /run/systemd/system ] && has_systemd=yes
# Services of the installed packages, which must not run.
services=()
for service in mosquitto pgbouncer prometheus; do
    case " ${missing[*]} " in *" $service "*) services+=("$service.service") ;; esac
done
keeps_down() { [ $has_systemd = yes ] && [ "${#services[@]}" -gt 0 ]; }
undo() {
    "${as_root[@]}" rm -f "$no_cluster"
    if keeps_down; then
        "${as_root[@]}" systemctl unmask --runtime --quiet "${services[@]}"
    fi
}
trap undo EXIT

"${as_root[@]}" mkdir -p "$(dirname "$no_cluster")"
echo 'create_main_cluster = false' | "${as_root[@]}" tee "$no_cluster" >/dev/null
if keeps_down; then
    "${as_root[@]}" systemctl mask --runtime --quiet "${services[@]}"
fi

# RUNLEVEL=1 prevents invoke-rc.d from starting services without systemd.
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
}
# The package lists may be absent or old.
install || { "${as_root[@]}" apt-get update -qq && install; }

if keeps_down; then
    "${as_root[@]}" systemctl disable --quiet "${services[@]}"
fi
