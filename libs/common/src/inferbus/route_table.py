"""The route table: every conversation on the bus, a row each. docs/asyncapi.json is made of it; `routes` builds the subjects."""

from __future__ import annotations

import msgspec

from inferbus.contracts import control, durable, step
from inferbus.contracts.audit import AdminChanged
from inferbus.contracts.batch import ChunkSpec, PartRecord
from inferbus.contracts.budgets import BudgetThreshold
from inferbus.contracts.envelope import Envelope
from inferbus.contracts.facts import RequestCancelled
from inferbus.contracts.features import GetAnswer, GetRequest, ManageReply, ManageRequest, PushMessage
from inferbus.contracts.predictions import PredictionLogged
from inferbus.contracts.presence import Presence
from inferbus.contracts.shares import ShareFreed, ShareWanted
from inferbus.contracts.usage import UsageEvent
from inferbus.contracts.vector_search import SearchRequest
from inferbus.contracts.vectors import DocumentsFailed, IndexMessage
from inferbus.contracts.watchlists import WatchHit


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One row: who sends what to whom, and how the bus carries it. `docs/asyncapi.json` is generated from these."""

    name: str
    subject: str
    transport: str  # "jetstream" or "core"
    sender: str
    receiver: str
    summary: str
    payload: type | None = None
    headers: type | None = None


ROUTES: tuple[Route, ...] = (
    Route(name="request", subject="request.{tenant}.{model}.{lane}", transport="jetstream", sender="producer", receiver="gateway", summary="A producer's request; the body is the API body, the headers are contracts.door's."),
    Route(name="reply", subject="reply.{tenant}.{client}", transport="core", sender="gateway", receiver="producer", summary="The answer: plain JSON with Ib-Status, Ib-Seq and Ib-End."),
    Route(name="infer", subject="infer.{region}.{runtime}.{pool}.{lane}.{bucket}.{tenant}", transport="jetstream", sender="gateway", receiver="worker", summary="Work; the body is raw, the envelope is in the headers. With Ib-Rows the body is rows of a batch (msgpack, contracts.groups).", headers=Envelope),
    Route(name="direct", subject="direct.{region}.{runtime}.{pool}.{tenant}", transport="core", sender="gateway", receiver="worker", summary="Work for one of a pool's workers, at most once: as infer, but in no stream. The reply is an array of one frame, finished or error (msgpack); an error that is not final says that another may be asked.", headers=Envelope),
    Route(name="step", subject="step.{asker}", transport="core", sender="worker", receiver="gateway", summary="An array of step frames (msgpack), one message per tick.", payload=step.Frame),  # type: ignore[arg-type]  # a union, which msgspec takes
    Route(name="control", subject="control.{worker}.{verb}", transport="core", sender="gateway, operator", receiver="worker, every process", summary="confirm, resend, stale, cancel, expire, drop to a worker; drain, an operator's, to any process (msgpack). triton (an operator's), model (a gateway's): a request to a worker, contracts.triton, answered (JSON).", payload=control.Control),
    Route(name="cancel", subject="cancel.{tenant}.{request}", transport="core", sender="producer, gateway", receiver="gateway", summary="Cancel a request; the gateway that owns it acts, and answers another gateway. No body."),
    Route(name="presence", subject="presence.{region}.{process}", transport="core", sender="every process", receiver="every process", summary="A beat every 0.5 s (JSON).", payload=Presence),
    Route(name="pay", subject="pay.{tenant}.{ticket}.{n}", transport="jetstream", sender="gateway", receiver="worker", summary="A chunk of a body over the inline limit; raw bytes, per-message TTL."),
    Route(name="deltas", subject="deltas.{tenant}.{request}", transport="jetstream", sender="worker", receiver="gateway", summary="What is kept of a durable answer while it is made; each write names the sequence of the one before (msgpack).", payload=durable.DeltaMessage),  # type: ignore[arg-type]  # a union, which msgspec takes
    Route(name="results", subject="results.{tenant}.{request}", transport="jetstream", sender="worker, gateway", receiver="gateway", summary="The one outcome of a durable request: the answer's bytes; status, usage, error and the rest in headers. Of a group of rows: what became of each (msgpack, contracts.groups)."),
    Route(name="stored", subject="stored.{stream}.{tenant}.{request}", transport="core", sender="nats-server", receiver="gateway", summary="Deltas and outcomes again, in the order they were stored in, as soon as they are; headers Nats-Sequence, Nats-Last-Sequence."),
    Route(name="fetch", subject="fetch.{tenant}.{request}", transport="core", sender="producer", receiver="gateway", summary="Send a durable request's answer to Ib-Reply, from the event after Ib-After; one gateway acts. No body."),
    Route(name="dlq", subject="dlq.{subject}", transport="jetstream", sender="gateway, worker", receiver="operator", summary="A dead letter: the message as it was, with the reason in its headers."),
    Route(name="events", subject="events.{service}.{fact}", transport="jetstream", sender="gateway, worker", receiver="operator", summary="A fact: what happened, stored once (JSON).", payload=RequestCancelled | BudgetThreshold | DocumentsFailed | WatchHit | PredictionLogged),  # type: ignore[arg-type]  # a union, which msgspec takes
    Route(name="usage", subject="usage.{tenant}.{pool}", transport="jetstream", sender="worker", receiver="ledger", summary="What one request took, told once (JSON); what the rows of a batch's group took as an array.", payload=UsageEvent),
    Route(name="batch.chunk", subject="batch.chunk.{tenant}.{job}.{plan}", transport="jetstream", sender="batch", receiver="batch", summary="Some lines of a job's input, to be asked and committed (JSON).", payload=ChunkSpec),
    Route(name="batch.part", subject="batch.part.{tenant}.{job}.{n}", transport="jetstream", sender="batch", receiver="batch, gateway", summary="The one committed result of a chunk; a second one is refused (JSON).", payload=PartRecord),
    Route(name="vectors.index", subject="vectors.index.{tenant}.{collection}", transport="jetstream", sender="producer, gateway, batch", receiver="vectors", summary="Documents for a collection, put in or taken out in this order (JSON); headers contracts.vectors'.", payload=IndexMessage),
    Route(name="vectors.search", subject="vectors.search.{tenant}.{collection}", transport="core", sender="producer, gateway, batch", receiver="vectors", summary="A search, answered by one of the service's processes with hits or a refusal (JSON).", payload=SearchRequest),
    Route(name="vectors.manage", subject="vectors.manage.{tenant}.{verb}", transport="core", sender="gateway", receiver="vectors", summary="Something about a tenant's collections, contracts.vector_manage, answered (JSON)."),
    Route(name="vectors.watch", subject="vectors.watch.{tenant}.{verb}", transport="core", sender="gateway, producer", receiver="vectors", summary="Something about a tenant's watchlists or dead letters, contracts.watchlists, answered (JSON); a producer may only match."),
    Route(name="audit", subject="audit.{tenant}.{fact}", transport="jetstream", sender="operator", receiver="operator", summary="A change an operator makes, stored before it is made (JSON).", payload=AdminChanged),
    Route(name="quota", subject="quota.{span}.{tenant}.{what}.{window}", transport="jetstream", sender="gateway", receiver="gateway", summary="A counter of a window: header Nats-Incr adds to it, the acknowledgement has its value. No body."),
    Route(name="quota.wanted", subject="quota.wanted.{tenant}", transport="core", sender="gateway", receiver="gateway", summary="A counter is used up, and one holder of shares needs more of it; the others give back what they have free (JSON).", payload=ShareWanted),
    Route(name="quota.freed", subject="quota.freed.{holder}", transport="core", sender="gateway", receiver="gateway", summary="To a holder that called: so much has been given back to the counter, or nothing was free (JSON).", payload=ShareFreed),
    Route(name="features.get", subject="features.get.{tenant}.{service}", transport="core", sender="gateway, worker, producer", receiver="features", summary="Rows of a feature service, and the answer in its reply (JSON); one features process of a queue group takes it.", payload=GetRequest | GetAnswer),  # type: ignore[arg-type]  # a union, which msgspec takes
    Route(name="features.push", subject="features.push.{tenant}.{source}", transport="jetstream", sender="gateway, producer", receiver="features", summary="Rows for a push source (JSON).", payload=PushMessage),
    Route(name="features.manage", subject="features.manage.{tenant}.{verb}", transport="core", sender="gateway, operator", receiver="features", summary="An operation on features, answered in its reply (JSON).", payload=ManageRequest | ManageReply),  # type: ignore[arg-type]  # a union, which msgspec takes
)  # fmt: skip
