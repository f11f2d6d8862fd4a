"""Writes, four times a second until it is told to stop, where every node is and how much memory its daemon has.

One line of JSON a sample: {"s": seconds, "nodes": {name: {"applied_seq": .., "committed_seq": .., "rss_mb": ..}}}
Usage: watch.py CLUSTER_JSON OUTPUT
"""

import json
import re
import signal
import sys
import time

import nodes

INTERVAL_S = 0.25


def rss_mb(pid):
    with open(f"/proc/{pid}/status") as file:
        return round(int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) / 1024, 1)


def sample(node):
    try:
        view = nodes.ask(node)
        return {"applied_seq": view["applied_seq"], "committed_seq": view["committed_seq"], "rss_mb": rss_mb(view["daemon_pid"])}
    except OSError:
        return None  # it is just being started again; the report says how many samples it has


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
cluster = nodes.of(sys.argv[1])
begun = time.monotonic()
with open(sys.argv[2], "w", buffering=1) as output:
    while True:
        at = time.monotonic()
        line = {"s": round(at - begun, 3), "nodes": {node["name"]: sample(node) for node in cluster}}
        output.write(json.dumps(line) + "\n")
        time.sleep(max(0.0, at + INTERVAL_S - time.monotonic()))
