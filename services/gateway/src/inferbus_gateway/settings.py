"""The gateway's settings (section GATEWAY: `INFERBUS_GATEWAY_PORT` and so on)."""

from __future__ import annotations

import msgspec


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the HTTP door listens and how patient it is. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0 lets the operating system choose; `HttpServer.port` tells what it chose."""
    listen_fd: int = -1
    """A listening socket inherited from whoever started this process; `host` and `port` are not used then."""
    process: str = "gateway-0"
    """Stable name of this process on the bus."""
    key_pepper: str = ""
    """Secret mixed into the stored HMAC of every key; the same in every gateway."""

    max_body_bytes: int = 32 * 1024 * 1024
    """Largest request body at this door; a model may have a smaller limit of its own."""
    body_timeout_s: float = 30.0
    """How long a client may take to send its body."""
    max_open_requests: int = 8192
    """Requests open at once in this process; one more is a 503 with Retry-After."""
    hold_s: float = 3.0
    """How long a new request is held while the bus reconnects."""

    queue_comment_after_s: float = 1.0
    """A streamed response starts by then, with a comment if nothing else is there."""
    comment_every_s: float = 15.0
    """Comments keep a silent stream alive in proxies."""
    slow_client_s: float = 60.0
    """A connection that takes nothing for that long is closed by the kernel (TCP_USER_TIMEOUT)."""
    keep_alive_s: float = 75.0
    """How long an idle connection stays open; longer than the usual 60 s of load balancers."""
    drain_s: float = 30.0
    """How long open requests may go on after the stop signal, or after `inferbus drain`."""
    linger_s: float = 2.0
    """How long a connection nobody uses stays open then, for a request that may be on its way."""
    backlog: int = 2048

    admin_keys: list[str] = []
    """Admin keys as `<name>:<hash>` each; `inferbus admin-key` makes them."""
    admin_user: str = "admin"
    admin_password: str = ""
    admin_nkey_seed: str = ""
    admin_nkey_seed_file: str = ""
    """The bus role that writes keys, directory and limits. Without it this gateway serves no admin API."""
