"""API keys: what is made is recognised, anything else is not."""

from __future__ import annotations

import msgspec
import pytest

from inferbus.admission.keys import KeyRing, check_key, make_key
from inferbus.contracts.keys import KeyEntry
from inferbus.errors import InvalidRequest, Unauthenticated

PEPPER = b"pepper"


@pytest.fixture
def ring() -> KeyRing:
    class NoBus:
        reconnects = 0

    return KeyRing(NoBus(), PEPPER)  # type: ignore[arg-type]  # the test plays the watch


def learn(ring: KeyRing, entry: KeyEntry | None, id_: str = "") -> None:
    ring._on_change(id_ or (entry.id if entry else ""), None if entry is None else msgspec.json.encode(entry))


def test_a_key_is_recognised_with_its_tenant_and_lanes(ring: KeyRing) -> None:
    key, entry = make_key("acme", PEPPER, name="ci", lanes=["batch"])
    assert key.startswith("ib-")
    assert entry.name == "ci"
    learn(ring, entry)
    identity = ring.authenticate(f"Bearer {key}")
    assert (identity.tenant, identity.key_id, identity.lanes) == ("acme", entry.id, ("batch",))
    assert ring.authenticate(f"bearer   {key} ") == identity, "the scheme's case and spaces do not matter"


def test_the_secret_is_stored_nowhere() -> None:
    key, entry = make_key("acme", PEPPER)
    assert key.rsplit("-", 1)[1].encode() not in msgspec.json.encode(entry)


def test_no_two_keys_are_the_same() -> None:
    assert len({make_key("acme", PEPPER)[0] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.upper(),
        lambda key: "ib-" + "0" * 12 + "-" + key.rsplit("-", 1)[1],
        lambda key: key.rsplit("-", 1)[0] + "-",
        lambda key: key.rsplit("-", 1)[0],
        lambda key: "sk-" + key[3:],
        lambda key: key + "-x",
        lambda key: "ä" + key,
        lambda _: "",
    ],
)
def test_a_tampered_key_is_refused(ring: KeyRing, change: object) -> None:
    key, entry = make_key("acme", PEPPER)
    learn(ring, entry)
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {change(key)}")  # type: ignore[operator]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic {}", "{}", "Bearer Bearer {}"])
def test_other_headers_are_refused(ring: KeyRing, header: str | None) -> None:
    key, entry = make_key("acme", PEPPER)
    learn(ring, entry)
    with pytest.raises(Unauthenticated):
        ring.authenticate(None if header is None else header.format(key))


def test_another_pepper_is_refused() -> None:
    key, entry = make_key("acme", b"one")
    with pytest.raises(Unauthenticated):
        check_key(key, entry, b"other")


def test_a_disabled_or_deleted_key_stops_working(ring: KeyRing) -> None:
    key, entry = make_key("acme", PEPPER)
    learn(ring, entry)
    ring.authenticate(f"Bearer {key}")
    learn(ring, msgspec.structs.replace(entry, disabled=True))
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {key}")
    learn(ring, entry)
    ring.authenticate(f"Bearer {key}")
    learn(ring, None, entry.id)
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {key}")


def test_an_unreadable_entry_recognises_nobody(ring: KeyRing) -> None:
    key, entry = make_key("acme", PEPPER)
    learn(ring, entry)
    ring._on_change(entry.id, b"{")
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {key}")


def test_the_refusals_do_not_tell_the_reasons_apart(ring: KeyRing) -> None:
    key, entry = make_key("acme", PEPPER)
    learn(ring, msgspec.structs.replace(entry, disabled=True))
    texts = set()
    for wrong in (key, key[:-1], "ib-" + "0" * 12 + "-" + "0" * 48):
        with pytest.raises(Unauthenticated) as caught:
            ring.authenticate(f"Bearer {wrong}")
        texts.add(caught.value.message)
    assert len(texts) == 1


@pytest.mark.parametrize("tenant", ["", "A", "a.b", "a b", "a*", ">", "ä", "a" * 65])
def test_tenants_are_subject_tokens(tenant: str) -> None:
    with pytest.raises(InvalidRequest):
        make_key(tenant, PEPPER)
