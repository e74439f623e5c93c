"""Admin keys: `ib-admin-<secret>`. They open the admin API and nothing else; their hashes are settings, not entries."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence

import msgspec

from inferbus.admission.keys import mac_of
from inferbus.errors import Unauthenticated
from inferbus.settings import SettingsError

_PREFIX = "ib-admin-"


class Administrator(msgspec.Struct, frozen=True):
    """Whose admin key it was, and its secret, which nothing else may hold: replays are sealed with it."""

    name: str
    secret: bytes


def make_admin_key(pepper: bytes) -> tuple[str, str]:
    """Make an admin key; gives it, and the hash that recognises it."""
    secret = secrets.token_hex(24)
    return _PREFIX + secret, admin_mac(pepper, secret)


def admin_mac(pepper: bytes, secret: str) -> str:
    """Hash an admin key's secret, so that no hash of an ordinary key can stand for it."""
    return mac_of(pepper, f"admin:{secret}")


class AdminKeys:
    """Recognises admin keys by `<name>:<hash>` each."""

    def __init__(self, named: Sequence[str], pepper: bytes) -> None:
        """Raises SettingsError where one is not `<name>:<hash>`."""
        self._pepper = pepper
        self._macs = [self._split(one) for one in named]

    def authenticate(self, authorization: str | None) -> Administrator:
        """Check an `Authorization` header, in the same time whichever key it is.

        Raises:
            Unauthenticated: it has no admin key of ours.
        """
        scheme, _, key = (authorization or "").partition(" ")
        secret = key.strip().removeprefix(_PREFIX)
        mac = admin_mac(self._pepper, secret)
        names = [name for name, known in self._macs if hmac.compare_digest(mac, known)]
        if scheme.lower() != "bearer" or not key.strip().startswith(_PREFIX) or not names:
            raise Unauthenticated("Incorrect admin key provided: send `Authorization: Bearer ib-admin-...`")
        return Administrator(names[0], secret.encode())

    @staticmethod
    def _split(named: str) -> tuple[str, str]:
        name, _, mac = named.partition(":")
        if not name or len(mac) != 64:
            raise SettingsError("an admin key is named <name>:<hash>, the hash in 64 hexadecimal digits")
        return name, mac
