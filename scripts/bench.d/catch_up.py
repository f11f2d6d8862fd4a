"""How fast a node applies, against how fast one connection writes.

Stops one node's daemon, lets a single client write elsewhere for a while, lets the daemon go on, and
takes the time until the node shows everything. Fetching what it missed from the log counts too.
Usage: catch_up.py CLUSTER_JSON PGBENCH SECONDS REPORT; prints JSON.
"""

import json
import os
import signal
import subprocess
import sys
import time

import nodes

POLL_S = 0.01


def main(cluster_json, pgbench, seconds, report):
    cluster = nodes.of(cluster_json)
    leader = nodes.ask(cluster[0], "/status")["leader"]
    # The leader commits fastest, so it is the origin that is hardest to keep up with.
    origin = next((node for node in cluster if node["name"] == leader), cluster[0])
    behind = next(node for node in reversed(cluster) if node is not origin)
    command = [pgbench, "-n", "-M", "prepared", "-c", "1", "-T", seconds, "--max-tries=20", "--random-seed=rand"]
    pid = nodes.ask(behind)["daemon_pid"]
    stopped_at = nodes.ask(behind)["applied_seq"]
    os.kill(pid, signal.SIGSTOP)
    try:
        begun, first = time.monotonic(), nodes.ask(origin)["committed_seq"]
        with open(report, "w") as output:
            subprocess.run(command + ["-p", str(origin["postgres_port"])], stdout=output, stderr=output, check=True)
        last, written_s = nodes.ask(origin)["committed_seq"], time.monotonic() - begun
    finally:
        os.kill(pid, signal.SIGCONT)
    applied_s = seconds_until(behind, last, patience_s=60 + 10 * int(seconds))
    return {
        "origin": origin["name"],
        "behind": behind["name"],
        "writesets": last - stopped_at,
        "origin_rate": (last - first) / written_s,
        "catch_up_s": applied_s,
        "apply_rate": (last - stopped_at) / applied_s,
    }


def seconds_until(node, seq, patience_s):
    begun = time.monotonic()
    while True:
        try:
            applied = nodes.ask(node)["applied_seq"]
        except OSError:
            applied = None  # busy, or started again: it still has to get there
        waited = time.monotonic() - begun
        if applied is not None and applied >= seq:
            return waited
        if waited > patience_s:
            raise SystemExit(f"ERROR:  node {node['name']} is at {applied} instead of {seq} after {waited:.0f} s")
        time.sleep(POLL_S)


print(json.dumps(main(*sys.argv[1:])))
