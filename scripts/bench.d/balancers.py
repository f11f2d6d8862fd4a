"""The balancer against pgbouncer, in front of one node, and against pgpool-II, three nodes against three servers.

Usage: balancers.py PGRENGA BIN SECONDS ROUNDS SCALE OUT

pgpool replicates by sending each statement to all three servers ("native replication"). Makes its own
clusters and servers, which are gone afterwards; needs pgbouncer and pgpool. Writes OUT.
"""

import contextlib
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import free_ports

HOST = "127.0.0.1"
CLIENTS = (1, 32)
CLIENTS_OF_POOL = 12
# pgbench writes down the latency of one transaction in so many.
SAMPLED = 10
# From the base port on, among those that free_ports.py looks for.
POOLER, PLAIN, PCP = 11, 12, 15


class Bench:
    def __init__(self, pgrenga, bin_, seconds, rounds, scale, work):
        self.pgrenga, self.bin = pgrenga, pathlib.Path(bin_)
        self.seconds, self.rounds, self.scale, self.work = int(seconds), int(rounds), int(scale), work
        self.port = free_ports.base()

    def say(self, text):
        print(f"==> balancers: {text}", flush=True)

    def as_postgres(self, command, **options):
        """PostgreSQL and its poolers do not run as root."""
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        return subprocess.Popen([str(word) for word in command], cwd=self.work, stdin=subprocess.DEVNULL, **options)

    @contextlib.contextmanager
    def running(self, process, number, patience_s=60):
        """Ends it when the block ends, gently at first."""
        try:
            yield process
        finally:
            process.send_signal(number)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def cluster(self, nodes):
        directory, log = self.work / f"cluster{nodes}", self.work / f"demo{nodes}.log"
        command = [self.pgrenga, "demo", "--nodes", str(nodes), "--dir", directory, "--port", str(self.port)]
        with open(log, "w") as output:
            demo = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        with self.running(demo, signal.SIGINT, 120):
            wait_until(120, lambda: re.search("^ready", log.read_text(), re.M) or demo.poll() is not None)
            if demo.poll() is not None:
                raise SystemExit(f"ERROR:  the cluster did not start\n{log.read_text()}")
            yield json.loads((directory / "cluster.json").read_text())

    @contextlib.contextmanager
    def server(self, port):
        """PostgreSQL alone, as initdb makes it, but for room in memory."""
        data, log = self.work / f"server{port}", self.work / f"server{port}.log"
        init = [self.bin / "initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--no-sync"]
        if self.as_postgres(init, stdout=subprocess.DEVNULL).wait():
            raise SystemExit("ERROR:  initdb failed")
        options = {"port": port, "unix_socket_directories": "", "shared_buffers": "128MB", "max_connections": 100}
        command = [self.bin / "postgres", "-D", data] + [f"--{name}={value}" for name, value in options.items()]
        with open(log, "w") as output:
            process = self.as_postgres(command, stdout=output, stderr=output)
        with self.running(process, signal.SIGINT):
            self.until_it_answers(port)
            yield

    @contextlib.contextmanager
    def pooler(self, command, number):
        with open(self.work / "pooler.log", "w") as output:
            process = self.as_postgres(command, stdout=output, stderr=output)
        with self.running(process, number):
            self.until_it_answers(self.port + POOLER)
            yield process

    def pgbouncer(self, port):
        users = self.write("users.txt", '"postgres" ""\n')
        settings = f"""
            [databases]
            postgres = host={HOST} port={port}
            [pgbouncer]
            listen_addr = {HOST}
            listen_port = {self.port + POOLER}
            unix_socket_dir =
            auth_type = trust
            auth_file = {users}
            pool_mode = session
            default_pool_size = 100
            max_client_conn = 1000
            """
        return self.pooler(["pgbouncer", self.write("pgbouncer.ini", unindented(settings))], signal.SIGINT)

    def pgpool(self, ports):
        backends = [
            f"backend_hostname{i} = '{HOST}'\nbackend_port{i} = {port}\nbackend_weight{i} = 1" for i, port in enumerate(ports)
        ]
        settings = f"""
            backend_clustering_mode = 'native_replication'
            listen_addresses = '{HOST}'
            port = {self.port + POOLER}
            pcp_listen_addresses = '{HOST}'
            pcp_port = {self.port + PCP}
            unix_socket_directories = '{self.work}'
            pcp_socket_dir = '{self.work}'
            pid_file_name = '{self.work}/pgpool.pid'
            logdir = '{self.work}'
            work_dir = '{self.work}'
            num_init_children = 40
            load_balance_mode = on
            """
        config = self.write("pgpool.conf", unindented(settings) + "\n".join(backends) + "\n")
        (hba, pcp) = self.write("pool_hba.conf", ""), self.write("pcp.conf", "")
        return self.pooler(["pgpool", "-n", "-f", config, "-a", hba, "-F", pcp], signal.SIGINT)

    def write(self, name, text):
        path = self.work / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def until_it_answers(self, port):
        ready = [self.bin / "pg_isready", "-q", "-h", HOST, "-p", str(port)]
        if not wait_until(60, lambda: subprocess.run(ready).returncode == 0):
            logs = [log.read_text() for log in (self.work / "pooler.log", self.work / f"server{port}.log") if log.exists()]
            raise SystemExit("ERROR:  a server does not answer\n" + "\n".join(logs))

    def load(self, port):
        # One branch after the other: all of them in one transaction take long.
        statements = [
            f"INSERT INTO pgbench_branches SELECT b, 0 FROM generate_series(1, {self.scale}) b",
            f"INSERT INTO pgbench_tellers SELECT t, (t - 1) / 10 + 1, 0 FROM generate_series(1, 10 * {self.scale}) t",
        ] + [
            f"INSERT INTO pgbench_accounts SELECT a, {b}, 0, '' FROM generate_series({b - 1} * 100000 + 1, {b} * 100000) a"
            for b in range(1, self.scale + 1)
        ]
        init = ["--initialize", "--init-steps=dtp", "--quiet"]
        subprocess.run(self.client("pgbench", port) + init, check=True, capture_output=True)
        for statement in statements + ["VACUUM ANALYZE pgbench_accounts"]:
            subprocess.run(self.client("psql", port) + ["-qX", "-v", "ON_ERROR_STOP=1", "-c", statement], check=True)

    def client(self, program, port):
        return [str(self.bin / program), "-h", HOST, "-p", str(port), "-U", "postgres", "postgres"]

    def run(self, what, port, clients, pid=None):
        """One pgbench. With `pid`, the processor time of that process is counted."""
        logs = tempfile.mkdtemp(dir=self.work)
        options = ["-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(self.seconds), "--max-tries=20"]
        options += ["--log", f"--log-prefix={logs}/l", f"--sampling-rate={1 / SAMPLED}"] + (["-S"] if what == "select" else [])
        before = processor_s(pid)
        ended = subprocess.run(self.client("pgbench", port) + options, capture_output=True, text=True)
        spent = processor_s(pid) - before
        tps = re.search(r"^tps = ([\d.]+)", ended.stdout, re.M)
        transactions = re.search(r"actually processed: (\d+)", ended.stdout)
        if ended.returncode or not tps or not int(transactions[1]):
            raise SystemExit(f"ERROR:  pgbench broke off\n{ended.stdout}{ended.stderr}")
        latencies = [int(line.split()[2]) for log in pathlib.Path(logs).iterdir() for line in log.read_text().splitlines()]
        shutil.rmtree(logs)
        return {
            "tps": float(tps[1]),
            "p50_us": statistics.median(latencies) if latencies else None,
            "processor_us": spent * 1e6 / int(transactions[1]) if pid else None,
        }

    def measured(self, systems, what, clients):
        """The mean of all rounds of each system, in turns: every other one in the opposite order."""
        runs = {name: [] for name in systems}
        for number in range(self.rounds):
            for name in list(systems)[:: -1 if number % 2 else 1]:
                self.say(f"{what}: {name}, clients: {clients}, round {number + 1} of {self.rounds}")
                runs[name].append(self.run(what, clients=clients, **systems[name]))
        mean = lambda values: None if None in values else statistics.fmean(values)
        return {name: {key: mean([run[key] for run in of]) for key in of[0]} for name, of in runs.items()}

    def against_pgbouncer(self):
        with self.cluster(1) as cluster:
            node = cluster["nodes"][0]["postgres_port"]
            self.load(node)
            with self.pgbouncer(node) as pgbouncer:
                balancer = cluster["balancer"]
                systems = {
                    "directly": {"port": node},
                    "pgbouncer": {"port": self.port + POOLER, "pid": pgbouncer.pid},
                    "balancer": {"port": balancer["port"], "pid": balancer["pid"]},
                }
                return [{"clients": clients} | self.measured(systems, "select", clients) for clients in CLIENTS]

    def against_pgpool(self):
        ports = [self.port + PLAIN + i for i in range(3)]
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(self.cluster(3))
            balancer = cluster["balancer"]["port"]
            for port in ports:
                stack.enter_context(self.server(port))
            stack.enter_context(self.pgpool(ports))
            for port in (cluster["nodes"][0]["postgres_port"], self.port + POOLER):
                self.load(port)
            systems = {"pgpool": {"port": self.port + POOLER}, "balancer": {"port": balancer}}
            return {what: {"clients": CLIENTS_OF_POOL} | self.measured(systems, what, CLIENTS_OF_POOL) for what in ("select", "TPC-B")}


def wait_until(patience_s, condition):
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def unindented(text):
    return "\n".join(line.strip() for line in text.strip().splitlines()) + "\n"


def processor_s(pid):
    if pid is None:
        return 0.0
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    user, system = stat[stat.rindex(")") + 2 :].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main(pgrenga, bin_, seconds, rounds, scale, out):
    missing = [program for program in ("pgbouncer", "pgpool") if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        raise SystemExit(f"ERROR:  not found: {', '.join(missing)}\nHINT:  apt-get install pgbouncer pgpool2")
    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory(prefix="pgrenga-balancers.", dir="/var/tmp") as work:
        os.chmod(work, 0o777)
        bench = Bench(pgrenga, bin_, seconds, rounds, scale, pathlib.Path(work))
        results = {"pgbouncer": bench.against_pgbouncer(), "pgpool": bench.against_pgpool()}
    pathlib.Path(out).write_text(json.dumps(results, indent=2) + "\n")


main(*sys.argv[1:])
