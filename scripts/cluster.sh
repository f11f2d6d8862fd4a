# Sourced by scripts that need a cluster of three nodes: start_cluster makes one in $work/cluster, with its ports from $P on; it ends with
# the script, and so does $work.
# shellcheck shell=bash

program=${PGRENGA_PROGRAM:-target/release/pgrenga}
demo=
end_cluster() {
    if [ -n "$demo" ]; then
        kill -INT "$demo" 2>/dev/null || true
        wait "$demo" || true
    fi
    rm -rf "$work"
}

start_cluster() { # NAME
    work=$(mktemp -d "/tmp/pgrenga-$1-XXXXXX")
    chmod 755 "$work"
    trap end_cluster EXIT
    say "starting a cluster"
    P=$(python3 scripts/bench.d/free_ports.py)
    "$program" demo --nodes 3 --dir "$work/cluster" --port "$P" >"$work/demo.log" 2>&1 &
    demo=$!
    for ((waited = 0; waited < 1200; waited++)); do
        if grep -qs '^ready' "$work/demo.log"; then return; fi
        kill -0 "$demo" 2>/dev/null || { cat "$work/demo.log"; fail "the demo does not start"; }
        sleep 0.2
    done
    fail "the demo did not start in time"
}

# on NODE ARGUMENTS...: psql as superuser, straight to a node.
on() { PGSSLMODE=disable psql -X -q -At -v ON_ERROR_STOP=1 -h 127.0.0.1 -p $((P + $1)) -U postgres "${@:2}" postgres; }

# Every node shows what any has committed. Who reads where a definition is still being applied may hear 40001.
settled() {
    local seq node
    seq=$(for node in 1 2 3; do on $node -c 'SELECT pgrenga.visible()'; done | sort -n | tail -1) &&
        for node in 1 2 3; do on $node -c "SELECT pgrenga.wait_for($seq, 60000)" | grep -q t || return 1; done
}

failed=0
# check NAME COMMAND...: quiet if it works.
check() {
    if "${@:2}" >"$work/said" 2>&1; then echo "ok      $1"
    else
        echo "FAILED  $1"
        cat "$work/said"
        failed=1
    fi
}
