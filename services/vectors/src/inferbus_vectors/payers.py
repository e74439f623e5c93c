"""Payers: who is charged, and with which rights as they are now."""

from __future__ import annotations

from inferbus.admission.identity import Identity
from inferbus.admission.keys import KeyRing
from inferbus.errors import Forbidden
from inferbus_vectors.ports import Payer


class Payers:
    """Identities of those who ask. Which tenant it is has been checked by the bus, which key by the door that names it."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def identity_of(self, payer: Payer) -> Identity:
        """Give a payer's identity.

        Raises:
            Unauthenticated, Forbidden: it may ask for nothing any more, or the key is another tenant's.
            DependencyDown: the keys have not been read yet.
        """
        if not payer.key_id:
            return self._keys.of_tenant(payer.tenant)
        identity = self._keys.of_key(payer.key_id)
        if identity.tenant != payer.tenant:
            raise Forbidden("the key is of another tenant")
        return identity
