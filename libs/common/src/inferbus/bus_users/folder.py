"""The folder of a bus's users: who they are (`users.json`), and the server's configuration made of it (`nats.conf`).

Seeds lie in `seeds/` only where whoever made the user asked for that (`inferbus up` does: it runs all the processes).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from inferbus.bus.credentials import public_key
from inferbus.bus_users.render import Tls, render
from inferbus.bus_users.template import read_template
from inferbus.bus_users.user import PRODUCER, BusUser, Pool, check_user, new_seed
from inferbus.errors import Conflict, NotFound
from inferbus.private_files import write_private, write_whole

_UNKNOWN_KEY = "U" + "A" * 55


class Users(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `users.json` holds. `tls` is written into the server's configuration."""

    users: list[BusUser] = []
    tls: Tls | None = None


class UsersFolder:
    """`template` is the configuration with the roles (`deploy/nats/nats.conf`)."""

    def __init__(self, folder: Path, template: Path) -> None:
        self._folder = folder
        self.template = template

    @property
    def config(self) -> Path:
        """The server's configuration."""
        return self._folder / "nats.conf"

    def seed_file(self, name: str) -> Path:
        return self._folder / "seeds" / f"{name}.seed"

    def read(self) -> Users:
        """Read who there is; nobody where nothing was written.

        Raises:
            msgspec.DecodeError: the file was damaged by hand.
        """
        file = self._folder / "users.json"
        return msgspec.json.decode(file.read_bytes(), type=Users) if file.exists() else Users()

    def create(self, name: str, role: str, *, tenant: str = "", pools: tuple[Pool, ...] = ()) -> tuple[BusUser, str]:
        """Add a user and give it with its seed, which is kept nowhere. A revoked name may be used again.

        Raises:
            Conflict: somebody has the name. InvalidRequest: a field is malformed. BadTemplate: there is no such role.
        """
        seed = new_seed()
        user = check_user(
            BusUser(
                name=name, role=role, nkey=public_key(seed) or "", tenant=tenant, pools=pools, created=int(time.time())
            )
        )
        with self._locked():
            known = self.read()
            if any(other.name == name and not other.revoked for other in known.users):
                raise Conflict(f"there is a bus user {name!r} already; revoke it first", param="name")
            self._write(_with(known, user))
        return user, seed

    def revoke(self, name: str) -> BusUser:
        """Take a user's right to connect away. Its entry stays, for whoever asks later who that was. Doing it again only
        writes the configuration again.

        Raises:
            NotFound: there is no such user.
        """
        with self._locked():
            known = self.read()
            found = next((user for user in known.users if user.name == name), None)
            if found is None:
                raise NotFound(f"no bus user is named {name!r}; `inferbus bus-users list` shows them")
            revoked = msgspec.structs.replace(found, revoked=found.revoked or int(time.time()))
            self._write(_with(known, revoked))
        return revoked

    def ensure(self, name: str, role: str, *, tenant: str = "", pools: tuple[Pool, ...] = ()) -> BusUser:
        """See that a user is there with its seed in `seeds/`; what is missing is made. The configuration is not written
        yet (`refresh`). A producer that was revoked stays so; a service gets another seed."""
        with self._locked():
            known = self.read()
            before = next((user for user in known.users if user.name == name), None)
            if before is not None and before.revoked and role == PRODUCER:
                return before
            file = self.seed_file(name)
            seed = file.read_text().strip() if file.exists() else ""
            nkey = public_key(seed) if seed else None
            if nkey is None or (before is not None and before.revoked and before.nkey == nkey):
                seed = new_seed()
                nkey = public_key(seed) or _UNKNOWN_KEY
                write_private(file, f"{seed}\n".encode())
            created = before.created if before is not None and before.nkey == nkey else int(time.time())
            user = check_user(BusUser(name=name, role=role, nkey=nkey, tenant=tenant, pools=pools, created=created))
            if user != before:
                self._keep(_with(known, user))
        return user

    def use_tls(self, tls: Tls | None) -> None:
        """Have the server speak TLS only; None: plain TCP."""
        with self._locked():
            self._write(msgspec.structs.replace(self.read(), tls=tls))

    def refresh(self) -> None:
        """Write the server's configuration anew, from the template as it is and the users as they are.

        Raises:
            BadTemplate: they do not fit together.
        """
        with self._locked():
            self._write(self.read())

    def _write(self, users: Users) -> None:
        config = render(read_template(self.template.read_text()), users.users, users.tls)
        self._keep(users)
        write_whole(self.config, config.encode(), 0o644)  # no secrets; the server may be another user

    def _keep(self, users: Users) -> None:
        write_private(self._folder / "users.json", msgspec.json.format(msgspec.json.encode(users), indent=2))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let nobody else change it meanwhile: two commands at once would lose one's user."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _with(known: Users, user: BusUser) -> Users:
    """Put a user in the place of whoever has the name. Revoked entries of other names stay as they are."""
    others = [other for other in known.users if other.name != user.name]
    return msgspec.structs.replace(known, users=[*others, user])
