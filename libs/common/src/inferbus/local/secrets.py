"""The secrets of a local platform: made once, kept in files that only their owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from inferbus.admission.admin_keys import make_admin_key
from inferbus.local.layout import Layout

ROLES = ("operator", "gateway", "worker", "admin", "dev")


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Bus passwords by role, the pepper of the stored key hashes, and the hash of the admin key."""

    passwords: dict[str, str]
    key_pepper: str
    admin_mac: str = ""


def load_secrets(layout: Layout) -> Secrets:
    """Read the secrets; what is missing (all of it at the first start) is made and stored.

    Raises:
        msgspec.DecodeError: the file was damaged by hand.
    """
    stored = (
        msgspec.json.decode(layout.secrets.read_bytes(), type=Secrets)
        if layout.secrets.exists()
        else Secrets(passwords={}, key_pepper="")
    )
    complete = Secrets(
        passwords={role: stored.passwords.get(role) or _password() for role in ROLES},
        key_pepper=stored.key_pepper or secrets.token_hex(32),
        admin_mac=stored.admin_mac,
    )
    if complete != stored:
        write_private(layout.secrets, msgspec.json.format(msgspec.json.encode(complete), indent=2))
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


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
    finally:
        os.close(descriptor)
    part.replace(path)


def _password() -> str:
    # nats-server parses the value of a variable as configuration: it must not look like a number or a comment.
    return "p" + secrets.token_hex(20)
