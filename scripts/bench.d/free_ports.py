"""Prints a port P from which all that a benchmark needs is free; see pick_ports."""

import random
import socket

# Below the range from which Linux gives ports to outgoing connections.
FIRST, LAST = 20000, 32000
OFFSETS = [*range(6), *range(101, 106), *range(201, 206), 11, 12, 13]


def free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


for _ in range(1000):
    base = random.randint(FIRST, LAST)
    if all(free(base + offset) for offset in OFFSETS):
        print(base)
        break
else:
    raise SystemExit("ERROR:  no free ports found")
