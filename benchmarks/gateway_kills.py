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
from inferbus_bench.pressing import REFUSED, SERVED, Crowd
from inferbus_bench.targets import DidNotStart, Target, home_in, platform

TENANT = "acme"
MOST_UNUSED = 0.05
_FREE_S, _WARM_UP_S = 8.0, 2.0
_LOOSE = 3
"""The limit of a key that is not meant to bind is so many times what it is expected to use."""
_DRAIN_S = 60.0


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One limit of one key that should bind. `amount` is what it counts."""

    what: str
    key: str
    limit: int
    amount: Amount
    crowd: Crowd


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


async def carried(crowds: Sequence[Crowd], operator: Operator) -> tuple[float, float]:
    """Measure requests and tokens a second without limits, by the ledger."""
    began = time.time()
    await asyncio.gather(*(crowd.press(_WARM_UP_S + _FREE_S) for crowd in crowds))
    given = await given_until_drained(operator, began + _WARM_UP_S)
    within = [one for one in given if one.stored_s < began + _WARM_UP_S + _FREE_S]
    return sum(one.requests for one in within) / _FREE_S, sum(one.tokens for one in within) / _FREE_S


async def given_until_drained(operator: Operator, since_s: float, key_id: str = "") -> list[Given]:
    """Wait until nothing is queued or worked on; give what workers were given since then (of one key)."""
    async with operator.bus() as bus:

        async def is_done() -> bool:
            return not await work_left(bus)

        await eventually(is_done, within_s=_DRAIN_S)
        events = [event for event in await events_of(bus, TENANT) if not key_id or event.key_id == key_id]
    return [one for one in given_of(events) if one.stored_s >= since_s]


async def press(
    judged: Sequence[Judged], operator: Operator, args: argparse.Namespace
) -> tuple[list[int], Killer, str]:
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

    pressing = [one.crowd.press(end - time.time()) for one in judged]
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
            str(sum(one.crowd.seen.others([part.window]).values())),
        ])  # fmt: skip
    return rows


HEAD = [
    "key's limit a minute", "window", "gateways killed", "limit", "given to workers", "over", "unused", "served/s",
    "429s", "connections lost, others",
]  # fmt: skip


def conclude(judged: Sequence[Judged], given: dict[str, list[Given]], windows: list[int], killer: Killer) -> bool:
    """Print the table and what follows from it. True: no limit was passed."""
    killed_in = {window_of(moment) for moment in killer.killed}
    rows = [row for one in judged for row in rows_of(one, given[one.key], windows, killer)]
    print(report.grid(HEAD, rows))
    fine = True
    for one in judged:
        passed = over(given[one.key], one.amount, one.limit, not_before=windows[0])
        fine = fine and not passed
        print(f"\n{one.what}: {passed:,} over the limit{'' if not passed else ' -- PASSED'}", end="")
        for title, chosen in (
            ("without kills", [w for w in windows if w not in killed_in]),
            ("with kills", [w for w in windows if w in killed_in]),
        ):
            shares = [
                part.share
                for part in unused(given[one.key], one.amount, one.limit, chosen)
                if one.crowd.seen.count([part.window], REFUSED)
            ]
            if shares:
                print(
                    f"; {title} {sum(shares) / len(shares) * 100:.2f} % under it, {max(shares) * 100:.2f} at most",
                    end="",
                )
    print()
    return fine


async def measure(target: Target, operator: Operator, args: argparse.Namespace) -> bool:
    """Measure, press, judge, print. True: no limit was passed."""
    keys = [operator.new_key("--tenant", TENANT, "--name", what) for what in ("tokens", "requests")]
    half = args.gateways * args.connections // 2
    crowds = [Crowd(target.port, key, target.model, connections=half, pause_s=args.pause) for key in keys]
    requests_s, tokens_s = await carried(crowds, operator)
    requests, tokens = (int(rate / 2 * WINDOW_S * args.share) for rate in (requests_s, tokens_s))
    operator.set_limits("key", id_of(keys[0]), tokens_per_minute=tokens, requests_per_minute=requests * _LOOSE)
    operator.set_limits("key", id_of(keys[1]), requests_per_minute=requests, tokens_per_minute=tokens * _LOOSE)
    judged = [
        Judged(what="tokens", key=keys[0], limit=tokens, amount=lambda one: one.tokens, crowd=crowds[0]),
        Judged(what="requests", key=keys[1], limit=requests, amount=lambda one: one.requests, crowd=crowds[1]),
    ]
    async with OtherPrograms() as others:
        windows, killer, spread = await press(judged, operator, args)
    begun = windows[0] * WINDOW_S
    given = {one.key: await given_until_drained(operator, begun, id_of(one.key)) for one in judged}
    print(f"\n{heading(others.cores, 'gateway_kills.py')}\n")
    print(
        f"{args.gateways} gateways, {2 * half} connections, {args.workers} workers. Without limits {requests_s:.0f} requests/s, "
        f"{tokens_s:.0f} tokens/s by the ledger; limits are {args.share:.0%} of half of that for each of two keys. Sockets by gateway near the "
        f"end: {spread}. Killed: {len(killer.killed)}.\n"
    )
    return conclude(judged, given, windows, killer)


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
    try:
        sys.exit(uvloop.run(main(parser.parse_args())))
    except DidNotStart as exc:
        print(f"gateway_kills: {exc}", file=sys.stderr)
        sys.exit(1)
