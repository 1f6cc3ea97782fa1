"""Ports that stay ours while nobody listens on them."""

import random
import socket

# Below those that systems hand out to outgoing connections (from 32768 on Linux): a service that is down for a moment
# must find its port free again.
_FIRST, _LAST = 20_000, 32_000


def port_to_keep() -> int:
    """A free port on loopback that no outgoing connection will be given."""
    while True:
        port = random.SystemRandom().randint(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
