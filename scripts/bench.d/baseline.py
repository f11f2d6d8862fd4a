"""Prints, as JSON, what this disk and loopback cost for a second each.

fdatasync_us: an overwrite of 8 kB and fdatasync, as in pg_test_fsync.
loopback_us:  64 bytes over TCP to another process and back.
Usage: baseline.py DIRECTORY
"""

import json
import os
import socket
import statistics
import sys
import time

SECONDS = 1.0


def sampled(action):
    """Microseconds: median, mean and 99th percentile."""
    samples = []
    end = time.perf_counter() + SECONDS
    while (begun := time.perf_counter()) < end:
        action()
        samples.append((time.perf_counter() - begun) * 1e6)
    samples.sort()
    return {
        "median": round(statistics.median(samples), 1),
        "mean": round(statistics.fmean(samples), 1),
        "p99": round(samples[len(samples) * 99 // 100], 1),
        "count": len(samples),
    }


def fdatasync_us(directory):
    path = os.path.join(directory, "fsync.baseline")
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.write(file, bytes(16 << 20))
        os.fsync(file)
        block = os.urandom(8192)

        def write_and_sync():
            os.pwrite(file, block, 0)
            os.fdatasync(file)

        return sampled(write_and_sync)
    finally:
        os.close(file)
        os.unlink(path)


def loopback_us():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := peer.recv(64):
                peer.sendall(data)
            os._exit(0)
        with socket.create_connection(listener.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def round_trip():
                client.sendall(bytes(64))
                got = 0
                while got < 64:
                    got += len(client.recv(64))

            result = sampled(round_trip)
        os.waitpid(child, 0)
        return result


print(json.dumps({"fdatasync_us": fdatasync_us(sys.argv[1]), "loopback_us": loopback_us()}))
