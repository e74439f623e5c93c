"""Administration: the books of what is admitted, opened together for one who may write them."""

from __future__ import annotations

import msgspec

from inferbus.admission.audit import Actor, AuditedStore
from inferbus.admission.directory import Directory
from inferbus.admission.key_book import KeyBook
from inferbus.admission.limit_book import LimitBook
from inferbus.admission.model_servers import ModelServers
from inferbus.bus import Bus


class Administration(msgspec.Struct, frozen=True):
    """Everything an operator may change of who is admitted; made per request or command, as it knows who asks."""

    directory: Directory
    keys: KeyBook
    limits: LimitBook
    servers: ModelServers


def open_administration(bus: Bus, pepper: bytes, actor: Actor) -> Administration:
    """Open the books over a connection of role `admin`."""
    store = AuditedStore(bus, actor)
    directory = Directory(store)
    keys = KeyBook(store, directory, pepper)
    return Administration(directory, keys, LimitBook(store, directory, keys), ModelServers(store))
