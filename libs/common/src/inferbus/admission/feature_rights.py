"""What a key may do with features: services and sources under the name `features:<name>`, as models have theirs. Pure."""

from __future__ import annotations

from inferbus.admission.identity import Identity
from inferbus.admission.narrowing import allows
from inferbus.errors import Forbidden

TASK = "features"
"""The endpoint, as keys name it."""


def may_use(identity: Identity, name: str) -> bool:
    """Whether a key's lists, and all above it, have this name."""
    return all(allows(patterns, (name,), ()) for patterns in (identity.models, *identity.within))


def check_entitled(identity: Identity, name: str) -> None:
    """Raises:
    Forbidden: the endpoint, or what is called so, is not open to this key.
    """
    if identity.endpoints and TASK not in identity.endpoints:
        raise Forbidden(f"the endpoint {TASK} is not open to this key")
    if not may_use(identity, name):
        raise Forbidden(f"`{name}` is not open to this key", param="service")
