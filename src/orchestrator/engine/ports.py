"""Host ports, chosen before the container is created so that they never change."""

from __future__ import annotations

import socket


def free_port(bind_address: str) -> int:
    """A port that was free on an address of this machine a moment ago.

    Somebody may take it before the daemon publishes it: creating the container is retried then.
    """
    family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((bind_address, 0))
        except OSError:  # the address is the daemon's machine's, not ours: any port is a guess
            listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port
