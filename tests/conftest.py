"""For every test: log lines plain and cheap, and HTTP clients that know no authority, since none of them speaks TLS."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
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

if importlib.util.find_spec("hypothesis") is not None:  # not in every environment
    from hypothesis import settings

    # How long an example takes says how busy the machine is.
    settings.register_profile("inferbus", deadline=None)
    settings.load_profile("inferbus")

WHOLE = frozenset({"tests/connected/test_up.py"})
"""Files whose tests share something dear. (xdist's marker for that does nothing under pytest 9.2.)"""


@pytest.hookimpl(optionalhook=True)  # where there is no xdist, nobody asks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand tests to workers one by one, but for `WHOLE` files, in the order they were collected."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - not in every environment

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return file if file in WHOLE else nodeid

    return Scheduling(config, log)
