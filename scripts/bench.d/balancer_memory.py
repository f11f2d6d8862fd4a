"""How much memory the balancer takes: for idle sessions, and while 1 GB passes it each way.

The servers are made up, so that thousands of sessions cost little. Prints JSON, in kB.
Usage: balancer_memory.py PGRENGA [SESSIONS] [tls]
"""

import asyncio
import json
import os
import ssl
import struct
import subprocess
import sys
import tempfile

PASSING_BYTES = 1 << 30
BLOCK = b"d" + struct.pack("!I", 4 + 65531) + bytes(65531)
STARTUP = struct.pack("!II", 23, 3 << 16) + b"user\0somebody\0\0"
OPENERS = 50


def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


async def admin(reader, writer, ports):
    """The two questions that the balancer asks a node."""
    while line := await reader.readline():
        if line in (b"\r\n", b"\n"):
            node = {"cluster": "made-up", "cluster_id": "c", "name": "n1", "id": 1, "state": "serving", "applied_seq": 1,
                    "flushed_seq": 1, "committed_seq": 1, "leader": 1, "daemon_pid": 1, "postgres_pid": 1,
                    "verdict_hash": "", "counters": {}}
            member = {"id": 1, "name": "n1", "admin_url": f"http://127.0.0.1:{ports['admin']}",
                      "postgres": {"host": "127.0.0.1", "port": ports["server"]}, "peer": "", "voter": True}
            body = json.dumps([member] if path == "/members" else node).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        elif line.startswith(b"GET "):
            path = line.split()[1].decode()


async def server(reader, writer):
    """Lets everybody in. A query `out` is answered with 1 GB; `in` takes what comes."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    await reader.readexactly(length - 4)
    ready = message(b"Z", b"I")
    writer.write(message(b"R", bytes(4)) + message(b"K", struct.pack("!II", 7, 7)) + ready)
    try:
        while True:
            kind, length = struct.unpack("!cI", await reader.readexactly(5))
            body = await reader.readexactly(length - 4)
            if kind == b"Q" and body == b"out\0":
                for _ in range(PASSING_BYTES // len(BLOCK)):
                    writer.write(BLOCK)
                    await writer.drain()
                writer.write(ready)
            elif kind == b"Q":
                writer.write(message(b"G", b"\0\0\0"))
            elif kind == b"c":
                writer.write(ready)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def connected(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if context:
        writer.write(struct.pack("!II", 8, 80877103))
        assert await reader.readexactly(1) == b"S"
        await writer.start_tls(context, server_hostname="localhost")
    writer.write(STARTUP)
    await until(reader, b"Z")
    return reader, writer


async def until(reader, last):
    while True:
        kind, length = struct.unpack("!cI", await reader.readexactly(5))
        await reader.readexactly(length - 4)
        if kind == last:
            return


def kilobytes(pid, what):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what + ":"))


async def main(program, sessions, with_tls):
    with tempfile.TemporaryDirectory() as place:
        ports = {}
        made_up = await asyncio.start_server(server, "127.0.0.1", 0, backlog=1024)
        ports["server"] = made_up.sockets[0].getsockname()[1]
        asked = await asyncio.start_server(lambda r, w: admin(r, w, ports), "127.0.0.1", 0)
        ports["admin"] = asked.sockets[0].getsockname()[1]
        port = free_port()
        tls, context = "", None
        if with_tls:
            make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -keyout k -out c"
            subprocess.run(make.split(), cwd=place, check=True, stderr=subprocess.DEVNULL)
            tls = "[tls]\ncertificate = 'c'\nkey = 'k'\n"
            context = ssl._create_unverified_context()
        with open(place + "/balancer.toml", "w") as file:
            file.write(f"cluster = 'made-up'\nlisten = '127.0.0.1:{port}'\nnodes = ['127.0.0.1:{ports['admin']}']\n{tls}"
                       f"[limits]\nmax_connections = {sessions + 10}\nmax_sessions_per_node = {sessions + 10}\n")
        balancer = subprocess.Popen([program, "balancer", "--config", place + "/balancer.toml"], stderr=subprocess.DEVNULL)
        try:
            return await measured(balancer.pid, port, sessions, context)
        finally:
            balancer.terminate()
            balancer.wait()


async def measured(pid, port, sessions, context):
    for attempt in range(100):
        try:
            one = await connected(port, context)
            break
        except OSError:
            await asyncio.sleep(0.1)
    begun = kilobytes(pid, "VmRSS")
    reader, writer = one
    writer.write(message(b"Q", b"out\0"))
    await until(reader, b"Z")
    after_result = kilobytes(pid, "VmHWM")
    writer.write(message(b"Q", b"in\0"))
    await until(reader, b"G")
    for _ in range(PASSING_BYTES // len(BLOCK)):
        writer.write(BLOCK)
        await writer.drain()
    writer.write(message(b"c", b""))
    await until(reader, b"Z")
    after_copy = kilobytes(pid, "VmHWM")
    gate = asyncio.Semaphore(OPENERS)

    async def open_one():
        async with gate:
            return await connected(port, context)

    idle = await asyncio.gather(*(open_one() for _ in range(sessions - 1)))
    await asyncio.sleep(2)
    return {"sessions": len(idle) + 1, "tls": context is not None, "rss_at_the_start": begun, "peak_after_1_gb_result": after_result,
            "peak_after_1_gb_copy": after_copy, "rss_with_idle_sessions": kilobytes(pid, "VmRSS")}


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    print(json.dumps(asyncio.run(main(sys.argv[1], count, "tls" in sys.argv[3:])), indent=1))
