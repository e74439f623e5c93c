from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.bus.credentials import public_key
from inferbus.bus_users.folder import UsersFolder
from inferbus.bus_users.render import Tls, render
from inferbus.bus_users.template import BadTemplate, read_template
from inferbus.bus_users.user import BusUser, Pool, check_user, matches, new_seed
from inferbus.errors import Conflict, InvalidRequest, NotFound

CONF = Path(__file__).parents[3] / "deploy/nats/nats.conf"
TEMPLATE = read_template(CONF.read_text())
NKEY = public_key(new_seed()) or ""


def user(role: str, **fields: object) -> BusUser:
    return BusUser(**({"name": "x", "role": role, "nkey": NKEY} | fields))  # type: ignore[arg-type]  # of a test


def allowed(text: str) -> set[str]:
    return set(re.findall(r'"([^"]+)"', text))


def test_every_user_of_the_template_is_understood() -> None:
    text = CONF.read_text()
    assert set(TEMPLATE.roles) == set(re.findall(r"\{ user: (\w+)", text))
    assert TEMPLATE.before + text[len(TEMPLATE.before) : -len(TEMPLATE.after)] + TEMPLATE.after == text
    assert [role for role, body in TEMPLATE.roles.items() if not body] == ["operator"]


def test_a_role_may_what_the_template_says() -> None:
    for role in set(TEMPLATE.roles) - {"dev"}:
        text = render(TEMPLATE, [user(role)])
        assert f"nkey: {NKEY}" in text
        assert allowed(text) >= allowed(TEMPLATE.roles[role])
        assert "password:" not in text


@given(tenant=st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True))
def test_a_producer_is_one_of_its_tenant_only(tenant: str) -> None:
    text = render(TEMPLATE, [user("producer", tenant=tenant)])
    entry = text[text.index(NKEY) : text.index(TEMPLATE.after)]
    assert allowed(entry) == {
        f"request.{tenant}.>", f"cancel.{tenant}.>", f"fetch.{tenant}.>", f"reply.{tenant}.>", f"_INBOX_producer.{tenant}.>",
        f"features.get.{tenant}.*", f"features.push.{tenant}.*",
        f"vectors.index.{tenant}.*", f"vectors.search.{tenant}.*", f"vectors.watch.{tenant}.match",
    }  # fmt: skip


def test_a_worker_of_a_pool_pulls_and_acknowledges_nothing_else() -> None:
    text = render(TEMPLATE, [user("worker", name="w", pools=(Pool(pool="m", runtime="embed", region="eu"),))])
    entry = text[text.index(NKEY) : text.index(TEMPLATE.after)]
    pulls = {subject for subject in allowed(entry) if "MSG.NEXT" in subject or subject.startswith("$JS.ACK")}
    denied = allowed(TEMPLATE.roles["worker"].partition("deny:")[2])
    pulls -= denied
    assert len(pulls) == 2 * 64 * 3
    assert all(re.search(r"\.INFER_eu_embed_(interactive|batch)\.m_\d+(\.>)?$", subject) for subject in pulls)
    assert "_INBOX_worker.w.>" in entry
    assert '"_INBOX_worker.>"' not in entry


@given(st.lists(st.tuples(st.sampled_from(["gateway", "admin", "operator"]), st.booleans()), max_size=6))
def test_who_is_revoked_is_not_there(kinds: list[tuple[str, bool]]) -> None:
    users = [
        user(role, name=f"u{n}", nkey=public_key(new_seed()), revoked=int(revoked))
        for n, (role, revoked) in enumerate(kinds)
    ]
    text = render(TEMPLATE, users)
    for one in users:
        assert text.count(one.nkey) == (0 if one.revoked else 1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"role": "producer"}, "tenant"),
        ({"role": "producer", "tenant": "a.>"}, "tenant"),
        ({"role": "producer", "tenant": 'a" }'}, "tenant"),
        ({"role": "gateway", "tenant": "a"}, "tenant"),
        ({"role": "gateway", "pools": (Pool(pool="m"),)}, "pools"),
        ({"role": "worker", "pools": (Pool(pool="*"),)}, "pool"),
        ({"role": "worker", "pools": (Pool(pool="m", runtime=">"),)}, "runtime"),
        ({"role": "worker", "pools": (Pool(pool="m", region=""),)}, "region"),
        ({"role": "gateway", "name": "a\n}"}, "name"),
        ({"role": "gateway", "nkey": "SUABC"}, "nkey"),
        ({"role": "gateway", "nkey": "UABC } ]"}, "nkey"),
    ],
)
def test_what_would_be_something_else_in_the_configuration_is_refused(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_user(user(**fields))  # type: ignore[arg-type]  # of a test
    assert refused.value.param == field


@pytest.mark.parametrize("role", ["dev", "nobody", ""])
def test_an_unknown_role_is_refused(role: str) -> None:
    with pytest.raises(BadTemplate, match=r"roles are admin, batch, features, gateway, .*producer"):
        render(TEMPLATE, [user(role)])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        users: [\n", "        users = [\n"),
        ("{ user: worker, password: $INFERBUS_NATS_WORKER_PASSWORD, permissions: {", "{ user: worker, password: geheim, permissions: {"),
        ("            } }\n\n            # The command line", "            }}\n\n            # The command line"),
        ("{ user: dev,", "{ user: development,"),
    ],
)  # fmt: skip
def test_a_template_of_another_shape_is_refused(old: str, new: str) -> None:
    text = CONF.read_text()
    assert old in text
    with pytest.raises(BadTemplate):
        read_template(text.replace(old, new))


@pytest.mark.parametrize("gone", ['"$JS.API.CONSUMER.MSG.NEXT.*.*"', '"$JS.ACK.>"', '"_INBOX_worker.>"'])
def test_a_template_that_cannot_be_narrowed_to_a_pool_is_refused(gone: str) -> None:
    template = read_template(CONF.read_text().replace(gone, '"other"'))
    with pytest.raises(BadTemplate, match="narrowed"):
        render(template, [user("worker", pools=(Pool(pool="m"),))])


def test_tls_is_written_and_paths_are_quoted() -> None:
    assert render(TEMPLATE, [], Tls(cert="a b.pem", key="k.pem")).endswith(
        '\ntls {\n    cert_file: "a b.pem"\n    key_file: "k.pem"\n}\n'
    )
    assert "verify: true" in render(TEMPLATE, [], Tls(cert="a", key="k", ca="c"))
    with pytest.raises(BadTemplate):
        render(TEMPLATE, [], Tls(cert='a"', key="k"))


def test_create_list_revoke_create_again(tmp_path: Path) -> None:
    folder = UsersFolder(tmp_path / "bus", CONF)
    made, seed = folder.create("ci", "producer", tenant="acme")
    assert matches(made, seed)
    assert seed not in "".join(file.read_text() for file in (tmp_path / "bus").iterdir())
    assert made.nkey in folder.config.read_text()
    with pytest.raises(Conflict):
        folder.create("ci", "producer", tenant="acme")
    assert folder.revoke("ci").revoked > 0
    assert made.nkey not in folder.config.read_text()
    assert folder.revoke("ci") == folder.read().users[0]
    with pytest.raises(NotFound):
        folder.revoke("other")
    again, _ = folder.create("ci", "producer", tenant="acme")
    assert [one.nkey for one in folder.read().users] == [again.nkey]


def test_a_user_of_no_role_is_not_kept(tmp_path: Path) -> None:
    folder = UsersFolder(tmp_path / "bus", CONF)
    with pytest.raises(BadTemplate):
        folder.create("x", "nobody")
    assert folder.read().users == []


def test_a_pool_s_worker_hears_of_its_own_direct_work_only() -> None:
    pool = Pool(pool="ranker", runtime="triton")
    user = BusUser(name="worker-ranker", role="worker", nkey=public_key(new_seed()) or "", pools=(pool,))
    made = render(TEMPLATE, [user])
    assert '"direct.local.triton.ranker.*"' in made
    assert '"direct.>"' not in made
    assert "allow_responses" in made
