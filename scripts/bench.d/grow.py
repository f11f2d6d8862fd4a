"""What it costs the writers when a cluster grows from three nodes to five and shrinks to three again.

Eight pgbench clients change an account and note it, on the first three nodes, all the time. Throughput is what the log commits in each phase:
before, while the two newcomers copy, while they catch up, with five nodes, while two are removed, and after.

Each node (its daemon and its PostgreSQL) is held to a share of a processor by a control group, as separate machines would be:
without it, two nodes more on the same processors take their time from the other three. As root, with cgroup v1 at
/sys/fs/cgroup/cpu; otherwise it runs without and says so.

Usage: grow.py [SECONDS [PERCENT]]: of each phase (15), and of a processor for each node (25; 0: no limit); prints JSON.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import free_ports
import nodes

ROOT = pathlib.Path(__file__).resolve().parents[2]
PGRENGA = pathlib.Path(os.environ.get("PGRENGA_PROGRAM", ROOT / "target/release/pgrenga"))
BIN = pathlib.Path(os.environ.get("PGRENGA_BIN_DIR", "/usr/lib/postgresql/15/bin"))
CGROUP = pathlib.Path("/sys/fs/cgroup/cpu")
CLIENTS = (3, 3, 2)
SCALE = 8
# In one message: who waits for his client in a transaction that is in an ordered one's way loses the connection.
SCRIPT = r"""\set aid random(1, 100000 * :scale)
\set delta random(-5000, 5000)
BEGIN \; UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid \;
INSERT INTO pgbench_history (aid, delta, mtime) VALUES (:aid, :delta, CURRENT_TIMESTAMP) \; COMMIT;
"""
PERIOD_US = 20_000
PATIENCE_S = 120


class Cap:
    """Control groups, one for each node."""

    def __init__(self, percent):
        self.percent, self.groups = percent, {}
        self.works = percent > 0 and os.geteuid() == 0 and (CGROUP / "cpu.cfs_quota_us").exists()

    def group(self, name):
        if name not in self.groups:
            group = CGROUP / f"pgrenga-grow-{os.getpid()}-{name}"
            group.mkdir()
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(PERIOD_US * self.percent // 100))
            self.groups[name] = group
        return self.groups[name]

    def hold(self, name, pids):
        if self.works:
            for pid in pids:
                try:
                    (self.group(name) / "cgroup.procs").write_text(str(pid))
                except OSError:
                    pass  # it has ended meanwhile

    def remove(self):
        for group in self.groups.values():
            for pid in (group / "cgroup.procs").read_text().split():
                (CGROUP / "cgroup.procs").write_text(pid)
            group.rmdir()


def tree(pid):
    """A process and all below it."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid] + [process for child in children for process in tree(int(child))]


def until(what, wish):
    begun = time.monotonic()
    while not wish():
        if time.monotonic() - begun > PATIENCE_S:
            raise SystemExit(f"ERROR:  waited in vain until {what}")
        time.sleep(0.1)


class Cluster:
    def __init__(self, work, port, cap):
        self.dir, self.port, self.cap = work / "cluster", port, cap
        self.log = open(work / "log", "w")
        self.demo = self.begin("demo", "--dir", self.dir, "--port", port, "--nodes", 3)
        until("the demo is ready", lambda: "\nready" in "\n" + (work / "log").read_text())
        self.members = nodes.of(self.dir / "cluster.json")
        for node in self.members:
            cap.hold(node["name"], [node["daemon_pid"]] + tree(node["postgres_pid"]))
        self.daemons = {}

    def begin(self, *arguments):
        command = [str(PGRENGA), *map(str, arguments)]
        return subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def status(self):
        return nodes.ask(self.members[0], "/status")

    def seq(self):
        return self.status()["committed_seq"]

    def states(self):
        return {node["name"]: node["state"] for node in self.status()["nodes"]}

    def join(self, number, donor):
        """Begins the copy of a further node; what is returned waits for its end and starts the node."""
        name, directory = f"n{number}", self.dir / f"n{number}"
        directory.mkdir()
        config = directory / "node.toml"
        config.write_text(
            f'cluster = "demo"\nname = "{name}"\ndir = "{directory}"\nlisten = "127.0.0.1:{self.port + 200 + number}"\n'
            f'admin = "127.0.0.1:{self.port + 100 + number}"\n[postgres]\nport = {self.port + number}\n'
        )
        join = self.begin("join", "--config", config, "--peer", f"127.0.0.1:{self.port + 100 + donor}")
        self.cap.hold(name, [join.pid])

        def finish():
            if join.wait() != 0:
                raise SystemExit(f"ERROR:  {name} could not join")
            self.daemons[name] = self.begin("node", "--config", config)
            self.cap.hold(name, [self.daemons[name].pid])

        return finish

    def all_vote(self, count):
        voters = [member["voter"] for member in nodes.ask(self.members[0], "/members")]
        states = list(self.states().values())
        return len(voters) == count and all(voters) and states == ["serving"] * count

    def remove(self, name):
        subprocess.run([PGRENGA, "remove", name, "--dir", self.dir], stdout=self.log, stderr=self.log, check=True)
        self.daemons.pop(name).wait()

    def stop(self):
        for daemon in self.daemons.values():
            daemon.terminate()
            daemon.wait()
        self.demo.send_signal(signal.SIGINT)
        self.demo.wait()
        self.log.close()


def phase(cluster, name, act, report):
    begun, first = time.monotonic(), cluster.seq()
    act()
    seconds = time.monotonic() - begun
    report[name] = {"s": round(seconds, 1), "per_s": round((cluster.seq() - first) / seconds, 1)}


def measure(cluster, seconds):
    report, sleep = {}, lambda: time.sleep(seconds)
    phase(cluster, "three", sleep, report)

    def copy():
        for finish in [cluster.join(4, donor=1), cluster.join(5, donor=2)]:
            finish()

    phase(cluster, "copying", copy, report)
    phase(cluster, "catching_up", lambda: until("five vote", lambda: cluster.all_vote(5)), report)
    phase(cluster, "five", sleep, report)
    phase(cluster, "removing", lambda: [cluster.remove(name) for name in ("n5", "n4")], report)
    phase(cluster, "three_again", sleep, report)
    for part in report.values():
        part["of_three"] = round(part["per_s"] / report["three"]["per_s"], 3)
    return report


def main(seconds, percent):
    work = pathlib.Path(tempfile.mkdtemp(prefix="pgrenga-grow.", dir="/var/tmp"))
    work.chmod(0o755)
    port = free_ports.base()
    cap, cluster, writers = Cap(percent), None, []
    try:
        cluster = Cluster(work, port, cap)
        ports = [node["postgres_port"] for node in cluster.members]
        bench = lambda port, *options: [BIN / "pgbench", "-h", "127.0.0.1", "-U", "postgres", "-p", str(port), *options, "postgres"]
        subprocess.run(bench(ports[0], "-i", "-q", "-s", str(SCALE)), stdout=cluster.log, stderr=cluster.log, check=True)
        script = work / "script"
        script.write_text(SCRIPT)
        until("all have it", lambda: all(node["lag_seq"] == 0 for node in cluster.status()["nodes"]))
        for port, clients in zip(ports, CLIENTS):
            load = bench(port, "-n", "-c", str(clients), "-T", "3600", "--max-tries=1000", "--random-seed=rand", "-D", f"scale={SCALE}", "-f", script)
            writers.append(subprocess.Popen(load, stdout=cluster.log, stderr=cluster.log))
        time.sleep(3)
        for node in cluster.members:
            cap.hold(node["name"], tree(node["postgres_pid"]))
        report = measure(cluster, seconds)
        ended = [writer.returncode for writer in writers if writer.poll() is not None]
        result = {"processors": os.cpu_count(), "percent_of_each_node": percent if cap.works else None, "phases": report}
        result["writers_that_ended"] = len(ended)
        print(json.dumps(result, indent=1))
        return 1 if ended else 0
    except BaseException:
        for log in [work / "log", *sorted(work.glob("cluster/*/*.log"))]:
            sys.stderr.write(f"--- {log}\n{log.read_text()[-3000:]}")
        raise
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
        if cluster:
            cluster.stop()
        cap.remove()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]] + [15, 25][len(sys.argv) - 1 :]
    sys.exit(main(*arguments))
