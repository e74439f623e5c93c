"""`inferbus features apply` against a real bus. What compiles a repository is a stand-in: Feast has an environment of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests import nursery

from inferbus import routes
from inferbus.admission.audit import read_audit
from inferbus.admission.feature_book import stored_catalogue
from inferbus.codec import to_json
from inferbus.contracts.features import REGISTRY_KEY, Catalogue, Compiled, ServiceRecord, ViewRecord
from inferbus.testing import NatsServer

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "bus", CONFIG) as server:
        await server.reconcile()
        yield server


def compiler(folder: Path, *, says: str = "") -> Path:
    """Make a program that takes a compiler's arguments and gives what lies in the repository, or says why not."""
    program = folder / f"compiler{bool(says)}"
    act = f"sys.exit({says!r})" if says else "shutil.copy(sys.argv[3] + '/compiled.json', sys.argv[4])"
    program.write_text(f"#!{sys.executable} -S\nimport shutil, sys\n{act}\n")
    program.chmod(0o755)
    return program


def compiled(folder: Path, *services: str, revision: str) -> Compiled:
    made = Compiled(
        registry=f"registry {revision}".encode(),
        catalogue=Catalogue(
            project="p",
            revision=revision,
            views=[ViewRecord(name="v")],
            services=[ServiceRecord(name=one) for one in services],
        ),
    )
    (folder / "compiled.json").write_bytes(to_json(made))
    return made


async def test_a_repository_is_applied_shown_and_audited(server: NatsServer, tmp_path: Path) -> None:
    env = os.environ | {
        "INFERBUS_BUS_URL": server.url, "INFERBUS_BUS_USER": "admin", "INFERBUS_BUS_PASSWORD": server.passwords["admin"],
        "INFERBUS_FEATURES_PYTHON": str(compiler(tmp_path)),
    }  # fmt: skip

    async def apply(*options: str, **more: str) -> tuple[int, str, str]:
        arguments = ("features", "apply", str(tmp_path), *options)
        done = await asyncio.to_thread(nursery.command, *arguments, env=env | more, timeout_s=30)
        return done.returncode, done.stdout, done.stderr

    bus = await server.connect("admin")
    first = compiled(tmp_path, "a", "b", revision="r1")
    assert await apply("--dry-run") == (0, "+ view v\n+ service a\n+ service b\nwould be revision r1\n", "")
    assert await stored_catalogue(bus) is None
    assert (await apply())[0] == 0
    stored = await stored_catalogue(bus)
    assert stored is not None
    assert (stored.revision, stored.services) == ("r1", first.catalogue.services)
    assert stored.applied_by.startswith("cli:")
    assert await bus.kv_get(routes.KV_FEATURES, REGISTRY_KEY) == b"registry r1"

    compiled(tmp_path, "b", "c", revision="r2")
    assert await apply() == (0, "+ service c\n- service a\nis revision r2\n", "")
    assert await bus.kv_get(routes.KV_FEATURES, REGISTRY_KEY) == b"registry r2"
    assert [event.action for event in await read_audit(bus)] == ["features_applied", "features_applied"]

    status, _, error = await apply(INFERBUS_FEATURES_PYTHON=str(compiler(tmp_path, says="view v: no such kind")))
    assert (status, error) == (1, "inferbus: view v: no such kind\n")
    assert (await stored_catalogue(bus)) is not None
    await bus.close()
