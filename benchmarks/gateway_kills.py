"""Real gateways, real connections, gateways killed all the time: is a limit ever passed, and how much of it is lost?

    .venv/bin/python benchmarks/gateway_kills.py [--gateways 8] [--connections 64] [--kill-every 4] [--windows 2]

`inferbus up --simulator` with 8 gateways on one socket and 64 connections for each. First it measures what the platform
carries without limits; then half of the connections have a key limited to some tokens a minute, half one limited to some requests,
so much (`--share`) of what was carried that the limits bind, also while gateways are being started. For so many whole windows nobody is
killed, then for as many one gateway after the other is, with SIGKILL; the supervisor brings it back. What counts is not what
gateways say but what workers were given: the ledger's events, with what nobody was charged for, in the window they were stored in.
Exit status 1 if a limit was passed.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from inferbus.local.processes import GATEWAY
from inferbus.local.state import READY
from inferbus.testing import eventually
from inferbus_bench import report
from inferbus_bench.limit_judge import WINDOW_S, Amount, Given, given_of, over, unused, window_of
from inferbus_bench.operator import Operator, events_of, id_of, work_left
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.pressing import LOST, REFUSED, SERVED, Crowd
from inferbus_bench.targets import DidNotStart, Target, home_in, platform
from inferbus_bench.verdicts import Verdict

TENANT = "acme"
MOST_UNUSED = 0.05
_FREE_S, _WARM_UP_S = 8.0, 2.0
_LOOSE = 3
"""The limit of a key that is not meant to bind is so many times what it is expected to use."""
_DRAIN_S = 60.0
_ROUNDED_S = 0.5  # events round their times; nobody asked in the seconds before


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One limit of one key. `amount` is what it counts; `binds`: it is what refuses, the other one is out of reach."""

    what: str
    key: str
    limit: int
    amount: Amount
    crowd: Crowd
    binds: bool = True


def _tokens(one: Given) -> int:
    return one.tokens


def _requests(one: Given) -> int:
    return one.requests


class Killer:
    """Kills one gateway after the other, and looks how connections are spread."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self.killed: list[float] = []

    async def kill_in_turn(self, every_s: float, until: float) -> None:
        """Kill until the Unix time `until`; one that is not up is passed over."""
        turn = 0
        while time.time() + every_s < until:
            await asyncio.sleep(every_s)
            gateways = [one for one in self._operator.state.processes if one.role == GATEWAY]
            for _ in gateways:
                victim, turn = gateways[turn % len(gateways)], turn + 1
                if victim.state == READY and victim.pid:
                    os.kill(victim.pid, signal.SIGKILL)
                    self.killed.append(time.time())
                    break


def sockets_of(operator: Operator) -> list[int]:
    """Count the sockets of every gateway that is up: connections, and a few of its own."""
    counts = []
    for one in operator.state.processes:
        if one.role == GATEWAY and one.state == READY:
            try:
                links = [str(path.readlink()) for path in Path(f"/proc/{one.pid}/fd").iterdir()]
            except OSError:
                continue
            counts.append(sum(link.startswith("socket:") for link in links))
    return counts


class Rates(msgspec.Struct, frozen=True):
    """What is carried without limits, in a second."""

    requests_s: float
    tokens_s: float


async def carried(crowds: Sequence[Crowd], operator: Operator) -> Rates:
    """Measure requests and tokens a second without limits, by the ledger."""
    began = time.time()
    await asyncio.gather(*(crowd.press(_WARM_UP_S + _FREE_S) for crowd in crowds))
    given = await given_until_drained(operator, began + _WARM_UP_S)
    within = [one for one in given if one.stored_s < began + _WARM_UP_S + _FREE_S]
    return Rates(sum(map(_requests, within)) / _FREE_S, sum(map(_tokens, within)) / _FREE_S)


async def given_until_drained(operator: Operator, since_s: float, key_id: str = "") -> list[Given]:
    """Wait until nothing is queued or worked on; give what workers were given since then (of one key)."""
    async with operator.bus() as bus:

        async def is_done() -> bool:
            return not await work_left(bus)

        await eventually(is_done, within_s=_DRAIN_S)
        events = [event for event in await events_of(bus, TENANT) if not key_id or event.key_id == key_id]
    return [one for one in given_of(events) if one.stored_s >= since_s]


async def press(crowds: Sequence[Crowd], operator: Operator, args: argparse.Namespace) -> tuple[list[int], Killer, str]:
    """Press on the limits for twice `--windows` whole windows, killing in the second half. Gives the windows."""
    await asyncio.sleep(WINDOW_S - time.time() % WINDOW_S)
    first, length_s = window_of(time.time() + 1), args.windows * WINDOW_S
    calm_end = (first + args.windows) * WINDOW_S if args.calm else first * WINDOW_S
    end = calm_end + (length_s if args.kill_every else 0)
    killer, spread = Killer(operator), ""

    async def fault() -> None:
        await asyncio.sleep(max(0.0, calm_end - time.time()))
        await killer.kill_in_turn(args.kill_every, end)

    async def look() -> None:
        nonlocal spread
        await asyncio.sleep(max(0.0, end - time.time() - WINDOW_S / 2))
        spread = ", ".join(str(count) for count in sockets_of(operator))

    pressing = [crowd.press(end - time.time()) for crowd in crowds]
    await asyncio.gather(*pressing, look(), *([fault()] if args.kill_every else []))
    return list(range(first, window_of(end - 1) + 1)), killer, spread


def rows_of(one: Judged, given: Sequence[Given], windows: Sequence[int], killer: Killer) -> list[list[str]]:
    """Show one limit, window by window."""
    rows = []
    for part in unused(given, one.amount, one.limit, windows):
        refused = one.crowd.seen.count([part.window], REFUSED)
        kills = sum(window_of(moment) == part.window for moment in killer.killed)
        rows.append([
            one.what,
            dt.datetime.fromtimestamp(part.window * WINDOW_S, dt.UTC).strftime("%H:%M"),
            str(kills),
            f"{one.limit:,}",
            f"{part.given:,}",
            f"{max(0, part.given - part.limit):,}",
            f"{part.share * 100:.2f} %" if refused else "not reached",
            f"{one.crowd.seen.count([part.window], SERVED) / WINDOW_S:.0f}",
            f"{refused:,}",
            _others_text(one.crowd.seen.others([part.window])),
        ])  # fmt: skip
    return rows


def _others_text(counts: dict[int, int]) -> str:
    """Tell of connections that ended before their answers did, and of answers nobody expects, by status."""
    return ", ".join(f"{n} {'cut' if status == LOST else status}" for status, n in sorted(counts.items())) or "0"


HEAD = [
    "key's limit a minute", "window", "gateways killed", "limit", "given to workers", "over", "unused", "served/s",
    "429s", "other ends",
]  # fmt: skip


def verdicts_of(one: Judged, given: Sequence[Given], windows: Sequence[int], killer: Killer) -> list[Verdict]:
    """Judge one limit: never over; at worst 5 % unused in a whole window without kills, where it was reached at all."""
    passed = over(given, one.amount, one.limit, not_before=windows[0])
    found = [Verdict(what=f"{one.what}: over the limit", value=passed, limit=0, unit="")]
    killed_in = {window_of(moment) for moment in killer.killed}
    calm = [w for w in windows if w not in killed_in and one.crowd.seen.count([w], REFUSED)]
    if one.binds and calm:
        share = max(part.share for part in unused(given, one.amount, one.limit, calm))
        what = f"{one.what}: unused where no gateway was killed, at worst"
        found.append(Verdict(what=what, value=share * 100, limit=MOST_UNUSED * 100, unit="%"))
    return found


def limit_keys(operator: Operator, keys: list[str], crowds: list[Crowd], rates: Rates, share: float) -> list[Judged]:
    """Give both limits to both keys; of each key one binds."""
    tokens, requests = (int(rate / len(keys) * WINDOW_S * share) for rate in (rates.tokens_s, rates.requests_s))
    operator.set_limits("key", id_of(keys[0]), tokens_per_minute=tokens, requests_per_minute=requests * _LOOSE)
    operator.set_limits("key", id_of(keys[1]), requests_per_minute=requests, tokens_per_minute=tokens * _LOOSE)
    by_tokens, by_requests = zip(keys, crowds, strict=True)
    return [
        _judged("tokens", by_tokens, tokens, _tokens),
        _judged("requests", by_requests, requests, _requests),
        _judged("requests of the first key", by_tokens, requests * _LOOSE, _requests, binds=False),
        _judged("tokens of the second key", by_requests, tokens * _LOOSE, _tokens, binds=False),
    ]


def _judged(what: str, who: tuple[str, Crowd], limit: int, amount: Amount, *, binds: bool = True) -> Judged:
    return Judged(what=what, key=who[0], crowd=who[1], limit=limit, amount=amount, binds=binds)


async def measure(target: Target, operator: Operator, args: argparse.Namespace) -> bool:
    """Measure, press, judge, print. True: no limit was passed."""
    keys = [operator.new_key("--tenant", TENANT, "--name", what) for what in ("tokens", "requests")]
    half = args.gateways * args.connections // 2
    crowds = [Crowd(target.port, key, target.model, connections=half, pause_s=args.pause) for key in keys]
    rates = await carried(crowds, operator)
    judged = limit_keys(operator, keys, crowds, rates, args.share)
    async with OtherPrograms() as others:
        windows, killer, spread = await press(crowds, operator, args)
    begun_s = windows[0] * WINDOW_S - _ROUNDED_S
    given = {key: await given_until_drained(operator, begun_s, id_of(key)) for key in keys}
    found = [verdict for one in judged for verdict in verdicts_of(one, given[one.key], windows, killer)]
    rows = [row for one in judged if one.binds for row in rows_of(one, given[one.key], windows, killer)]
    about = (
        f"{args.gateways} gateways, {2 * half} connections, {args.workers} workers. Without limits {rates.requests_s:.0f} "
        f"requests/s, {rates.tokens_s:.0f} tokens/s by the ledger; limits: {args.share:.0%} of half of that for each of two "
        f"keys. Sockets by gateway near the end: {spread}. Killed: {len(killer.killed)}."
    )
    parts = [heading(others.cores, "gateway_kills.py"), about, report.verdict_table(found), report.grid(HEAD, rows)]
    print("\n" + "\n\n".join(parts))
    return all(verdict.met for verdict in found if verdict.limit == 0)


async def main(args: argparse.Namespace) -> int:
    options = ["--gateways", str(args.gateways), "--workers", str(args.workers)]
    with tempfile.TemporaryDirectory(prefix="inferbus-kills-") as folder:
        async with platform(Path(folder), simulator=True, options=options) as target:
            operator = Operator(home_in(Path(folder)))
            return 0 if await measure(target, operator, args) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gateways", type=int, default=8)
    parser.add_argument("--connections", type=int, default=64, help="for each gateway")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--windows", type=int, default=2, help="whole windows without kills, and as many with")
    parser.add_argument("--kill-every", type=float, default=4.0, help="seconds; 0: never")
    parser.add_argument("--no-calm", dest="calm", action="store_false", help="leave out the windows without kills")
    parser.add_argument("--share", type=float, default=0.4, help="of what is carried without limits, allowed")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds a client waits after a refusal")
    options = parser.parse_args()
    if not options.calm and not options.kill_every:
        parser.error("--no-calm with --kill-every 0 leaves nothing to do")
    try:
        sys.exit(uvloop.run(main(options)))
    except DidNotStart as exc:
        print(f"gateway_kills: {exc}", file=sys.stderr)
        sys.exit(1)
