"""API keys: what is made is recognised, anything else is not."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from inferbus.admission.keys import KeyRing, check_key, mac_of, make_key
from inferbus.contracts.directory import Member, Organisation, Team, User, key_of
from inferbus.contracts.keys import KeyEntry
from inferbus.errors import DependencyDown, Forbidden, InvalidRequest, Unauthenticated

PEPPER = b"pepper"


@pytest.fixture
def ring() -> KeyRing:
    ring = make_ring()
    ring._members.watch.ready.set()
    ring._watch.ready.set()
    return ring


def make_ring() -> KeyRing:
    class NoBus:
        reconnects = 0

    return KeyRing(NoBus(), PEPPER)  # type: ignore[arg-type]  # the test plays the watches


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


# --- expiry and rotation, by the bus's clock ---------------------------------------------------------------------------


def told(ring: KeyRing, at: float) -> None:
    """The bus says what time it is."""
    ring._watch.clock.learn(datetime.fromtimestamp(at, tz=UTC).isoformat())


def test_a_key_expires_by_the_bus_s_clock_whatever_this_machine_s_says(ring: KeyRing) -> None:
    key, entry = make_key("acme", PEPPER)
    learn(ring, msgspec.structs.replace(entry, expires=1_000_000))  # long ago, by the clock of this machine
    told(ring, 999_000)
    for _ in range(2):  # checked, and then known
        assert ring.authenticate(f"Bearer {key}").tenant == "acme"
    told(ring, 1_000_000)
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {key}")


def test_both_secrets_of_a_rotated_key_hold_until_the_old_one_is_out(ring: KeyRing) -> None:
    old, entry = make_key("acme", PEPPER)
    _, other = make_key("acme", PEPPER)
    new = f"ib-{entry.id}-fresh"
    rotated = msgspec.structs.replace(
        entry, mac=mac_of(PEPPER, "fresh"), previous_mac=entry.mac, previous_until=1_000_000
    )
    learn(ring, rotated)
    told(ring, 999_000)
    for key in (old, new, old, new):
        assert ring.authenticate(f"Bearer {key}").key_id == entry.id
    told(ring, 1_000_001)
    assert ring.authenticate(f"Bearer {new}").key_id == entry.id
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {old}")
    learn(ring, msgspec.structs.replace(rotated, disabled=True))
    told(ring, 999_000)
    for key in (old, new):
        with pytest.raises(Unauthenticated):
            ring.authenticate(f"Bearer {key}")
    assert other.previous_mac == ""


def test_a_secret_that_was_never_set_opens_nothing(ring: KeyRing) -> None:
    _, entry = make_key("acme", PEPPER)
    learn(ring, msgspec.structs.replace(entry, mac="", previous_until=2**40))
    for secret in ("", "0", "x"):
        with pytest.raises(Unauthenticated):
            ring.authenticate(f"Bearer ib-{entry.id}-{secret}")


# --- what lies above a key ----------------------------------------------------------------------------------------------


def put(ring: KeyRing, member: Member) -> None:
    ring._members.on_entry(key_of(member), msgspec.json.encode(member))


@pytest.fixture
def member_key(ring: KeyRing) -> str:
    """A key of a user in a team, in force and looked up once."""
    key, entry = make_key("acme", PEPPER)
    learn(ring, msgspec.structs.replace(entry, team="red", user="ann"))
    for member in (
        Organisation(id="acme", tenant="acme"),
        Team(id="red", tenant="acme"),
        User(id="ann", tenant="acme"),
    ):
        put(ring, member)
    identity = ring.authenticate(f"Bearer {key}")
    assert (identity.team, identity.user) == ("red", "ann")
    return key


@pytest.mark.parametrize(
    "member",
    [
        Organisation(id="acme", tenant="acme", disabled=True),
        Team(id="red", tenant="acme", disabled=True),
        User(id="ann", tenant="acme", disabled=True),
    ],
)
def test_what_is_disabled_takes_its_keys_with_it(ring: KeyRing, member_key: str, member: Member) -> None:
    put(ring, member)
    with pytest.raises(Unauthenticated) as caught:
        ring.authenticate(f"Bearer {member_key}")
    assert caught.value.message == "Incorrect API key provided"
    put(ring, msgspec.structs.replace(member, disabled=False))
    assert ring.authenticate(f"Bearer {member_key}")


@pytest.mark.parametrize("name", ["team.acme.red", "user.acme.ann"])
def test_a_team_or_user_that_is_not_there_is_as_good_as_disabled(ring: KeyRing, member_key: str, name: str) -> None:
    ring._members.on_entry(name, None)
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {member_key}")


def test_a_tenant_without_an_organisation_is_narrowed_by_nothing(ring: KeyRing, member_key: str) -> None:
    ring._members.on_entry("org.acme", None)
    assert ring.authenticate(f"Bearer {member_key}").within == ()


def test_an_organisation_that_cannot_be_read_is_as_good_as_disabled(ring: KeyRing, member_key: str) -> None:
    ring._members.on_entry("org.acme", b"{")
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {member_key}")
    with pytest.raises(Forbidden):
        ring.of_tenant("acme")


def test_a_narrower_organisation_is_noticed_at_once(ring: KeyRing, member_key: str) -> None:
    put(ring, Organisation(id="acme", tenant="acme", lanes=("batch",), models=("m",), max_tokens=7))
    identity = ring.authenticate(f"Bearer {member_key}")
    assert (identity.lanes, identity.within, identity.max_tokens) == (("batch",), (("m",),), 7)


def test_producers_on_the_bus_are_narrowed_by_their_organisation(ring: KeyRing) -> None:
    assert ring.of_tenant("acme").lanes == ("interactive", "batch")
    put(ring, Organisation(id="acme", tenant="acme", lanes=("batch",), endpoints=("chat",)))
    assert (ring.of_tenant("acme").lanes, ring.of_tenant("acme").endpoints) == (("batch",), ("chat",))
    put(ring, Organisation(id="acme", tenant="acme", disabled=True))
    with pytest.raises(Forbidden):
        ring.of_tenant("acme")


def test_nobody_is_refused_for_being_early() -> None:
    key, _ = make_key("acme", PEPPER)
    with pytest.raises(DependencyDown):
        make_ring().authenticate(f"Bearer {key}")
    with pytest.raises(DependencyDown):
        make_ring().of_tenant("acme")
