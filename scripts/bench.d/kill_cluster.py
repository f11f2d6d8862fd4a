"""The last resort for a demo that does not stop: kills it, its daemons and servers.

Usage: kill_cluster.py DEMO_PID CLUSTER_JSON
"""

import json
import os
import signal
import sys


def kill(pid, number):
    try:
        os.kill(pid, number)
    except (ProcessLookupError, TypeError):
        pass  # gone, or null in cluster.json


kill(int(sys.argv[1]), signal.SIGKILL)
with open(sys.argv[2]) as file:
    nodes = json.load(file)["nodes"]
for node in nodes:
    kill(node["daemon_pid"], signal.SIGKILL)
for node in nodes:
    kill(node["postgres_pid"], signal.SIGQUIT)
