"""What every role may do on the bus and what it may not, against the deployed configuration.

A refusal comes to the connection's error callback and nowhere else, so each case waits for exactly that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.contracts.models import ModelEntry
from inferbus.testing import NatsServer, eventually

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"
MODEL = ModelEntry(name="m", pool="m")
INTERACTIVE = routes.stream_infer("local", "llm", "interactive")
ASKER_VERBS = ("confirm", "resend", "stale", "cancel", "expire", "drop")
# One server for all of them; a role's connections, which are told of violations, are new for each.
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Role:
    """One connection of a role, and the violations it was told of."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.nc = Client()

    async def connect(self, server: NatsServer, role: str) -> None:
        settings = server.settings(role)

        async def on_error(error: Exception) -> None:
            self.violations.append(str(error).lower())

        self.nc = await nats.connect(
            server.url,
            user=settings.user,
            password=settings.password,
            inbox_prefix=f"_INBOX_{role}".encode(),
            error_cb=on_error,
        )

    async def publish(self, subject: str) -> None:
        await self.nc.publish(subject, b"")
        await self.nc.flush()

    async def subscribe(self, subject: str) -> list[Msg]:
        seen: list[Msg] = []

        async def on_message(message: Msg) -> None:
            seen.append(message)

        await self.nc.subscribe(subject, cb=on_message)
        await self.nc.flush()
        await self.nc.flush()  # the first one's ping goes ahead of what it flushes
        return seen

    async def told_of(self, subject: str) -> None:
        await eventually(lambda: any(subject.lower() in violation for violation in self.violations))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path_factory.mktemp("bus"), CONFIG) as server:
        await server.reconcile(MODEL)
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def roles(server: NatsServer) -> AsyncIterator[dict[str, Role]]:
    found = {role: Role() for role in server.passwords}
    for name, role in found.items():
        await role.connect(server, name)
    yield found
    await asyncio.gather(*(role.nc.close() for role in found.values()))


WORK = routes.infer(region="local", runtime="llm", pool="m", lane="interactive", bucket=0, tenant="dev")
COUNTER = routes.quota("minute", "dev", "org-tpm", 1)
_NEXT = "$JS.API.CONSUMER.MSG.NEXT"

MAY_NOT_PUBLISH = [
    ("gateway", routes.kv_subject("keys", "k")),
    ("gateway", routes.kv_subject("models", "m")),
    ("gateway", routes.kv_subject("directory", "org.dev")),
    ("gateway", routes.kv_subject("limits", "org.dev")),
    ("gateway", routes.kv_subject("idempotency", routes.tenant_key(routes.ADMIN, "k"))),
    ("gateway", f"$JS.API.DIRECT.GET.KV_idempotency.{routes.kv_subject('idempotency', 'ADMIN.k')}"),
    ("gateway", routes.audit("dev", "key_created")),
    ("gateway", f"$JS.API.DIRECT.GET.{routes.STREAM_AUDIT}"),
    ("worker", routes.kv_subject("directory", "org.dev")),
    ("worker", routes.audit("dev", "key_created")),
    ("admin", routes.kv_subject("idempotency", "dev.r")),
    ("gateway", "$JS.API.STREAM.CREATE.X"),
    ("gateway", "$JS.API.STREAM.DELETE.REQUEST"),
    ("gateway", "$JS.API.STREAM.PURGE.REQUEST"),
    ("gateway", f"$JS.API.STREAM.MSG.GET.{INTERACTIVE}"),
    ("gateway", f"{_NEXT}.{INTERACTIVE}.m_0"),
    ("gateway", "request.dev.m.interactive"),
    *(
        ("gateway", f"$JS.API.STREAM.MSG.DELETE.{stream}")
        for stream in ("REQUEST", "PAY", "DLQ", "EVENTS", "KV_keys", "AUDIT")
    ),
    *(
        ("gateway", f"$JS.API.STREAM.MSG.DELETE.{stream}")
        for stream in ("QUOTA", "QUOTA_LONG", "KV_slots", "KV_limits")
    ),
    ("gateway", routes.kv_subject("limits", "org.dev")),
    ("worker", COUNTER),
    ("worker", routes.kv_subject("slots", "dev.org-concurrent")),
    ("worker", routes.kv_subject("outstanding", "a")),
    ("gateway", "$JS.API.STREAM.MSG.DELETE.KV_outstanding"),
    ("gateway", "$JS.API.DIRECT.GET.KV_outstanding"),
    ("ledger", COUNTER),
    ("ledger", "$JS.API.STREAM.MSG.DELETE.KV_outstanding"),
    ("dev", COUNTER),
    ("worker", f"$JS.API.STREAM.MSG.DELETE.{INTERACTIVE}"),
    ("worker", "cancel.dev.r"),
    ("worker", "fetch.dev.r"),
    ("worker", routes.kv_subject("requests", "dev.r")),
    ("gateway", routes.deltas("dev", "r")),
    ("gateway", "stored.results.dev.r"),
    ("worker", WORK),
    ("worker", "request.dev.m.interactive"),
    ("worker", "reply.dev.c"),
    ("worker", routes.control_of("llm-1", "stale")),
    ("worker", f"{_NEXT}.REQUEST.gateway_interactive"),
    ("worker", "$JS.ACK.REQUEST.gateway_interactive.1.1.1.1.0"),
    ("worker", "$JS.ACK._.abc.REQUEST.gateway_interactive.1.1.1.1.0.x"),
    ("worker", routes.kv_subject("models", "m")),
    ("worker", f"$JS.API.CONSUMER.CREATE.{INTERACTIVE}"),
    ("worker", "$JS.API.DIRECT.GET.KV_keys.$KV.keys.k"),
    ("admin", WORK),
    ("admin", "request.dev.m.interactive"),
    ("admin", "control.llm-0.stale"),
    ("worker", "control.llm-1.drain"),
    ("admin", "$JS.API.STREAM.DELETE.REQUEST"),
    ("dev", WORK),
    ("dev", "request.other.m.interactive"),
    ("dev", "cancel.other.r"),
    ("dev", "fetch.other.r"),
    ("dev", "results.dev.r"),
    ("dev", "deltas.dev.r"),
    ("dev", "stored.results.dev.r"),
    ("dev", "$JS.API.DIRECT.GET.RESULTS.results.dev.r"),
    ("dev", "$JS.API.DIRECT.GET.DELTAS"),
    ("dev", "reply.dev.c"),
    ("dev", "step.a"),
    ("dev", "control.llm-0.cancel"),
    ("dev", "control.llm-0.drain"),
    ("dev", "presence.local.llm-0"),
    ("dev", "$JS.API.INFO"),
    ("dev", "$JS.API.STREAM.INFO.REQUEST"),
    ("dev", "$JS.ACK.REQUEST.gateway_interactive.1.1.1.1.0"),
    ("dev", "_INBOX_gateway.x"),
]

MAY_NOT_PUBLISH += [
    ("worker", routes.kv_subject("prices", "m")),
    ("worker", routes.kv_subject("totals", "dev.x")),
    ("worker", "$JS.API.DIRECT.GET.KV_totals"),
    ("worker", "$JS.API.STREAM.PURGE.USAGE"),
    ("gateway", routes.usage("dev", "m")),
    ("gateway", routes.kv_subject("prices", "m")),
    ("gateway", routes.kv_subject("totals", "dev.x")),
    ("gateway", "$JS.API.STREAM.MSG.DELETE.USAGE"),
    ("gateway", "$JS.API.DIRECT.GET.USAGE"),
    ("admin", routes.usage("dev", "m")),
    ("admin", routes.kv_subject("totals", "dev.x")),
    ("admin", "$JS.API.STREAM.PURGE.USAGE"),
    ("ledger", routes.usage("dev", "m")),
    ("ledger", WORK),
    ("ledger", "$JS.API.STREAM.PURGE.USAGE"),
    ("ledger", "$JS.API.DIRECT.GET.KV_keys.$KV.keys.k"),
    ("ledger", routes.kv_subject("prices", "m")),
    ("dev", routes.usage("dev", "m")),
    ("dev", "$JS.API.DIRECT.GET.USAGE"),
    ("dev", "$JS.API.DIRECT.GET.KV_totals"),
]

MAY_NOT_PUBLISH += [
    *(
        ("gateway", f"control.{process}.{verb}")
        for process in ("triton-0", "*")
        for verb in ("triton", "drain", "load", "x.y")
    ),
    ("gateway", "control.triton-0"),
    *(("admin", f"control.triton-0.{verb}") for verb in (*ASKER_VERBS, "model")),
    *((role, "control.triton-0.triton") for role in ("worker", "ledger", "dev")),
    *((role, "control.triton-0.model") for role in ("worker", "ledger", "dev")),
]

MAY_NOT_PUBLISH += [
    *((role, routes.kv_subject("turns", "s.m")) for role in ("gateway", "admin", "ledger", "dev")),
    ("gateway", "$JS.API.STREAM.MSG.DELETE.KV_turns"),
    ("worker", "$JS.API.STREAM.MSG.DELETE.KV_turns"),
    ("worker", "$JS.API.CONSUMER.CREATE.KV_turns"),  # a server's workers follow its models and no others
]

MAY_NOT_PUBLISH += [
    ("gateway", "$JS.API.STREAM.MSG.DELETE.KV_files"),
    ("gateway", "$JS.API.STREAM.MSG.DELETE.KV_jobs"),
    ("gateway", "$JS.API.STREAM.MSG.DELETE.BATCH_PARTS"),
    ("gateway", routes.batch_part("dev", "j", 0)),
    ("worker", routes.kv_subject("files", "dev.f")),
    ("worker", routes.kv_subject("jobs", "dev.j")),
    ("worker", "$JS.API.DIRECT.GET.KV_files"),
    ("dev", routes.kv_subject("files", "dev.f")),
    ("dev", "$JS.API.DIRECT.GET.KV_jobs"),
]

BATCH_WORK = routes.infer(region="local", runtime="llm", pool="m", lane="batch", bucket=0, tenant="dev")
CHUNK = routes.batch_chunk("dev", "j", "p")
MAY_NOT_PUBLISH += [
    ("batch", WORK),  # the other lane
    ("batch", "control.llm-0.drain"),
    ("batch", "request.dev.m.batch"),
    ("batch", "reply.dev.c"),
    ("batch", routes.usage("dev", "m")),
    ("batch", routes.kv_subject("keys", "k")),
    ("batch", routes.kv_subject("models", "m")),
    ("batch", routes.kv_subject("limits", "org.dev")),
    ("batch", routes.kv_subject("idempotency", "dev.r")),
    ("batch", "$JS.API.DIRECT.GET.KV_keys"),
    ("batch", "$JS.API.DIRECT.GET.REQUEST"),
    ("batch", "$JS.API.DIRECT.GET.DELTAS"),
    ("batch", f"{_NEXT}.{INTERACTIVE}.m_0"),
    ("batch", f"{_NEXT}.REQUEST.gateway_batch"),
    ("batch", "$JS.API.STREAM.PURGE.BATCH_PARTS"),
    ("batch", "$JS.API.STREAM.MSG.DELETE.BATCH_PARTS"),
    ("batch", "$JS.API.STREAM.MSG.DELETE.RESULTS"),
    ("batch", "$JS.API.STREAM.DELETE.BATCH_CHUNKS"),
    *((role, CHUNK) for role in ("gateway", "worker", "ledger", "admin", "dev")),
    *((role, routes.batch_part("dev", "j", 1)) for role in ("worker", "ledger", "admin", "dev")),
    ("worker", f"{_NEXT}.BATCH_CHUNKS.j"),
    ("gateway", f"{_NEXT}.BATCH_CHUNKS.j"),
]

PUSH = routes.features_push("dev", "s")
MAY_NOT_PUBLISH += [
    ("features", "reply.dev.c"),
    ("features", "events.gateway.x"),
    ("features", "dlq.request.dev.m.batch"),
    ("features", "control.llm-0.cancel"),
    ("features", "$JS.API.STREAM.PURGE.FEATURES"),
    ("worker", routes.features_manage("dev", "list")),
    ("gateway", routes.kv_subject("features", "catalogue")),
    ("gateway", "$JS.API.STREAM.MSG.DELETE.FEATURES"),
    ("dev", routes.features_get("acme", "ranking")),
    ("features", WORK),
    ("features", "control.llm-0.drain"),
    ("features", "request.dev.m.batch"),
    ("features", routes.usage("dev", "m")),
    ("features", routes.kv_subject("keys", "k")),
    ("features", routes.kv_subject("limits", "org.dev")),
    ("features", routes.kv_subject("directory", "org.dev")),
    ("features", routes.kv_subject("features", "catalogue")),
    ("features", "$JS.API.STREAM.MSG.DELETE.FEATURES"),
    ("features", "$JS.API.CONSUMER.DELETE.FEATURES.features_writer"),
    ("features", f"{_NEXT}.REQUEST.gateway_batch"),
    ("dev", routes.features_push("other", "s")),
    ("dev", routes.features_manage("dev", "list")),
    *((role, PUSH) for role in ("worker", "ledger", "batch", "admin")),
    *((role, f"{_NEXT}.FEATURES.features_writer") for role in ("worker", "gateway", "dev")),
]

COLLECTION = routes.kv_subject(routes.KV_COLLECTIONS, "dev.docs")
MAY_NOT_PUBLISH += [
    ("vectors", "request.dev.m.batch"),
    ("vectors", "control.llm-0.drain"),
    ("vectors", routes.usage("dev", "m")),
    ("vectors", routes.event("gateway", "x")),
    ("vectors", routes.kv_subject("keys", "k")),
    ("vectors", routes.kv_subject("models", "m")),
    ("vectors", routes.kv_subject("limits", "org.dev")),
    ("vectors", routes.kv_subject("jobs", "dev.j")),
    ("vectors", f"{_NEXT}.REQUEST.gateway_batch"),
    ("vectors", f"{_NEXT}.{INTERACTIVE}.m_0"),
    ("vectors", "$JS.ACK.REQUEST.gateway_interactive.1.1.1.1.0"),
    ("vectors", "$JS.API.STREAM.PURGE.DLQ"),
    ("vectors", "$JS.API.STREAM.MSG.DELETE.VECTORS"),
    ("vectors", "$JS.API.STREAM.MSG.DELETE.KV_collections"),
    *((role, COLLECTION) for role in ("gateway", "worker", "batch", "ledger", "admin", "dev")),
    *((role, f"{_NEXT}.VECTORS.indexer") for role in ("gateway", "worker", "batch", "dev")),
    *((role, routes.vectors_manage("dev", "create")) for role in ("worker", "batch", "ledger", "admin", "dev")),
    *((role, routes.vectors_search("dev", "docs")) for role in ("worker", "ledger", "admin")),
    ("dev", routes.vectors_search("other", "docs")),
    ("dev", routes.vectors_index("other", "docs")),
    ("dev", routes.vectors_search("dev", "docs.more")),
    ("worker", routes.vectors_index("dev", "docs")),
]

MAY_NOT_PUBLISH += [
    *((role, routes.vectors_watch("dev", "set")) for role in ("worker", "ledger", "batch", "admin", "dev")),
    ("dev", routes.vectors_watch("other", "match")),
    *(
        (role, routes.kv_subject(bucket, "dev.x"))
        for role in ("gateway", "worker", "batch", "admin", "dev")
        for bucket in ("watchlists", "watch_hits")
    ),
    ("vectors", routes.kv_subject("vector_stores", "dev.vs_1")),
]

MAY_NOT_PUBLISH += [
    *((role, routes.quota_wanted("dev")) for role in ("worker", "ledger", "admin", "dev")),
    *((role, routes.quota_freed("a")) for role in ("worker", "ledger", "admin", "dev")),
]

MAY_NOT_READ = [
    *((role, routes.QUOTA_WANTED_ALL) for role in ("worker", "ledger", "admin", "dev")),
    *((role, "vectors.search.>") for role in ("gateway", "worker", "batch", "ledger", "admin", "dev")),
    *((role, "vectors.manage.>") for role in ("gateway", "worker", "batch", "dev")),
    *((role, "vectors.index.>") for role in ("gateway", "worker", "batch", "vectors", "dev")),
    ("vectors", "infer.>"),
    ("vectors", "request.>"),
    ("vectors", "_INBOX_gateway.>"),
    ("vectors", "$KV.keys.>"),
    ("batch", "infer.>"),
    ("batch", "request.>"),
    ("batch", "results.>"),
    ("batch", "_INBOX_gateway.>"),
    ("worker", "batch.part.>"),
    ("dev", "batch.part.>"),
    ("gateway", "infer.>"),
    ("gateway", "request.>"),
    ("gateway", "reply.>"),
    ("gateway", "$KV.keys.>"),
    ("gateway", "_INBOX_worker.>"),
    ("worker", "infer.>"),
    ("worker", "step.>"),
    ("worker", "_INBOX_gateway.>"),
    ("worker", "pay.>"),
    ("admin", "infer.>"),
    ("admin", "step.>"),
    ("dev", "reply.>"),
    ("dev", "stored.>"),
    ("dev", "fetch.>"),
    ("worker", "stored.>"),
    ("gateway", "results.>"),
    ("dev", "reply.other.>"),
    ("dev", "request.>"),
    ("dev", "presence.>"),
    ("dev", "_INBOX.>"),
    ("dev", "_INBOX_other.>"),
]

MAY_NOT_READ += [(role, "usage.>") for role in ("worker", "gateway", "ledger", "admin", "dev")]

MAY_NOT_READ += [("features", subject) for subject in ("infer.>", "request.>", "step.>", "usage.>", "_INBOX_gateway.>")]
MAY_NOT_READ += [(role, "features.get.>") for role in ("gateway", "worker", "batch", "dev")]
MAY = [  # publisher, subject, reader (of another role) or "" where JetStream answers
    *(("gateway", f"control.llm-0.{verb}", "worker") for verb in (*ASKER_VERBS, "model")),
    ("admin", "control.llm-0.triton", "worker"),
    ("gateway", "reply.dev.c", "dev"),
    ("gateway", "_INBOX_worker.x", "worker"),
    ("worker", "step.a", "gateway"),
    ("admin", "control.llm-0.drain", "worker"),
    ("admin", "control.gateway-0.drain", "gateway"),
    ("worker", "presence.local.llm-0", "gateway"),
    ("gateway", "presence.local.gateway-0", "worker"),
    ("worker", "presence.local.llm-0", "admin"),
    ("dev", "cancel.dev.r", "gateway"),
    ("dev", "cancel.dev.r", "worker"),
    ("dev", "fetch.dev.r", "gateway"),
    ("gateway", "cancel.dev.r", "gateway"),
    ("gateway", "_INBOX_gateway.x", "gateway"),
    ("worker", "step.a", "batch"),
    ("batch", "control.llm-0.confirm", "worker"),
    ("batch", "control.llm-0.cancel", "worker"),
    ("batch", "cancel.dev.r", "worker"),
    ("batch", "_INBOX_worker.x", "worker"),
    ("batch", "presence.local.batch-0", "worker"),
    ("worker", "presence.local.llm-0", "batch"),
    ("admin", "control.batch-0.drain", "batch"),
    ("admin", routes.features_manage("PLATFORM", "redrive"), "features"),
    ("gateway", routes.features_manage("dev", "push"), "features"),
    ("worker", routes.features_get("dev", "s"), "features"),
    ("batch", "batch.part.dev.j.7", "batch"),
    ("batch", routes.vectors_search("dev", "docs"), "vectors"),
    ("vectors", "_INBOX_batch.x", "batch"),
]

_HOLDERS = ("gateway", "batch", "features", "vectors")
MAY += [(role, routes.quota_wanted("dev"), other) for role in _HOLDERS for other in _HOLDERS if other != role]
MAY += [("gateway", routes.quota_freed("a"), role) for role in _HOLDERS[1:]]
MAY += [(role, routes.features_get("dev", "ranking"), "features") for role in ("gateway", "worker", "dev")]
MAY += [("gateway", routes.features_manage("dev", "list"), "features")]
JETSTREAM = [
    *((role, routes.features_push("dev", "s")) for role in ("dev", "gateway", "features")),
    ("features", "dlq.features.push.dev.s"),
    ("features", "$JS.API.DIRECT.GET.DLQ"),
    ("features", routes.kv_subject("feature_jobs", "JOBS.j")),
    ("features", "$JS.API.DIRECT.GET.FEATURES"),
    *(("features", routes.kv_subject(bucket, "dev.x")) for bucket in ("slots", "outstanding")),
    ("gateway", WORK),
    ("gateway", "pay.dev.t.0"),
    ("gateway", "dlq.request.dev.m.interactive"),
    ("worker", f"dlq.{WORK}"),
    ("gateway", routes.event("gateway", routes.FACT_REQUEST_CANCELLED)),
    ("worker", routes.event("llm-worker", routes.FACT_REQUEST_CANCELLED)),
    ("worker", routes.deltas("dev", "r")),
    ("worker", routes.results("dev", "r")),
    ("gateway", routes.results("dev", "r")),
    ("gateway", routes.kv_subject("requests", "dev.r")),
    ("gateway", routes.kv_subject("idempotency", "dev.r")),
    ("admin", routes.kv_subject("directory", "org.dev")),
    ("admin", routes.kv_subject("limits", "org.dev")),
    ("admin", routes.kv_subject("idempotency", routes.tenant_key(routes.ADMIN, "k"))),
    ("admin", routes.audit("dev", "key_created")),
    ("gateway", routes.kv_subject("slots", "dev.org-concurrent")),
    ("gateway", "$JS.API.DIRECT.GET.KV_slots.$KV.slots.dev.org-concurrent"),
    ("gateway", routes.kv_subject("outstanding", "a")),
    ("gateway", "$JS.API.DIRECT.GET.KV_outstanding.$KV.outstanding.a"),
    ("ledger", routes.kv_subject("outstanding", "a")),
    ("ledger", "$JS.API.DIRECT.GET.KV_outstanding"),
    ("ledger", "$JS.API.STREAM.NAMES"),
    ("ledger", f"$JS.API.STREAM.INFO.{INTERACTIVE}"),
    ("gateway", "$JS.API.STREAM.INFO.QUOTA"),
    ("dev", "request.dev.m.interactive"),
    ("admin", routes.kv_subject("models", "m")),
    ("admin", routes.kv_subject("keys", "k")),
    ("gateway", "$JS.API.CONSUMER.INFO.REQUEST.gateway_interactive"),
    ("worker", f"$JS.API.CONSUMER.INFO.{INTERACTIVE}.m_0"),
    ("worker", "$JS.API.DIRECT.GET.PAY"),
    ("worker", "$JS.API.DIRECT.GET.DELTAS"),
    ("gateway", "$JS.API.DIRECT.GET.DELTAS"),
    ("gateway", "$JS.API.DIRECT.GET.PAY"),
    ("gateway", "$JS.API.DIRECT.GET.KV_keys.$KV.keys.k"),
    ("worker", "$JS.API.DIRECT.GET.KV_models.$KV.models.m"),
    ("admin", "$JS.API.STREAM.INFO.KV_models"),
]


JETSTREAM += [
    ("worker", routes.kv_subject("turns", "s.m")),
    ("worker", "$JS.API.DIRECT.GET.KV_turns.$KV.turns.s.m"),
    ("worker", routes.usage("dev", "m")),
    ("worker", "$JS.API.DIRECT.GET.USAGE"),
    ("ledger", "$JS.API.DIRECT.GET.USAGE"),
    ("ledger", routes.kv_subject("totals", "dev.x")),
    ("ledger", routes.kv_subject("ledger", "place")),
    ("ledger", "$JS.API.DIRECT.GET.KV_totals.$KV.totals.dev.x"),
    ("admin", "$JS.API.DIRECT.GET.USAGE"),
    ("admin", "$JS.API.DIRECT.GET.KV_totals"),
    ("admin", routes.kv_subject("prices", "m")),
    ("gateway", "$JS.API.DIRECT.GET.KV_totals"),
    ("batch", BATCH_WORK),
    ("batch", CHUNK),
    ("batch", routes.batch_part("dev", "j", 2)),
    ("batch", routes.kv_subject("jobs", "dev.j")),
    ("batch", routes.kv_subject("files", "dev.f")),
    ("batch", routes.results("dev", "b")),
    ("batch", "pay.dev.b.0"),
    ("batch", routes.event("batch", routes.FACT_REQUEST_CANCELLED)),
    ("batch", "$JS.API.DIRECT.GET.KV_jobs.$KV.jobs.dev.j"),
    ("batch", "$JS.API.DIRECT.GET.BATCH_PARTS"),
    ("batch", f"$JS.API.DIRECT.GET.{routes.stream_infer('local', 'llm', 'batch')}"),
    ("batch", "$JS.API.DIRECT.GET.PAY"),
    ("batch", routes.kv_subject("slots", "dev.b")),
    ("batch", routes.kv_subject("outstanding", "b")),
]


@pytest.mark.parametrize(("role", "subject"), MAY_NOT_PUBLISH)
async def test_refused_to_publish(roles: dict[str, Role], role: str, subject: str) -> None:
    await roles[role].publish(subject)
    await roles[role].told_of(f'publish to "{subject}"')


@pytest.mark.parametrize(("role", "subject"), MAY_NOT_READ)
async def test_refused_to_read(roles: dict[str, Role], role: str, subject: str) -> None:
    await roles[role].subscribe(subject)
    await roles[role].told_of(f'subscription to "{subject}"')


@pytest.mark.parametrize(("role", "subject", "reader"), MAY)
async def test_allowed_between_roles(roles: dict[str, Role], role: str, subject: str, reader: str) -> None:
    seen = await roles[reader].subscribe(subject)
    await roles[role].publish(subject)
    await eventually(lambda: len(seen) == 1)
    assert roles[role].violations == roles[reader].violations == []


@pytest.mark.parametrize(("role", "subject"), JETSTREAM)
async def test_jetstream_answers(roles: dict[str, Role], role: str, subject: str) -> None:
    answer = await roles[role].nc.request(subject, b"", timeout=2)
    assert answer.subject.startswith(f"_INBOX_{role}.")
    if answer.data:
        assert "error" not in json.loads(answer.data)
    assert roles[role].violations == []


async def test_worker_pulls_work_and_either_side_settles_it(roles: dict[str, Role]) -> None:
    gateway, worker = roles["gateway"], roles["worker"]
    await roles["operator"].nc.request(f"$JS.API.STREAM.PURGE.{INTERACTIVE}", timeout=2)
    inbox = "_INBOX_worker.pull"
    seen = await worker.subscribe(inbox)
    await gateway.nc.request(WORK, b"{}", timeout=2)
    await worker.nc.publish(f"{_NEXT}.{INTERACTIVE}.m_0", b'{"batch":2,"expires":5000000000}', reply=inbox)
    await eventually(lambda: len(seen) == 1)
    await gateway.nc.publish(seen[0].reply, b"-NAK")
    await eventually(lambda: len(seen) == 2)  # redelivered at once: the gateway nak'ed for the worker
    acknowledged = await worker.nc.request(seen[1].reply, b"+ACK", timeout=2)
    assert acknowledged.data == b""
    assert gateway.violations == worker.violations == []


async def test_gateway_pulls_the_door(roles: dict[str, Role]) -> None:
    gateway = roles["gateway"]
    await roles["operator"].nc.request("$JS.API.STREAM.PURGE.REQUEST", timeout=2)
    inbox = "_INBOX_gateway.pull"
    seen = await gateway.subscribe(inbox)
    await roles["dev"].nc.request("request.dev.m.interactive", b"{}", timeout=2)
    await gateway.nc.publish(f"{_NEXT}.REQUEST.gateway_interactive", b'{"batch":1,"expires":5000000000}', reply=inbox)
    await eventually(lambda: len(seen) == 1)
    assert (await gateway.nc.request(seen[0].reply, b"+ACK", timeout=2)).data == b""
    assert gateway.violations == []


_DIRECTORY = "$JS.API.CONSUMER.CREATE.KV_directory"


@pytest.mark.parametrize("below", ["", ".x", ".x.$KV.directory.>", ".x.$KV.directory.user.>", ".x.$KV.directory.*.dev"])
async def test_a_worker_watches_nothing_of_the_directory_but_organisations(roles: dict[str, Role], below: str) -> None:
    await roles["worker"].publish(_DIRECTORY + below)
    await roles["worker"].told_of(f'publish to "{_DIRECTORY}{below}"')


@pytest.mark.parametrize(
    "filters",
    [
        {"filter_subject": "$KV.directory.>"},
        {"filter_subjects": ["$KV.directory.org.>", "$KV.directory.user.>"]},
        {},
        {"filter_subject": "$KV.directory.org.>"},
    ],
)
async def test_what_a_worker_asks_of_the_directory_is_what_its_subject_says(
    roles: dict[str, Role], filters: dict[str, object]
) -> None:
    worker = roles["worker"]
    config = {"name": "x", "deliver_subject": "_INBOX_worker.d", "ack_policy": "none", "inactive_threshold": 10**10}
    request = {"stream_name": "KV_directory", "config": config | filters}
    answer = await worker.nc.request(f"{_DIRECTORY}.x.$KV.directory.org.>", json.dumps(request).encode(), timeout=2)
    assert ("error" in json.loads(answer.data)) == (filters != {"filter_subject": "$KV.directory.org.>"})
    assert worker.violations == []


@pytest.mark.parametrize(("asker", "verb"), [("gateway", "model"), ("admin", "triton")])
async def test_a_worker_answers_who_asks_about_its_server_and_nobody_else(
    roles: dict[str, Role], asker: str, verb: str
) -> None:
    """Once, and by the one subscription that takes them: a second one would use up the right to answer."""
    worker = roles["worker"]

    async def answer(message: Msg) -> None:
        await worker.nc.publish(message.reply, b"here")

    await worker.nc.subscribe("control.triton-0.*", cb=answer)
    await worker.nc.flush()
    await worker.nc.flush()
    for _ in range(3):
        assert (await roles[asker].nc.request(f"control.triton-0.{verb}", b"{}", timeout=2)).data == b"here"
    assert worker.violations == []
    await worker.publish(f"_INBOX_{asker}.somebody")
    await worker.told_of(f'publish to "_inbox_{asker}.somebody"')


async def test_a_worker_answers_what_is_delivered_directly_and_only_the_gateway_delivers(
    roles: dict[str, Role],
) -> None:
    worker, subject = roles["worker"], routes.direct(region="local", runtime="triton", pool="m", tenant="dev")

    async def answer(message: Msg) -> None:
        await worker.nc.publish(message.reply, b"done")

    pool = routes.direct_pool(region="local", runtime="triton", pool="m")
    await worker.nc.subscribe(pool, queue=routes.QUEUE_DIRECT, cb=answer)
    await worker.nc.flush()
    await worker.nc.flush()
    assert (await roles["gateway"].nc.request(subject, b"{}", timeout=2)).data == b"done"
    assert worker.violations == []
    for role in ("worker", "dev", "admin"):
        await roles[role].publish(subject)
        await roles[role].told_of(f'publish to "{subject}"')
    await roles["gateway"].subscribe(pool)
    await roles["gateway"].told_of(f'subscription to "{pool}"')
