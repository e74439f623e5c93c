from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inferbus.bus_users.user import matches
from inferbus.contracts.models import ModelEntry
from inferbus.local.identities import login_of, pool_user, provide_bus_users, settings_of, users_folder
from inferbus.local.layout import Layout
from inferbus.local.serving import Served

ROOT = Path(__file__).parents[3]
SERVED = [Served(entry=ModelEntry(name="m", pool="m"), source="m", workers=["llm-0"])]


@pytest.fixture
def real(layout: Layout) -> Layout:
    """A state folder beside the configuration that is deployed."""
    shutil.copy(ROOT / "deploy/nats/nats.conf", layout.nats_conf)
    return layout


def test_every_process_has_a_user_with_a_seed_only_its_owner_reads(real: Layout) -> None:
    provide_bus_users(real, SERVED, "local")
    users = {user.name: user for user in users_folder(real).read().users}
    assert sorted(users) == [
        "admin",
        "batch",
        "dev",
        "features",
        "gateway",
        "ledger",
        "operator",
        "vectors",
        "worker-m",
    ]
    for name, user in users.items():
        file = users_folder(real).seed_file(name)
        assert file.stat().st_mode & 0o777 == 0o600
        assert matches(user, file.read_text().strip())
        assert user.login == login_of(name) == settings_of(real, name, url="nats://x").user
    config = users_folder(real).config
    assert not [user.nkey for user in users.values() if user.nkey not in config.read_text()]
    assert "PASSWORD" not in config.read_text().split("server_name", 1)[1]


def test_made_once_and_kept(real: Layout) -> None:
    provide_bus_users(real, SERVED, "local")
    before = users_folder(real).read()
    provide_bus_users(real, SERVED, "local")
    assert users_folder(real).read() == before


def test_another_model_has_a_user_of_its_own_and_the_former_keeps_its(real: Layout) -> None:
    provide_bus_users(real, SERVED, "local")
    other = [Served(entry=ModelEntry(name="n", pool="n", runtime="embed"), source="n", workers=["embed-0"])]
    provide_bus_users(real, other, "local")
    users = {user.name: user for user in users_folder(real).read().users}
    assert {"worker-m", pool_user("n")} <= set(users)
    assert users["worker-n"].pools[0].runtime == "embed"


def test_a_seed_that_was_removed_is_made_anew(real: Layout) -> None:
    provide_bus_users(real, SERVED, "local")
    folder = users_folder(real)
    old = {user.name: user.nkey for user in folder.read().users}
    folder.seed_file("gateway").unlink()
    provide_bus_users(real, SERVED, "local")
    new = {user.name: user.nkey for user in folder.read().users}
    assert new["gateway"] != old["gateway"]
    assert {**new, "gateway": ""} == {**old, "gateway": ""}
    assert old["gateway"] not in folder.config.read_text()


def test_a_revoked_service_gets_another_seed_and_a_revoked_producer_none(real: Layout) -> None:
    provide_bus_users(real, SERVED, "local")
    folder = users_folder(real)
    dead = {name: folder.revoke(name).nkey for name in ("gateway", "dev")}
    provide_bus_users(real, SERVED, "local")
    users = {user.name: user for user in folder.read().users}
    assert not users["gateway"].revoked
    assert users["dev"].revoked
    text = folder.config.read_text()
    assert users["gateway"].nkey in text
    assert not [nkey for nkey in dead.values() if nkey in text]
