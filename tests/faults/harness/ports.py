"""Ports that stay ours while nobody listens on them."""

import random
import socket
from contextlib import ExitStack

# Below those that systems hand out to outgoing connections (from 32768 on Linux): a service that is down for a moment
# must find its port free again.
_FIRST, _LAST = 20_000, 32_000


def port_to_keep(undo: ExitStack) -> int:
    """A free port on loopback that neither outgoing connections nor other clusters get until ``undo`` is closed."""
    while True:
        port = random.SystemRandom().randint(_FIRST, _LAST)
        with socket.socket() as probe, ExitStack() as claim:
            # A name that only one process of this machine can have, and that is free again when that has ended.
            name = claim.enter_context(socket.socket(socket.AF_UNIX))
            try:
                name.bind(f"\0vv-faults-port-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            undo.push(claim.pop_all())
            return port
