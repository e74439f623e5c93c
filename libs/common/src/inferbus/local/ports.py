"""Ports: is one free, which one is, and holding one."""

from __future__ import annotations

import errno
import socket

_BACKLOG = 2048


class PortTaken(Exception):
    """Another program listens there; the message says what to do."""

    def __init__(self, what: str, port: int, option: str) -> None:
        super().__init__(f"port {port} for {what} is taken by another program; choose another: {option}")
        self.port = port


def check_free(host: str, port: int, *, what: str, option: str) -> None:
    """Check that nobody listens on a port.

    Raises:
        PortTaken: somebody does.
        OSError: the host is not an address of this machine, or the port needs rights this user lacks.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the servers do: what a finished connection left behind does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise PortTaken(what, port, option) from None
            raise


def listen(host: str, port: int, *, what: str, option: str) -> socket.socket:
    """Listen; port 0 is any free one. Whoever is handed the socket serves it, and connections wait in it meanwhile.

    Raises:
        PortTaken: somebody else listens there.
        OSError: the host is not an address of this machine, or the port needs rights this user lacks.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise PortTaken(what, port, option) from None
        raise


def free_port(host: str) -> int:
    """Let the operating system name a free port. It stays the server's over restarts, unlike port 0 itself."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
