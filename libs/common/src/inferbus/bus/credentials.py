"""Credentials: how a process proves who it is to the bus, how it knows the server, and what a refusal looks like.

Nothing here puts a secret into an error or a log line.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import nkeys  # type: ignore[import-untyped]  # it has no types

from inferbus.errors import DependencyDown
from inferbus.settings import BusSettings

NO_TLS = "the server offers no TLS, and this process insists on it"
# What a server says to somebody it will not talk to. Trying again changes nothing until somebody changes a setting.
# "Authentication Timeout" is none of these: it is said to a process that was too busy to introduce itself.
_REFUSALS = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
    "tls required",
    NO_TLS.lower(),
)


class BadCredentials(DependencyDown):
    """A seed, certificate or key of this process cannot be used. The message names the setting, never its value."""


def inbox_of(settings: BusSettings) -> str:
    """Give the prefix of the private inboxes: the bus lets nobody else listen there."""
    return f"_INBOX_{settings.user}" if settings.user else "_INBOX"


def login_options(settings: BusSettings) -> dict[str, Any]:
    """Give nats-py's options that say who we are, and whom we trust.

    Raises:
        BadCredentials: a file is missing, or does not hold what it should.
    """
    options: dict[str, Any] = {"inbox_prefix": inbox_of(settings).encode()}
    if seed := seed_of(settings):
        options["nkeys_seed_str"] = seed
    elif settings.user:
        options |= {"user": settings.user, "password": settings.password}
    insists = any(url.startswith("tls://") for url in settings.url.split(","))
    if insists or settings.tls_ca or settings.tls_cert:
        options["tls"] = _tls_context(settings)
    return options


def seed_of(settings: BusSettings) -> str:
    """Give the NKey seed, checked; empty where there is none.

    Raises:
        BadCredentials: it is none, or its file cannot be read.
    """
    seed, name = settings.nkey_seed.strip(), "nkey_seed"
    if not seed and settings.nkey_seed_file:
        name = f"nkey_seed_file {settings.nkey_seed_file}"
        try:
            seed = Path(settings.nkey_seed_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadCredentials(f"{name} cannot be read: {type(exc).__name__}") from None
    elif not seed:
        return ""
    if public_key(seed) is None:
        raise BadCredentials(f"{name} holds no NKey seed of a user (they begin with SU)")
    return seed


def public_key(seed: str) -> str | None:
    """Give the public half of a user's seed; None where it is no such seed."""
    if not seed.startswith("SU"):
        return None
    try:
        _, raw = nkeys.decode_seed(seed.encode())
        if nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_USER) != seed.encode():  # a letter is wrong; nkeys does not look
            return None
        pair = nkeys.from_seed(bytearray(seed.encode()))
        return str(pair.public_key.decode())
    except Exception:  # nkeys raises half a dozen kinds, binascii's among them; none may carry the seed on
        return None


def _tls_context(settings: BusSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
    except (OSError, ssl.SSLError) as exc:
        raise BadCredentials(f"tls_ca {settings.tls_ca} cannot be used: {exc}") from None
    if settings.tls_cert:
        try:
            context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
        except (OSError, ssl.SSLError) as exc:
            raise BadCredentials(f"tls_cert {settings.tls_cert} and tls_key cannot be used: {exc}") from None
    return context


def refusal_of(error: BaseException | None) -> str:
    """Say why the server, or we, will not have this connection; empty where trying again may help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {getattr(error, 'verify_message', error)}"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return f"TLS failed: {getattr(error, 'reason', '') or error}"
    text = str(error).strip()
    if isinstance(error, nats.errors.Error) and any(known in text.lower() for known in _REFUSALS):
        return text.removeprefix("nats: ").strip("'")
    return ""


def shown_url(url: str) -> str:
    """Give a server's address (or several) without the user and password it may carry."""
    return ",".join(_without_login(one) for one in url.split(","))


def _without_login(url: str) -> str:
    login, at, _ = urlsplit(url).netloc.rpartition("@")
    return url.replace(f"{login}{at}", "", 1) if at else url
