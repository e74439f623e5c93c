"""Which gateway the command line talks to as a client, and with which key."""

from __future__ import annotations

import os

from inferbus.cli.connection import NotRunning
from inferbus.local.layout import NotACheckout, find_layout
from inferbus.local.lock import holder_of
from inferbus.local.state import read_state

URL, KEY = "INFERBUS_URL", "INFERBUS_API_KEY"


def gateway_and_key(url: str = "", key: str = "") -> tuple[str, str]:
    """Give address and key: as said, else from the environment, else the platform of this folder and its development key.

    Raises:
        NotRunning: neither says it.
    """
    url, key = url or os.environ.get(URL, ""), key or os.environ.get(KEY, "")
    if url and key:
        return url, key
    try:
        layout = find_layout()
    except NotACheckout as exc:
        raise NotRunning(f"{exc}; set {URL} and {KEY}, or use --url and --key") from exc
    if not url:
        state = read_state(layout)
        if holder_of(layout.lock) is None or state is None or not state.url:
            raise NotRunning(f"no platform is running here: `inferbus up` starts one; or set {URL} and {KEY}")
        url = state.url
    if not key:
        if not layout.dev_key.exists():
            raise NotRunning(f"set {KEY}, or use --key")
        key = layout.dev_key.read_text().strip()
    return url, key
