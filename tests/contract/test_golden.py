"""The bytes of wire version 1: today's code reads them as it always did, and writes the same.

A field more at the end changes a row; the shorter form must go on being read and gets a row below. Any other change is
a new version with rows of its own.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from inferbus.bus.tickets import Ticket, ticket_from
from inferbus.codec import pack, unpacker
from inferbus.contracts.audit import AdminChanged
from inferbus.contracts.batch import BodyRef, ChunkSpec, DeadRow, JobRecord, LineFault, PartRecord, Pause
from inferbus.contracts.budgets import BudgetThreshold
from inferbus.contracts.control import Control, ControlItem
from inferbus.contracts.directory import Organisation, Team
from inferbus.contracts.durable import Claim, Deltas, DurableRequest, IdempotencyKey, StoredDelta
from inferbus.contracts.envelope import Envelope, envelope_from, headers_of
from inferbus.contracts.facts import RequestCancelled
from inferbus.contracts.features import (
    Catalogue,
    EntityRecord,
    FeatureColumn,
    FeatureFault,
    FeatureJob,
    GetAnswer,
    GetRequest,
    ManageReply,
    PushAnswer,
    PushMessage,
    RowFault,
    ServiceRecord,
)
from inferbus.contracts.files import FileRecord
from inferbus.contracts.groups import GroupRow, RowAnswer
from inferbus.contracts.keys import KeyEntry
from inferbus.contracts.limits import LimitSet
from inferbus.contracts.models import Buckets, Limits, ModelEntry
from inferbus.contracts.outstanding import Outstanding
from inferbus.contracts.predictions import PredictedTensor, PredictionLogged
from inferbus.contracts.presence import EngineStats, Presence
from inferbus.contracts.prices import Price
from inferbus.contracts.shares import ShareFreed, ShareWanted
from inferbus.contracts.slots import SlotShares
from inferbus.contracts.step import Answer, Ask, Delta, Failed, Finished, Frame, Started, Usage
from inferbus.contracts.triton import TritonAsk, TritonReply
from inferbus.contracts.turns import ModelTurn
from inferbus.contracts.usage import Figures, LedgerPlace, Total, UsageEvent, events_in
from inferbus.contracts.vector_manage import BackupFile, Backups, Erased
from inferbus.contracts.vector_search import Filter, Hit, SearchAnswer, SearchRequest, VectorsRefused
from inferbus.contracts.vector_stores import StoreFile, StoreRecord
from inferbus.contracts.vectors import (
    AliasRecord,
    CollectionRecord,
    Document,
    DocumentFault,
    DocumentsFailed,
    IndexMessage,
    IndexReport,
    Placement,
    Reindexing,
)
from inferbus.contracts.vectors import Field as VectorField
from inferbus.contracts.watchlists import WatchHit, Watchlist

RUN = 0x12345678
FRAMES: list[tuple[Frame, str]] = [
    (
        Started(7, 2, 0, "$JS.ACK.S.C.2.41.3.1763750000000000000.5", "llm-0", "0a1b2c", RUN, 1763750001, "f0", 5),
        (
            "9b000702 00 d928 244a532e41434b2e532e432e322e34312e332e313736333735303030303030303030303030302e35"
            "a5 6c6c6d2d30 a6 306131623263 ce12345678 ce6920b071 a2 6630 05"
        ),
    ),
    (
        Delta(7, 2, 1, [(0, [15496, 11]), (1, [9906])], b"data: {}\n\n", RUN, [(1, "stop", "x")], (3, None)),
        (
            "99 01 07 02 01 92 92 00 92 cd3c88 0b 92 01 91 cd26b2 c40a 646174613a207b7d0a0a"
            "ce12345678 91 93 01 a4 73746f70 a1 78 92 03 c0"
        ),
    ),
    (
        Finished(7, 2, 2, 200, Usage(12, 300, 4), b"", "text/event-stream", RUN),
        "9a 02 07 02 02 ccc8 93 0c cd012c 04 c400 b1 746578742f6576656e742d73747265616d ce12345678 a0",
    ),
    (
        Finished(7, 1, 1, 400, Usage(), b"{}"),
        "9a 02 07 01 01 cd0190 93 00 00 00 c402 7b7d b0 6170706c69636174696f6e2f6a736f6e 00 a0",
    ),
    (
        Failed(70000, 1, 1, "engine_dead", "boom", False, 9),
        "98 03 ce00011170 01 01 ab 656e67696e655f64656164 a4 626f6f6d c2 09",
    ),
    (Ask(7, 3, 0, "r1"), "95 04 07 03 00 a2 7231"),
]
OTHERS: list[tuple[Any, str]] = [
    (
        Claim(RUN, 77, 2, "llm-0", 41, 2, 1763750001, "f0", "0a", "$JS.ACK.S"),
        "9b 00 ce12345678 4d 02 a5 6c6c6d2d30 29 02 ce6920b071 a2 6630 a2 3061 a9 244a532e41434b2e53",
    ),
    (
        Deltas(RUN, 77, [StoredDelta(2, [(0, [15496, 11])], b"data: {}\n\n", [(0, "stop", None)], (3, None))]),
        (
            "94 01 ce12345678 4d 91 95 02 91 92 00 92 cd3c88 0b c40a 646174613a207b7d0a0a"
            "91 93 00 a4 73746f70 c0 92 03 c0"
        ),
    ),
    (Answer("fresh"), "99 a5 6672657368 00 c2 90 90 90 c0 00 a0"),
    (
        Answer("continue", 2, True, [(0, [1, 2])], [[3, 4]], [(0, "stop", None)], (0, None), 1763750001, "f0"),
        (
            "99 a8 636f6e74696e7565 02 c3 91 92 00 92 01 02 91 92 03 04 91 93 00 a4 73746f70 c0"
            "92 00 c0 ce6920b071 a2 6630"
        ),
    ),
    (
        Control("a1", [ControlItem(7, 2), ControlItem(8, 0, 5, RUN)]),
        "92 a2 6131 92 94 07 02 00 00 94 08 00 05 ce12345678",
    ),
    (GroupRow("batch_1-7", b"{}", 16), "93 a9 62617463685f312d37 c402 7b7d 10"),
    (
        RowAnswer("batch_1-7", "answered", 200, Usage(12, 16, 4), b"{}", "application/json", 0.5, 0.25),
        (
            "98 a9 62617463685f312d37 a8 616e737765726564 ccc8 93 0c 10 04 c402 7b7d b0 6170706c69636174696f6e2f6a736f6e"
            "cb3fe0000000000000 cb3fd0000000000000"
        ),
    ),
    (
        RowAnswer("batch_1-7", "given_back"),
        "98 a9 62617463685f312d37 aa 676976656e5f6261636b 00 93 00 00 00 c400 a0 cb0000000000000000 cb0000000000000000",
    ),
]
JSON: list[tuple[Any, bytes]] = [
    (
        Presence(process="llm-0", role="worker", incarnation="0a", region="local", state="ready", pools=["m"]),
        (
            b'{"type":"presence.beat.v1","process":"llm-0","role":"worker","incarnation":"0a","region":"local",'
            b'"state":"ready","in_flight":0,"slots":0,"pools":["m"],"pending":0,"pid":0,"health_port":0,"asker":"",'
            b'"wire_versions":[1],"engine":null,"pending_batch":0,"every":1}'
        ),
    ),
    (
        Presence(
            process="llm-0",
            role="worker",
            incarnation="0a",
            region="local",
            state="engine_down",
            engine=EngineStats(running=1, kv_cache_usage=0.5),
        ),
        (
            b'{"type":"presence.beat.v1","process":"llm-0","role":"worker","incarnation":"0a","region":"local",'
            b'"state":"engine_down","in_flight":0,"slots":0,"pools":[],"pending":0,"pid":0,"health_port":0,"asker":"",'
            b'"wire_versions":[1],"engine":{"running":1,"waiting":0,"kv_cache_usage":0.5,"prefix_cache_hit_rate":0.0,'
            b'"generated_tokens":0,"restarts":0},"pending_batch":0,"every":1}'
        ),
    ),
    (
        KeyEntry(id="k1", tenant="dev", mac="ff", name="ci", created=1763750000),
        (
            b'{"type":"keys.entry.v1","id":"k1","tenant":"dev","mac":"ff","name":"ci","created":1763750000,'
            b'"disabled":false,"lanes":["interactive","batch"],"team":"","user":"","models":[],"endpoints":[],'
            b'"max_tokens":0,"priority":0,"expires":0,"previous_mac":"","previous_until":0}'
        ),
    ),
    (
        ModelEntry(
            name="org/m", pool="m", aliases=["chat"], limits=Limits(max_pending=9),
            buckets=Buckets(count=2, pinned={"acme": 1}, weights={"acme": 3}),
        ),
        (
            b'{"name":"org/m","pool":"m","runtime":"llm","aliases":["chat"],"tasks":["chat","completions"],'
            b'"buckets":{"count":2,"by":"tenant","pinned":{"acme":1},"weights":{"acme":3}},"limits":{"max_pending":9,"max_pending_per_tenant":1024,'
            b'"max_body_bytes":33554432,"default_deadline_s":600.0,"default_deadline_batch_s":86400.0},'
            b'"created":0,"owned_by":"inferbus","tags":[],"delivery":"durable","server_name":""}'
        ),
    ),
    (
        RequestCancelled(
            request_id="r1", tenant="dev", pool="m", reason="cancelled", phase="decode", attempt=2, streamed=True,
            prompt_tokens=12, completion_tokens=7,
        ),
        (
            b'{"type":"request.cancelled.v1","request_id":"r1","tenant":"dev","pool":"m","reason":"cancelled",'
            b'"phase":"decode","attempt":2,"streamed":true,"prompt_tokens":12,"completion_tokens":7}'
        ),
    ),
    (
        DurableRequest(
            request_id="r1", digest="d", path="/v1/chat/completions", model="m", streamed=True, created=1.5,
            deadline_at=2.5, asker="a1",
        ),
        (
            b'{"type":"durable.request.v1","request_id":"r1","digest":"d","path":"/v1/chat/completions","model":"m",'
            b'"streamed":true,"created":1.5,"deadline_at":2.5,"asker":"a1"}'
        ),
    ),
    (
        IdempotencyKey(request_id="r1", digest="d"),
        b'{"type":"durable.idempotency.v1","request_id":"r1","digest":"d"}',
    ),
    (
        Price(input=150_000, output=600_000, cached=75_000, version="3", model="org/m"),
        b'{"type":"prices.price.v1","input":150000,"output":600000,"cached":75000,"version":"3","model":"org/m"}',
    ),
    (
        UsageEvent(
            request_id="r1", tenant="dev", key_id="k1", team="core", user="ann", model="org/m", pool="m", version="",
            task="chat", lane="interactive", prompt_tokens=12, completion_tokens=7, cached_tokens=4, queue_s=0.25,
            engine_s=1.5, cost=6, price_version="3", outcome="finished", trace_id="0af7", at=1763750001.5,
        ),
        (
            b'{"type":"usage.event.v1","request_id":"r1","tenant":"dev","key_id":"k1","team":"core","user":"ann",'
            b'"model":"org/m","pool":"m","version":"","task":"chat","lane":"interactive","prompt_tokens":12,'
            b'"completion_tokens":7,"cached_tokens":4,"queue_s":0.25,"engine_s":1.5,"cost":6,"price_version":"3",'
            b'"outcome":"finished","trace_id":"0af7","at":1763750001.5,"wasted_tokens":0,"requests":1}'
        ),
    ),
    (
        Total(
            tenant="dev", team="core", key_id="k1", model="org/m", day="2026-11-22", upto=41,
            figures=Figures(requests=2, prompt_tokens=24, completion_tokens=14, cached_tokens=4, cost=12),
        ),
        (
            b'{"type":"usage.total.v1","tenant":"dev","team":"core","key_id":"k1","model":"org/m","day":"2026-11-22",'
            b'"figures":{"requests":2,"prompt_tokens":24,"completion_tokens":14,"cached_tokens":4,"wasted_tokens":0,'
            b'"cost":12},"upto":41}'
        ),
    ),
    (
        LedgerPlace(upto=41, by="0a", stream="2026-11-22T00:00:00Z"),
        b'{"type":"usage.place.v1","upto":41,"by":"0a","stream":"2026-11-22T00:00:00Z"}',
    ),
    (
        Team(id="red", tenant="dev", models=("tag:small",), max_tokens=5),
        (
            b'{"type":"directory.team.v1","id":"red","tenant":"dev","name":"","created":0,"disabled":false,'
            b'"lanes":["interactive","batch"],"models":["tag:small"],"endpoints":[],"max_tokens":5,"priority":0}'
        ),
    ),
    (
        JobRecord(
            id="batch_1", tenant="dev", endpoint="/v1/completions", input_file_id="file-1", created=1.5, expires_at=9.5,
            paused=Pause(reason="user"),
        ),
        (
            b'{"type":"batch.job.v1","id":"batch_1","tenant":"dev","endpoint":"/v1/completions","input_file_id":"file-1",'
            b'"created":1.5,"expires_at":9.5,"completion_window":"24h","key_id":"","metadata":{},"model":"","priority":0,'
            b'"quiet_hours":"","retry_of":"","state":"validating","ending":"",'
            b'"paused":{"reason":"user","message":"","at":0.0},"owner":"","plan":"","chunks":0,"parts":0,"input":null,'
            b'"counts":{"total":0,"completed":0,"failed":0},"spent":{"prompt_tokens":0,"completion_tokens":0,'
            b'"cached_tokens":0,"wasted_tokens":0},"errors":[],"output_file_id":"","error_file_id":"","since":{},'
            b'"keep_until":0.0,"dead_file_id":"","traceparent":"","output_expires_s":0}'
        ),
    ),
    (
        ChunkSpec(
            job="batch_1", plan="p", n=0, first_line=1, lines=3, rows=2, offset=0, bytes=90, sha256="ff",
            faults=[LineFault(2, "invalid_request", "no JSON")],
        ),
        (
            b'{"type":"batch.chunk.v1","job":"batch_1","plan":"p","n":0,"first_line":1,"lines":3,"rows":2,"offset":0,'
            b'"bytes":90,"sha256":"ff","faults":[[2,"invalid_request","no JSON"]],"unread":false}'
        ),
    ),
    (
        PartRecord(
            job="batch_1", plan="p", n=0, first_line=1, rows=2, completed=1, failed=1,
            output=BodyRef(body="b", bytes=5, sha256="ff", rows=1),
        ),
        (
            b'{"type":"batch.part.v1","job":"batch_1","plan":"p","n":0,"first_line":1,"rows":2,"completed":1,"failed":1,'
            b'"spent":{"prompt_tokens":0,"completion_tokens":0,"cached_tokens":0,"wasted_tokens":0},'
            b'"output":{"body":"b","bytes":5,"sha256":"ff","rows":1},"dead":null,"taken":0,"attempt":1,"worker":""}'
        ),
    ),
    (
        DeadRow(line=3, custom_id="a", request_id="batch_1-3", code="not_found", message="no", original="{}"),
        (
            b'{"line":3,"custom_id":"a","request_id":"batch_1-3","code":"not_found","message":"no","attempts":0,'
            b'"status":0,"body":null,"original":"{}"}'
        ),
    ),
    (
        Organisation(id="dev", tenant="dev", lanes=("batch",), weight=4),
        (
            b'{"type":"directory.organisation.v1","id":"dev","tenant":"dev","name":"","created":0,"disabled":false,'
            b'"lanes":["batch"],"models":[],"endpoints":[],"max_tokens":0,"priority":0,"weight":4}'
        ),
    ),
    (
        FileRecord(
            id="file-0a", tenant="dev", purpose="batch", filename="in.jsonl", bytes=12, sha256="ff",
            body="files/dev/file-0a", created_at=1763750000, key_id="k1",
        ),
        (
            b'{"type":"files.record.v1","id":"file-0a","tenant":"dev","purpose":"batch","filename":"in.jsonl","bytes":12,'
            b'"sha256":"ff","body":"files/dev/file-0a","created_at":1763750000,"expires_at":0,"rows":0,"key_id":"k1","job":""}'
        ),
    ),
    (
        LimitSet(tokens_per_minute=1000),
        (
            b'{"requests_per_minute":0,"tokens_per_minute":1000,"concurrent":0,"tokens_per_day":0,"money_per_month":0}'
        ),
    ),
    (
        AdminChanged(
            id="c1", at=1.5, actor="cli:ann@host", action="key_created", target="k1", tenant="dev", request_id="r1",
            after={"id": "k1"},
        ),
        (
            b'{"type":"admin.changed.v1","id":"c1","at":1.5,"actor":"cli:ann@host","action":"key_created",'
            b'"target":"k1","tenant":"dev","request_id":"r1","before":null,"after":{"id":"k1"},"void":""}'
        ),
    ),
    (
        Outstanding(until=1763750060.5, since=1763750000.0, next_tag=9, open=[7], shares={"quota.day.dev.org-tpd.1": 5}),
        (
            b'{"type":"quota.outstanding.v1","until":1763750060.5,"since":1763750000.0,"next_tag":9,"open":[7],'
            b'"shares":{"quota.day.dev.org-tpd.1":5},"claimed_by":""}'
        ),
    ),
    (
        TritonAsk(op="load", model="m", config="{}"),
        b'{"type":"triton.ask.v1","op":"load","model":"m","config":"{}"}',
    ),
    (
        TritonAsk(op="load", model="m", operation="0a1b"),
        b'{"type":"triton.ask.v1","op":"load","model":"m","operation":"0a1b"}',
    ),
    (
        ModelTurn(model="m", holder="triton-0-1", until=1763750000.5, heals=2, operation="0a1b"),
        b'{"type":"triton.turn.v1","model":"m","holder":"triton-0-1","until":1763750000.5,"heals":2,"operation":"0a1b"}',
    ),
    (
        TritonReply(status=400, error="no such file"),
        b'{"type":"triton.reply.v1","status":400,"error":"no such file"}',
    ),
    (
        SlotShares(holders={"a1": (3, 1763750000.5)}),
        b'{"type":"quota.slots.v1","holders":{"a1":[3,1763750000.5]}}',
    ),
    (
        ShareWanted(counter="quota.minute.dev.key-k1-tpm.29395833", amount=129, holder="a1", call=3),
        (
            b'{"type":"quota.wanted.v1","counter":"quota.minute.dev.key-k1-tpm.29395833","amount":129,"holder":"a1","call":3}'
        ),
    ),
    (
        ShareFreed(counter="quota.minute.dev.key-k1-tpm.29395833", amount=99, holder="a2", call=3),
        (
            b'{"type":"quota.freed.v1","counter":"quota.minute.dev.key-k1-tpm.29395833","amount":99,"holder":"a2","call":3}'
        ),
    ),
    (
        BudgetThreshold(
            tenant="dev", scope="org.dev", limit_name="tokens_per_day", span="day", window=20414, percent=80,
            limit=1000, spent=801,
        ),
        (
            b'{"type":"budget.threshold.v1","tenant":"dev","scope":"org.dev","limit_name":"tokens_per_day","span":"day",'
            b'"window":20414,"percent":80,"limit":1000,"spent":801}'
        ),
    ),
    (
        GetRequest(entities={"user_id": 7, "item_id": [1, 2]}, features=["age"], max_age_s=60.0, ages=True),
        (
            b'{"type":"features.get.v1","entities":{"user_id":7,"item_id":[1,2]},"features":["age"],"max_age_s":60.0,'
            b'"ages":true}'
        ),
    ),
    (
        GetAnswer(
            service="ranking",
            rows=2,
            columns=[
                FeatureColumn(
                    name="age", kind="int64", values=[31, None], status=["stale", "missing"], age_s=[61.5, None]
                )
            ],
            revision="ff",
        ),
        (
            b'{"type":"features.answer.v1","service":"ranking","rows":2,"columns":[{"name":"age","kind":"int64",'
            b'"values":[31,null],"status":["stale","missing"],"age_s":[61.5,null]}],"revision":"ff"}'
        ),
    ),
    (
        GetAnswer(service="r", error=FeatureFault(code="not_found", message="no", param="service")),
        (b'{"type":"features.answer.v1","service":"r","error":{"code":"not_found","message":"no","param":"service"}}'),
    ),
    (
        PushMessage(rows=[{"user_id": 7, "ts": 1763750000, "clicks": 3}], id="p1"),
        b'{"type":"features.push.v1","rows":[{"user_id":7,"ts":1763750000,"clicks":3}],"id":"p1"}',
    ),
    (
        ManageReply(data={"ok": True}),
        b'{"type":"features.reply.v1","data":{"ok":true}}',
    ),
    (
        Catalogue(
            project="p",
            revision="ff",
            entities=[EntityRecord(name="user", join_key="user_id", kind="int64")],
            services=[ServiceRecord(name="ranking", features=["user_stats:age"], join_keys={"user_id": "int64"})],
        ),
        (
            b'{"type":"features.catalogue.v1","project":"p","revision":"ff","entities":[{"name":"user",'
            b'"join_key":"user_id","kind":"int64"}],"services":[{"name":"ranking","features":["user_stats:age"],'
            b'"join_keys":{"user_id":"int64"}}]}'
        ),
    ),
    (
        IndexMessage(documents=[Document(id="d", text="t", version=3), Document(id="f", delete=True)]),
        (
            b'{"type":"vectors.index.v1","documents":[{"id":"d","text":"t","vector":null,"vector_b64":null,"p'
            b'ayload":{},"version":3,"delete":false,"expires_at":0.0,"chunking":null},{"id":"f","text":null,"vector":null,"ve'
            b'ctor_b64":null,"payload":{},"version":0,"delete":true,"expires_at":0.0,"chunking":null}]}'
        ),
    ),
    (
        CollectionRecord(id="c1", tenant="dev", name="docs", live=Placement(model="m", dimension=384), created=1.5, fields=[VectorField(name="lang")], reindexing=Reindexing(to=Placement(model="n", dimension=8))),
        (
            b'{"type":"vectors.collection.v1","id":"c1","tenant":"dev","name":"docs","live":{"model":"m","dim'
            b'ension":384,"distance":"cosine","generation":1},"created":1.5,"hybrid":false,"fields":[{"name":'
            b'"lang","type":"keyword"}],"chunking":{"max_chars":1000,"overlap_chars":0},"retention_s":0.0,"me'
            b'tadata":{},"state":"ready","reindexing":{"to":{"model":"n","dimension":8,"distance":"cosine","g'
            b'eneration":1},"state":"building","done":0,"total":0,"failed":0,"cursor":"","owner":"","started"'
            b':0.0,"updated":0.0,"error":"","passes":0,"repaired":0,"keep_s":30.0,"since":{},"key_id":""},"key_id":"","updated":0.0}'
        ),
    ),
    (
        AliasRecord(tenant="dev", alias="a", collection="docs"),
        (
            b'{"type":"vectors.alias.v1","tenant":"dev","alias":"a","collection":"docs","updated":0.0}'
        ),
    ),
    (
        IndexReport(tenant="dev", collection="docs", indexed=1, faults=[DocumentFault(n=0, id="d", code="too_large", message="no")]),
        (
            b'{"type":"vectors.report.v1","tenant":"dev","collection":"docs","indexed":1,"deleted":0,"stale":'
            b'0,"chunks":0,"tokens":0,"faults":[{"n":0,"id":"d","code":"too_large","message":"no","param":""}'
            b'],"error":"","message":""}'
        ),
    ),
    (
        DocumentsFailed(tenant="dev", collection="docs", sequence=7, count=1),
        (
            b'{"type":"vectors.documents_failed.v1","tenant":"dev","collection":"docs","sequence":7,"count":1'
            b',"faults":[]}'
        ),
    ),
    (
        SearchRequest(text="q", filter=Filter(type="and", filters=[Filter(type="eq", key="lang", value="en")])),
        (
            b'{"type":"vectors.search.v1","text":"q","vector":null,"vector_b64":null,"like":null,"limit":10,"'
            b'offset":0,"filter":{"type":"and","key":"","value":null,"filters":[{"type":"eq","key":"lang","va'
            b'lue":"en","filters":[]}]},"mode":"dense","threshold":null,"exact":false,"by_document":false,"re'
            b'rank":null,"with_payload":true,"with_text":true,"with_vector":false}'
        ),
    ),
    (
        SearchAnswer(collection="docs", hits=[Hit(id="d", score=0.5)]),
        (
            b'{"type":"vectors.found.v1","collection":"docs","hits":[{"id":"d","score":0.5,"chunk":0,"version'
            b'":0,"text":"","payload":{},"vector_b64":null}],"model":"","tokens":0,"took_s":0.0}'
        ),
    ),
    (
        VectorsRefused(code="not_found", message="no"),
        (
            b'{"type":"vectors.refused.v1","code":"not_found","message":"no","param":"","retry_after_s":0.0}'
        ),
    ),
    (
        Erased(chunks=2),
        (
            b'{"type":"vectors.erased.v1","chunks":2}'
        ),
    ),
    (
        PredictionLogged(
            request_id="r1", tenant="dev", model="ranker", version="2", at=1763750000.5, service="ranking",
            revision="ff", rows=1, entities={"user_id": 7}, context={},
            features=[FeatureColumn(name="age", kind="int64", values=[31])],
            outputs=[PredictedTensor(name="SCORE", datatype="FP32", shape=[1, 1], values=[0.5])],
        ),
        (
            b'{"type":"prediction.logged.v1","request_id":"r1","tenant":"dev","model":"ranker","version":"2",'
            b'"at":1763750000.5,"service":"ranking","revision":"ff","rows":1,"entities":{"user_id":7},"context":{},'
            b'"features":[{"name":"age","kind":"int64","values":[31]}],'
            b'"outputs":[{"name":"SCORE","datatype":"FP32","shape":[1,1],"values":[0.5]}]}'
        ),
    ),
    (
        FeatureJob(id="mat_1", tenant="JOBS", view="user_stats", paths=["a.parquet"], slices=4, done=1, rows=10,
                   state="running", owner="f-1", beat=5.0, attempts=1),
        (
            b'{"type":"features.job.v1","id":"mat_1","tenant":"JOBS","view":"user_stats","paths":["a.parquet"],'
            b'"slices":4,"done":1,"rows":10,"state":"running","owner":"f-1","beat":5.0,"attempts":1}'
        ),
    ),
    (
        PushAnswer(accepted=1, sequence=9,
                   refused=[RowFault(row=1, fault=FeatureFault(code="invalid_request", message="no", param="age"))]),
        (
            b'{"accepted":1,"sequence":9,"refused":[{"row":1,"fault":{"code":"invalid_request","message":"no",'
            b'"param":"age"}}],"checked":true}'
        ),
    ),
    (
        FeatureJob(id="mat_2", tenant="JOBS", view="user_now", paths=["a.parquet"], out="/data/windows"),
        (
            b'{"type":"features.job.v1","id":"mat_2","tenant":"JOBS","view":"user_now","paths":["a.parquet"],'
            b'"out":"/data/windows"}'
        ),
    ),
]  # fmt: skip
ENVELOPES: list[tuple[Envelope, dict[str, str]]] = [
    (
        Envelope(request_id="r1", tag_no=7, asker="a1", path="/v1/chat/completions", deadline_ms=600000),
        {
            "Ib-Version": "1",
            "Ib-Request": "r1",
            "Ib-Tag": "7",
            "Ib-Asker": "a1",
            "Ib-Path": "/v1/chat/completions",
            "Ib-Deadline-Ms": "600000",
        },
    ),
    (
        Envelope(
            request_id="r1",
            tag_no=7,
            asker="a1",
            path="/v1/chat/completions",
            deadline_ms=600000,
            streamed=True,
            content_type="text/plain",
            key_id="k1",
            price_version="p1",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            delivery="durable",
            idempotency_key="i1",
            ticket="t1;5;2;2000000;ff",
            model="m",
            team="core",
            user="ann",
            priority=-5,
            bound=4096,
            json_bytes=81,
            rows=16,
        ),
        {
            "Ib-Version": "1",
            "Ib-Request": "r1",
            "Ib-Tag": "7",
            "Ib-Asker": "a1",
            "Ib-Path": "/v1/chat/completions",
            "Ib-Deadline-Ms": "600000",
            "Ib-Stream": "1",
            "Ib-Content-Type": "text/plain",
            "Ib-Key": "k1",
            "Ib-Price": "p1",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "Ib-Delivery": "durable",
            "Ib-Idempotency-Key": "i1",
            "Ib-Ticket": "t1;5;2;2000000;ff",
            "Ib-Model": "m",
            "Ib-Team": "core",
            "Ib-User": "ann",
            "Ib-Priority": "-5",
            "Ib-Bound": "4096",
            "Ib-Json-Bytes": "81",
            "Ib-Rows": "16",
        },
    ),
]


JSON += [
    (
        Watchlist(
            tenant="t", name="bad", collection="bad", threshold=0.8, watched=["docs"], owns=True, created=1.0, key_id="k",
        ),
        (b'{"type":"vectors.watchlist.v1","tenant":"t","name":"bad","collection":"bad","threshold":0.8,"kind":"items",'
        b'"watched":["docs"],"owns":true,"metadata":{},"created":1.0,"key_id":"k"}'),
    ),
    (
        WatchHit(
            id="h", tenant="t", watchlist="bad", kind="items", item="i", item_excerpt="x", collection="docs", document="d",
            version=2, chunk=0, score=0.9, threshold=0.8, excerpt="y", at=1.0,
        ),
        (b'{"type":"vectors.watch_hit.v1","id":"h","tenant":"t","watchlist":"bad","kind":"items","item":"i",'
        b'"item_excerpt":"x","collection":"docs","document":"d","version":2,"chunk":0,"score":0.9,"threshold":0.8,'
        b'"excerpt":"y","at":1.0,"item_payload":{}}'),
    ),
    (
        StoreRecord(id="vs_1", tenant="t", model="m", created=1.0, name="n", expires_days=7, active=2.0),
        (b'{"type":"vectors.store.v1","id":"vs_1","tenant":"t","model":"m","created":1.0,"name":"n","description":"",'
        b'"metadata":{},"expires_days":7,"active":2.0,"key_id":"","emptied":0.0}'),
    ),
    (
        StoreFile(
            file_id="file-1", store="vs_1", tenant="t", created=1.0, filename="a.md", attributes={"k": "v"}, bytes=3,
            batch="vsfb_1",
        ),
        (b'{"type":"vectors.store_file.v1","file_id":"file-1","store":"vs_1","tenant":"t","created":1.0,'
        b'"filename":"a.md","status":"in_progress","attributes":{"k":"v"},"bytes":3,"chunks":0,"batch":"vsfb_1",'
        b'"updated":0.0,"error_code":"","error":"","chunking":null}'),
    ),
    (
        Backups(backups=[BackupFile(file_id="file-1", collection="docs", created=1.0, bytes=3)]),
        (b'{"type":"vectors.backups.v1","backups":[{"file_id":"file-1","collection":"docs","created":1.0,"bytes":3,'
        b'"expires_at":0.0}],"has_more":false}'),
    ),
]  # fmt: skip


def name_of(value: object) -> str:
    return type(value).__name__ if isinstance(value, msgspec.Struct) else ""


PACKED = [
    *((value, Frame, golden) for value, golden in FRAMES),
    *((value, type(value), golden) for value, golden in OTHERS),
]


@pytest.mark.parametrize(("value", "type_", "golden"), PACKED, ids=name_of)
def test_msgpack(value: msgspec.Struct, type_: Any, golden: str) -> None:
    data = bytes.fromhex(golden)
    assert pack(value).hex(" ") == data.hex(" ")
    assert unpacker(type_).decode(data) == value


def test_a_message_of_the_ledger_is_an_event_or_an_array_of_them() -> None:
    value, golden = next((value, golden) for value, golden in JSON if isinstance(value, UsageEvent))
    assert events_in(golden) == [value]
    assert events_in(b"[" + golden + b"," + golden + b"]") == [value, value]


def test_a_step_message_is_an_array_of_frames() -> None:
    data = b"\x96" + b"".join(bytes.fromhex(golden) for _, golden in FRAMES)
    frames = [frame for frame, _ in FRAMES]
    assert pack(frames) == data
    assert unpacker(list[Frame]).decode(data) == frames


@pytest.mark.parametrize(("value", "type_", "golden"), PACKED, ids=name_of)
def test_a_field_of_tomorrow_at_the_end_is_ignored(value: msgspec.Struct, type_: Any, golden: str) -> None:
    """And what is behind it is still read: the longer array stands in the middle of a message."""
    data = bytes.fromhex(golden)
    longer = bytes([data[0] + 1]) + data[1:] + b"\xa3new"
    assert unpacker(type_).decode(longer) == value
    assert unpacker(list[type_]).decode(b"\x92" + longer + data) == [value, value]


@pytest.mark.parametrize(
    ("type_", "golden", "value"),
    [
        (Frame, "97 00 07 02 00 a1 78 a1 77 a1 69", Started(7, 2, 0, "x", "w", "i")),
        (Frame, "96 01 07 02 01 91 92 00 91 0b c401 78", Delta(7, 2, 1, [(0, [11])], b"x")),
        (Frame, "97 02 07 01 01 cd0190 93 00 00 00 c402 7b7d", Finished(7, 1, 1, 400, Usage(), b"{}")),
        (
            Frame,
            "99 02 07 01 01 cd0190 93 00 00 00 c402 7b7d b0 6170706c69636174696f6e2f6a736f6e 09",
            Finished(7, 1, 1, 400, Usage(), b"{}", run=9),
        ),
        (Frame, "97 02 07 01 01 cd0190 91 05 c402 7b7d", Finished(7, 1, 1, 400, Usage(5), b"{}")),
        (Frame, "96 03 07 01 01 a1 78 a1 79", Failed(7, 1, 1, "x", "y")),
        (Answer, "91 a4 676f6e65", Answer("gone")),
        (
            Answer,
            "96 a8 636f6e74696e7565 02 c3 91 92 00 92 01 02 91 92 03 04 91 93 00 a4 73746f70 c0",
            Answer("continue", 2, True, [(0, [1, 2])], [[3, 4]], [(0, "stop", None)]),
        ),
        (Control, "92 a2 6131 91 92 07 02", Control("a1", [ControlItem(7, 2)])),
    ],
)
def test_fields_with_defaults_may_be_left_out(type_: Any, golden: str, value: object) -> None:
    assert unpacker(type_).decode(bytes.fromhex(golden)) == value


@pytest.mark.parametrize(("value", "golden"), JSON, ids=name_of)
def test_json(value: msgspec.Struct, golden: bytes) -> None:
    assert msgspec.json.encode(value) == golden
    assert msgspec.json.decode(golden, type=type(value)) == value


def test_a_key_of_yesterday_is_read() -> None:
    golden = b'{"type":"keys.entry.v1","id":"k1","tenant":"dev","mac":"ff","lanes":["batch"]}'
    assert msgspec.json.decode(golden, type=KeyEntry) == KeyEntry(id="k1", tenant="dev", mac="ff", lanes=("batch",))


@pytest.mark.parametrize(("value", "golden"), JSON[:3], ids=name_of)
def test_json_messages_ignore_fields_of_tomorrow(value: msgspec.Struct, golden: bytes) -> None:
    assert msgspec.json.decode(golden[:-1] + b',"new":[1]}', type=type(value)) == value


@pytest.mark.parametrize(("envelope", "golden"), ENVELOPES, ids=["smallest", "everything"])
def test_the_envelope(envelope: Envelope, golden: dict[str, str]) -> None:
    assert headers_of(envelope) == golden
    assert envelope_from(golden) == envelope
    assert envelope_from(golden | {"Ib-Of-Tomorrow": "x"}) == envelope


def test_the_ticket() -> None:
    ticket = Ticket(id="t1", first_seq=5, chunks=2, size=2_000_000, sha256="ff")
    assert ticket.to_header() == "t1;5;2;2000000;ff"
    assert ticket_from("t1;5;2;2000000;ff") == ticket
