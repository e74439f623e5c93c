"""For every test: log lines plain and cheap, and HTTP clients that know no authority, since none of them speaks TLS."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

# A traceback drawn by rich takes half a second of the event loop.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
# Every httpx client, and so every look at a metric, reads all authorities there are: 40 ms of CPU. This folder has none.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)
