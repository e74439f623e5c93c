"""What a worker makes of the organisations' entries."""

from __future__ import annotations

from inferbus.codec import to_json
from inferbus.contracts.directory import Organisation, organisation_key
from inferbus.worker.tenant_weights import TenantWeights


def weights() -> TenantWeights:
    class NoBus:
        reconnects = 0

    return TenantWeights(NoBus())  # type: ignore[arg-type]  # the test plays the watch


def tell(weights: TenantWeights, tenant: str, weight: int | None) -> None:
    entry = None if weight is None else to_json(Organisation(id=tenant, tenant=tenant, weight=weight))
    weights._on_change(organisation_key(tenant), entry)


def test_only_what_is_not_one_is_kept_and_a_change_is_another_mapping() -> None:
    known = weights()
    before = known.all()
    tell(known, "acme", 1)
    assert known.all() is before == {}
    tell(known, "acme", 5)
    tell(known, "globex", 2)
    assert known.all() == {"acme": 5, "globex": 2}
    before = known.all()
    tell(known, "acme", 5)
    assert known.all() is before
    tell(known, "acme", None)
    tell(known, "globex", 1)
    assert known.all() == {}
    assert before == {"acme": 5, "globex": 2}, "whoever holds it sees no change in it"


def test_what_cannot_be_read_leaves_what_was_known() -> None:
    known = weights()
    tell(known, "acme", 5)
    for value in (
        b"{",
        b'{"type":"directory.team.v1","id":"a","tenant":"acme"}',
        b'{"type":"directory.organisation.v1"}',
    ):
        known._on_change("org.acme", value)
    assert known.all() == {"acme": 5}


def test_an_entry_from_before_there_were_weights_weighs_one() -> None:
    known = weights()
    known._on_change("org.acme", b'{"type":"directory.organisation.v1","id":"acme","tenant":"acme"}')
    assert known.all() == {}
