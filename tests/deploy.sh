#!/usr/bin/env bash
# Verifies the files under deploy/. Each check needs a program that may be absent. Skipped checks are
# reported.
set -euo pipefail
cd "$(dirname "$0")/.."

# Highest exposure level of the unit in `systemd-analyze security`, of 100.
readonly exposure=20

dir=$(mktemp -d)
trap 'rm -rf -- "$dir"' EXIT
have() { command -v "$1" >/dev/null 2>&1 || { echo "$1 is not installed: $2 skipped"; return 1; }; }

if have systemd-analyze 'the check of the unit'; then
    # The program may not be installed on this machine.
    sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' deploy/systemd/centiloc-bridge.service \
        >"$dir/centiloc-bridge.service"
    problems=$(systemd-analyze verify "$dir/centiloc-bridge.service" 2>&1 | grep -F centiloc-bridge || true)
    if [ -n "$problems" ]; then
        echo "systemd-analyze verify: $problems" >&2
        exit 1
    fi
    if systemd-analyze --help | grep -q -e --offline; then
        systemd-analyze security --no-pager --offline=true --threshold=$exposure \
            "$dir/centiloc-bridge.service" | tail -n 1
    else
        echo 'systemd is older than 250: the exposure of the unit is not measured'
    fi
fi

if have systemd-sysusers 'the check of the user'; then
    mkdir -p "$dir/root/etc"
    systemd-sysusers --root="$dir/root" "$PWD/deploy/systemd/centiloc-bridge.sysusers"
    grep -q '^centiloc-bridge:' "$dir/root/etc/passwd"
fi

# Only parses the documents. Their meaning is checked when they are used.
if have python3 'YAML and JSON' && python3 -c 'import yaml' 2>/dev/null; then
    python3 - deploy/container/compose.yaml deploy/kubernetes/*.yaml \
        deploy/grafana/provisioning/*/*.yml <<'PYTHON'
import sys, yaml
for name in sys.argv[1:]:
    documents = list(yaml.safe_load_all(open(name)))
    assert documents and all(isinstance(d, dict) for d in documents), name
PYTHON
else
    echo 'the yaml module of Python is not installed: YAML not parsed'
fi

if have promtool 'the check of alert rules'; then
    promtool check rules --lint-fatal deploy/prometheus/*.yml >"$dir/rules" || { cat "$dir/rules" >&2; exit 1; }
fi
