"""The secrets of a local platform: made once, kept in files that only their owner can read."""

from __future__ import annotations

import secrets

import msgspec

from inferbus.admission.admin_keys import make_admin_key
from inferbus.local.layout import Layout
from inferbus.private_files import write_private

# Users of deploy/nats/nats.conf. `worker` is made per pool, `dev` is the producer of the tenant of that name.
ROLES = ("operator", "gateway", "worker", "ledger", "batch", "vectors", "admin", "dev")


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The pepper of the stored key hashes, and the hash of the admin key. (Bus users have seeds: `inferbus.local.identities`.)"""

    key_pepper: str = ""
    admin_mac: str = ""


def load_secrets(layout: Layout) -> Secrets:
    """Read the secrets; what is missing (all of it at the first start) is made and stored.

    Raises:
        msgspec.DecodeError: the file was damaged by hand.
    """
    before = layout.secrets.read_bytes() if layout.secrets.exists() else None
    stored = Secrets() if before is None else msgspec.json.decode(before, type=Secrets)
    complete = msgspec.structs.replace(stored, key_pepper=stored.key_pepper or secrets.token_hex(32))
    after = msgspec.json.format(msgspec.json.encode(complete), indent=2)
    if after != before:  # also where the file has passwords of an earlier version
        write_private(layout.secrets, after)
    return complete


def provide_admin_key(layout: Layout) -> str | None:
    """Make the admin key and write it to its file, at the first start; gives it then, and None ever after.

    The file may be moved away: the hash is what lets the key in. To have a new one made, take `admin_mac` out of the secrets.

    Raises:
        msgspec.DecodeError: the file of secrets was damaged by hand.
    """
    known = load_secrets(layout)
    if known.admin_mac:
        return None
    key, mac = make_admin_key(known.key_pepper.encode())
    write_private(layout.admin_key, f"{key}\n".encode())
    with_key = msgspec.structs.replace(known, admin_mac=mac)
    write_private(layout.secrets, msgspec.json.format(msgspec.json.encode(with_key), indent=2))
    return key
