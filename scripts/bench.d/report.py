"""Turns the reports of one benchmark into results.json and a table.

Usage: report.py RAW_DIRECTORY RESULTS_JSON, with scripts/bench's settings in the environment.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import sys

GOAL_ONE_NODE = 0.90
GOAL_THREE_NODES = 0.80
GOAL_LATENCY_MS = 0.3  # on top of one fsync and one loopback round trip

FIGURES = {
    "transactions": r"number of transactions actually processed: (\d+)",
    "failed": r"number of failed transactions: (\d+)",
    "retries": r"total number of retries: (\d+)",
    "latency_avg_ms": r"latency average = ([\d.]+) ms",
    "tps": r"^tps = ([\d.]+)",
    "exit_status": r"^exit status = (\d+)",
    "catch_up_ms": r"^catch up = (\d+) ms",
}


def figures(text):
    found = {}
    for name, pattern in FIGURES.items():
        if match := re.search(pattern, text, re.MULTILINE):
            found[name] = float(match[1]) if "." in match[1] else int(match[1])
    return found


def read_runs(raw):
    """One entry for each run, with one report for each pgbench that took part."""
    runs = {}
    for path in sorted(raw.glob("*.*.*.*.*.txt")):
        benchmark, system, clients, round_, _, _ = path.name.split(".")
        key = (benchmark, system, int(clients), int(round_))
        runs.setdefault(key, []).append(figures(path.read_text()))
    result = []
    for (benchmark, system, clients, round_), reports in sorted(runs.items()):
        whole = all(report.get("exit_status") == 0 and "tps" in report for report in reports)
        result.append(
            {
                "benchmark": benchmark,
                "system": system,
                "clients": clients,
                "round": round_,
                "whole": whole,
                "tps": sum(report.get("tps", 0) for report in reports),
                "catch_up_ms": reports[0].get("catch_up_ms"),
                "pgbench": reports,
            }
        )
    return result


def select(runs, prefix, system, clients=None):
    return [
        run
        for run in runs
        if run["benchmark"].startswith(prefix) and run["system"] == system and clients in (None, run["clients"])
    ]


def throughput(runs, benchmark, clients, goal):
    """The ratio is null where a run broke off: half a run says nothing."""
    ours = select(runs, benchmark, "pgrenga", clients)
    theirs = select(runs, benchmark, "postgres", clients)
    ours_tps = sum(run["tps"] for run in ours)
    theirs_tps = sum(run["tps"] for run in theirs)
    whole = all(run["whole"] for run in ours + theirs) and theirs_tps > 0
    ratio = round(ours_tps / theirs_tps, 3) if whole else None
    return {
        "clients": clients,
        "pgrenga_tps": round(ours_tps / len(ours), 1),
        "postgres_tps": round(theirs_tps / len(theirs), 1),
        "ratio": ratio,
        "goal": goal,
        "met": ratio is not None and ratio >= goal,
    }


def abort_rate(runs):
    """Attempts that ended in 40001 (or a deadlock), as a share of all attempts."""
    reports = [report for run in runs for report in run["pgbench"]]
    total = {name: sum(report.get(name, 0) for report in reports) for name in ("transactions", "failed", "retries")}
    aborts = total["failed"] + total["retries"]
    attempts = total["transactions"] + aborts
    return {"attempts": attempts, "aborts": aborts, "gave_up": total["failed"], "rate": aborts / attempts if attempts else None}


def latency(runs, baselines):
    def mean(chosen):
        whole = chosen and all(run["whole"] for run in chosen)
        return statistics.fmean(run["pgbench"][0]["latency_avg_ms"] for run in chosen) if whole else None

    plain = mean(select(runs, "latency", "postgres"))
    names = sorted({run["benchmark"] for run in select(runs, "latency_", "pgrenga")})
    nodes = {name.removeprefix("latency_"): mean(select(runs, name, "pgrenga")) for name in names}
    fsync_us = statistics.fmean(baseline["fdatasync_us"]["median"] for baseline in baselines.values())
    loopback_us = statistics.fmean(baseline["loopback_us"]["median"] for baseline in baselines.values())
    goal = round((fsync_us + loopback_us) / 1000 + GOAL_LATENCY_MS, 3)
    known = plain is not None and None not in nodes.values()
    added = round(statistics.fmean(nodes.values()) - plain, 3) if known else None
    return {
        "postgres_ms": plain,
        "pgrenga_ms": nodes,
        "added_ms": added,
        "added_ms_by_node": {name: round(ms - plain, 3) for name, ms in nodes.items()} if known else None,
        "goal_ms": goal,
        "met": added is not None and added <= goal,
    }


def verdict(row):
    return "met" if row["met"] else "MISSED"


def shown(value, form):
    return "-" if value is None else format(value, form)


def table(results):
    one, three, added = results["one_node"], results["three_nodes"], results["latency"]
    yield f"{'pgbench TPC-B, transactions/s':<46} {'clients':>7} {'PostgreSQL':>10} {'pgrenga':>8} {'ratio':>6} {'goal':>5}"
    rows = [("one node : PostgreSQL alone", row) for row in one]
    rows += [("three nodes : primary, 2 standbys, ANY 1 (*)", three)]
    for name, row in rows:
        yield (
            f"{name:<46} {row['clients']:>7} {row['postgres_tps']:>10.0f} {row['pgrenga_tps']:>8.0f}"
            f" {shown(row['ratio'], '.2f'):>6} {row['goal']:>5.2f}  {verdict(row)}"
        )
    aborts = three["aborts"]
    rate = None if aborts["rate"] is None else aborts["rate"] * 100
    yield f"three nodes: aborted and retried: {shown(rate, '.2f')} % of {aborts['attempts']} attempts; given up after 20: {aborts['gave_up']}"
    yield f"three nodes: longest catch-up after a run: {shown(three['catch_up_ms_max'], 'd')} ms (standbys: {shown(three['standbys_catch_up_ms_max'], 'd')} ms), the asking included"
    yield (
        f"three nodes, one client, added latency: {shown(added['added_ms'], '+.3f')} ms"
        f" (goal: at most fsync + round trip + {GOAL_LATENCY_MS} = {added['goal_ms']:.3f} ms)  {verdict(added)}"
    )
    for when, baseline in results["baseline"].items():
        disk, loopback = baseline["fdatasync_us"], baseline["loopback_us"]
        yield f"fdatasync of 8 kB, {when}: median {disk['median']:.0f} us, p99 {disk['p99']:.0f} us; loopback round trip: {loopback['median']:.0f} us"
    for name, result in results["verify"].items():
        yield f"pgrenga verify, {name}: {result}"
    if results["load_average_before"] > 0.5:
        yield (
            f"NOTE: other work ran on this machine (load average {results['load_average_before']} before the start,"
            f" {results['nproc']} processors): trust the ratios only roughly"
        )
    if results["scale"] < 32:
        yield "NOTE: scale below the number of clients: they wait for each other's branches"


def read_line(path):
    return path.read_text().strip() if path.exists() else None


def read_verify(path):
    try:
        return json.loads(path.read_text())["result"]
    except (ValueError, KeyError):
        return "failed"


def main(raw, out):
    runs = read_runs(raw)
    baselines = {when: json.loads((raw / f"baseline.{when}.json").read_text()) for when in ("start", "end")}
    three = throughput(runs, "three_nodes", 12, GOAL_THREE_NODES)
    ours, theirs = (select(runs, "three_nodes", system) for system in ("pgrenga", "postgres"))
    three["aborts"] = abort_rate(ours)
    three["catch_up_ms_max"] = max(run["catch_up_ms"] for run in ours)
    three["standbys_catch_up_ms_max"] = max(run["catch_up_ms"] for run in theirs)
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "pgrenga": read_line(raw / "pgrenga.version"),
            "commit": read_line(raw / "commit") or None,
            "postgresql": read_line(raw / "postgres.version"),
            "kernel": platform.release(),
        },
        "nproc": len(os.sched_getaffinity(0)),
        "load_average_before": float(os.environ["load_average"]),
        "duration_s": int(os.environ["DURATION"]),
        "rounds": int(os.environ["ROUNDS"]),
        "scale": int(os.environ["SCALE"]),
        "baseline": baselines,
        "one_node": [throughput(runs, "one_node", clients, GOAL_ONE_NODE) for clients in (1, 8, 32)],
        "three_nodes": three,
        "latency": latency(runs, baselines),
        "verify": {name: read_verify(raw / f"{name}.verify.json") for name in ("one_node", "three_nodes")},
        "runs": runs,
    }
    out.write_text(json.dumps(results, indent=2) + "\n")
    print()
    print("\n".join(table(results)))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
