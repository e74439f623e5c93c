"""The targets of the main path, and whether they were met."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inferbus_bench.cpu import ENGINE
from inferbus_bench.rounds import Table

ALL_THREE = ("gateway", "worker", "nats-server")
JUDGED_STREAMS = 32
MAX_BARE_RATIO = 400 / 203
"""The target of 400 us was set where the bare path cost 203, for the path: keys and models, no ledger."""
MAX_BILLED_RATIO = (400 + 120) / 203
"""Admission with limits and ledger was allowed 120 us more."""
MAX_ADDED_MS, MAX_US_PER_REQUEST, MAX_DIRECT_RATIO, MAX_ASGI_RATIO, MAX_IDLE_SHARE = 2.0, 400.0, 1.0, 1.5, 0.02


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One target: `value` must not be over `limit`."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def simulator_verdicts(table: Table, platform: str, unbilled: str, bare: str) -> list[Verdict]:
    """Judge what the path itself costs, as far as it was measured, also as ratios that no machine's speed moves.

    `unbilled` is the platform whose workers write no ledger, which is what the target of CPU a request was set for.
    """
    verdicts = []
    if one := table.get(("whole-1", platform)):
        what = "added p50 at one connection, durable accept and ledger included"
        added_ms = one.of(lambda result: result.latency.p50)
        verdicts.append(Verdict(what=what, value=added_ms, limit=MAX_ADDED_MS, unit="ms"))
    all_16, path_16, bare_16 = (table.get(("whole-16", target)) for target in (platform, unbilled, bare))
    if all_16 is None or path_16 is None or bare_16 is None:
        return verdicts
    yardstick = bare_16.us_per_request(ALL_THREE)
    path, everything = (sixteen.us_per_request(ALL_THREE) for sixteen in (path_16, all_16))
    what = "CPU per request at 16 connections without ledger: " + " + ".join(ALL_THREE)
    against = "against the bare path in the same run"
    return [
        *verdicts,
        Verdict(what=what, value=path, limit=MAX_US_PER_REQUEST, unit="us"),
        Verdict(what=f"the same {against}", value=path / yardstick, limit=MAX_BARE_RATIO, unit="times"),
        Verdict(
            what=f"the same with the ledger {against}",
            value=everything / yardstick,
            limit=MAX_BILLED_RATIO,
            unit="times",
        ),
    ]


def engine_verdicts(table: Table, platform: str, peer: str) -> list[Verdict]:
    """Judge the CPU per token outside the engine against the peer's, under load, as far as it was measured."""
    verdicts = []
    for kind, title, limit in (("direct", "direct path", MAX_DIRECT_RATIO), ("asgi", "ASGI path", MAX_ASGI_RATIO)):
        ours, theirs = (table.get((f"{kind}-{JUDGED_STREAMS}", target)) for target in (platform, peer))
        if ours is None or theirs is None:
            continue
        ratio = ours.us_per_token(ours.outside) / theirs.us_per_token(theirs.outside)
        what = f"CPU per token outside the engine against {peer}, {title}, {JUDGED_STREAMS} streams"
        verdicts.append(Verdict(what=what, value=ratio, limit=limit, unit="times"))
    return verdicts


def idle_verdict(idle: Mapping[str, float]) -> Verdict:
    share = sum(value for role, value in idle.items() if role != ENGINE)
    return Verdict(
        what="idle platform outside the engine", value=share * 100, limit=MAX_IDLE_SHARE * 100, unit="% of a core"
    )
