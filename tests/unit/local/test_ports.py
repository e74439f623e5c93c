from __future__ import annotations

import socket

import pytest

from inferbus.local.ports import PortTaken, check_free, free_port, listen


def test_taken_port_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} for HTTP is taken .* PORT="):
            check_free("127.0.0.1", port, what="HTTP", option="PORT=")


def test_free_port_is_free() -> None:
    check_free("127.0.0.1", free_port("127.0.0.1"), what="HTTP", option="PORT=")


def test_listening_where_somebody_is_says_so() -> None:
    with listen("127.0.0.1", 0, what="HTTP", option="PORT=") as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} for HTTP is taken .* PORT="):
            listen("127.0.0.1", port, what="HTTP", option="PORT=")
        with socket.create_connection(("127.0.0.1", port)):
            pass  # it waits in the socket; nobody has to accept it
