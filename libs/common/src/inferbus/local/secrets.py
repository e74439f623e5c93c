"""The secrets of a local platform: made once, kept in files that only their owner can read."""

from __future__ import annotations

import secrets

import msgspec

from inferbus.local.layout import Layout
from inferbus.private_files import write_private

# Users of deploy/nats/nats.conf. `worker` is made per pool, `dev` is the producer of the tenant of that name.
ROLES = ("operator", "gateway", "worker", "admin", "dev")


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The pepper of the stored key hashes. (Bus users have seeds: `inferbus.local.identities`.)"""

    key_pepper: str = ""


def load_secrets(layout: Layout) -> Secrets:
    """Read the secrets; what is missing (all of it at the first start) is made and stored.

    Raises:
        msgspec.DecodeError: the file was damaged by hand.
    """
    before = layout.secrets.read_bytes() if layout.secrets.exists() else None
    stored = Secrets() if before is None else msgspec.json.decode(before, type=Secrets)
    complete = Secrets(key_pepper=stored.key_pepper or secrets.token_hex(32))
    after = msgspec.json.format(msgspec.json.encode(complete), indent=2)
    if after != before:  # also where the file has passwords of an earlier version
        write_private(layout.secrets, after)
    return complete
