"""Asking the nodes of a demo cluster; what the other helpers share."""

import json
import urllib.request


def of(cluster_json):
    with open(cluster_json) as file:
        return json.load(file)["nodes"]


def ask(node, path="/node", timeout_s=5):
    with urllib.request.urlopen(node["admin_url"] + path, timeout=timeout_s) as answer:
        return json.load(answer)
