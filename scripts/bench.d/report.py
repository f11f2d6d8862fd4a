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
GOAL_APPLIER = 2.0  # catching up against the writes of one connection
GOAL_LAG_GROWTH = 0.01  # of the writesets of each second
GOAL_MEMORY_MB = 200
GOAL_SCALING = {"select": 2.8, "mixed": 2.0}  # three nodes : one
GOAL_PGBOUNCER = 1.0  # its throughput; and no more latency than it adds
GOAL_PGPOOL = 3.0

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


def applier(raw):
    """Null where a round broke off."""
    rounds = [read_json(path) for path in sorted(raw.glob("applier.*.json"))]
    whole = bool(rounds) and None not in rounds
    mean = (lambda name: statistics.fmean(row[name] for row in rounds)) if whole else lambda name: None
    ratio = round(mean("apply_rate") / mean("origin_rate"), 3) if whole else None
    return {
        "origin_rate": mean("origin_rate"),
        "apply_rate": mean("apply_rate"),
        "ratio": ratio,
        "goal": GOAL_APPLIER,
        "met": ratio is not None and ratio >= GOAL_APPLIER,
        "rounds": rounds,
    }


def costs(runs):
    """What a setting costs against its default, under the same load."""
    defaults = {"read_consistency": ("local", ("session", "cluster")), "ack": ("majority", ("all",))}
    rows = []
    for setting, (default, others) in defaults.items():
        for value in others:
            pair = [select(runs, f"cost_{setting}_{name}", "pgrenga") for name in (value, default)]
            whole = all(chosen and all(run["whole"] for run in chosen) for chosen in pair)
            tps = [sum(run["tps"] for run in chosen) for chosen in pair]
            latency = [statistics.fmean(report.get("latency_avg_ms", 0) for run in chosen for report in run["pgbench"]) for chosen in pair if chosen]
            rows.append(
                {
                    "setting": setting,
                    "value": value,
                    "default": default,
                    "tps_ratio": round(tps[0] / tps[1], 3) if whole and tps[1] else None,
                    "added_ms": round(latency[0] - latency[1], 3) if whole else None,
                }
            )
    return rows


def slope(points):
    """Of the straight line that fits best; null for too few points."""
    return statistics.linear_regression(*zip(*points)).slope if len(points) > 1 else None


def lag(samples):
    """The lag of the node that is furthest behind, after a fifth of the time for the load to get going."""
    begin = samples[-1]["s"] / 5 if samples else 0
    points, committed = [], []
    for sample in samples:
        views = [view for view in sample["nodes"].values() if view]
        if sample["s"] >= begin and len(views) == len(sample["nodes"]):
            committed.append((sample["s"], max(view["committed_seq"] for view in views)))
            points.append((sample["s"], committed[-1][1] - min(view["applied_seq"] for view in views)))
    growth, rate = slope(points), slope(committed)
    share = growth / rate if growth is not None and rate else None
    return {
        "samples": len(points),
        "lag_seq_mean": statistics.fmean(value for _, value in points) if points else None,
        "lag_seq_max": max((value for _, value in points), default=None),
        "lag_seq_growth_per_s": growth,
        "writesets_per_s": rate,
        "growth_share": share,
        "goal": GOAL_LAG_GROWTH,
        "met": share is not None and share <= GOAL_LAG_GROWTH,
    }


def memory(rounds):
    """Each daemon's resident memory over all runs; growth is that of the last run's second half."""
    result = {}
    for name in sorted({name for samples in rounds for sample in samples for name in sample["nodes"]}):
        runs = [[(sample["s"], sample["nodes"][name]["rss_mb"]) for sample in samples if sample["nodes"][name]] for samples in rounds]
        values = [mb for run in runs for _, mb in run]
        half = slope(runs[-1][len(runs[-1]) // 2 :])
        result[name] = {
            "first_mb": values[0] if values else None,
            "last_mb": values[-1] if values else None,
            "max_mb": max(values, default=None),
            "growth_mb_per_minute": None if half is None else round(half * 60, 2),
            "goal": GOAL_MEMORY_MB,
            "met": bool(values) and max(values) <= GOAL_MEMORY_MB,
        }
    return result


def scaling(out, kind):
    """What 'pgrenga bench' has measured."""
    report = read_json(out / f"bench-{kind}.json")
    three = next((size for size in report["sizes"] if size["nodes"] == 3), None) if report else None
    ratio = three and three["ratio"]
    return {
        "ratio": ratio,
        "abort_rate": three and three["abort_rate"],
        "limited_by": three and sorted({run["limited_by"] for run in three["runs"]}),
        "goal": GOAL_SCALING[kind],
        "met": ratio is not None and ratio >= GOAL_SCALING[kind],
    }


def balancers(raw):
    """What balancers.py has measured; null if it was left out."""
    found = read_json(raw / "balancers.json")
    if not found:
        return None
    rows = []
    for run in found["pgbouncer"]:
        ours, theirs, none = run["balancer"], run["pgbouncer"], run["directly"]
        ratio, added = ours["tps"] / theirs["tps"], ours["p50_us"] - none["p50_us"]
        rows.append(
            {
                "against": "pgbouncer",
                "benchmark": "select",
                "clients": run["clients"],
                "ratio": round(ratio, 3),
                "goal": GOAL_PGBOUNCER,
                "processor_ratio": round(ours["processor_us"] / theirs["processor_us"], 3),
                "added_p50_us": added,
                "added_p50_us_theirs": theirs["p50_us"] - none["p50_us"],
                "met": ratio >= GOAL_PGBOUNCER and ours["p50_us"] <= theirs["p50_us"],
            }
        )
    for benchmark, run in found["pgpool"].items():
        ratio = run["balancer"]["tps"] / run["pgpool"]["tps"]
        row = {"against": "pgpool-II", "benchmark": benchmark, "clients": run["clients"], "ratio": round(ratio, 3)}
        rows.append(row | {"goal": GOAL_PGPOOL, "met": ratio >= GOAL_PGPOOL})
    return rows


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
    yield from keeping_up(results)
    for row in results["costs"]:
        yield (
            f"three nodes, 12 clients, pgrenga.{row['setting']} = {row['value']} against {row['default']}:"
            f" {shown(row['tps_ratio'], '.2f')} of the throughput, {shown(row['added_ms'], '+.3f')} ms"
        )
    for kind, row in results["scaling"].items():
        limit = ", ".join(row["limited_by"] or ["-"])
        yield f"three nodes : one, pgrenga bench {kind}: {shown(row['ratio'], '.2f')} (goal: {row['goal']}; limited by: {limit})  {verdict(row)}"
    for row in results["balancers"] or []:
        yield (
            f"balancer : {row['against']}, {row['benchmark']}, clients: {row['clients']}: {row['ratio']:.2f} of the throughput"
            f" (goal: {row['goal']}){shown_cost(row)}  {verdict(row)}"
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


def shown_cost(row):
    if "processor_ratio" not in row:
        return ""
    return (
        f", {row['processor_ratio']:.2f} of the processor time a transaction,"
        f" p50 {row['added_p50_us']:+.0f} us (pgbouncer {row['added_p50_us_theirs']:+.0f})"
    )


def keeping_up(results):
    row = results["applier"]
    yield (
        f"applier: {shown(row['apply_rate'], '.0f')} writesets/s when catching up, {shown(row['origin_rate'], '.0f')} from one"
        f" connection: {shown(row['ratio'], '.2f')} (goal: {row['goal']})  {verdict(row)}"
    )
    for number, row in enumerate(results["lag"], 1):
        share = row["growth_share"]
        yield (
            f"lag under 12 clients, round {number}: mean {shown(row['lag_seq_mean'], '.0f')}, max {shown(row['lag_seq_max'], 'd')} seqs, growing by"
            f" {shown(share and share * 100, '.2f')} % of what is written (goal: {row['goal'] * 100:.0f} %)  {verdict(row)}"
        )
    for name, row in results["memory"].items():
        yield (
            f"resident memory of {name}'s daemon: {shown(row['first_mb'], '.0f')} MB at first, {shown(row['last_mb'], '.0f')} at last, at most"
            f" {shown(row['max_mb'], '.0f')} (goal: {row['goal']}), growing by {shown(row['growth_mb_per_minute'], '.1f')} MB a minute  {verdict(row)}"
        )


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_samples(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    watched = [read_samples(path) for path in sorted(raw.glob("watch.*.jsonl"))]
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
        "applier": applier(raw),
        "costs": costs(runs),
        "lag": [lag(samples) for samples in watched],
        "memory": memory(watched),
        "scaling": {kind: scaling(out.parent, kind) for kind in GOAL_SCALING},
        "balancers": balancers(raw),
        "verify": {name: read_verify(raw / f"{name}.verify.json") for name in ("one_node", "three_nodes")},
        "runs": runs,
    }
    out.write_text(json.dumps(results, indent=2) + "\n")
    print()
    print("\n".join(table(results)))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
