"""How much of a small limit is left unused when everybody is refused?

    .venv/bin/python benchmarks/limit_end.py [--limits 1500,3000,6000] [--rounds 6] [--gateways 2] [--callers 8] [--engine]

`inferbus up --simulator` (`--engine`: with the small model) with so many gateways on one socket. For each limit, some callers ask
one after the other as fast as they can, each request on a new connection, with a key that has so many tokens a minute; each ends
after three refusals. What counts is what the answers' `usage` adds up to. Exit status 1 if that was ever more than the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from inferbus_bench.limit_judge import WINDOW_S, window_of
from inferbus_bench.operator import Operator, id_of
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.report import grid
from inferbus_bench.targets import DidNotStart, Target, home_in, platform

TENANT = "acme"
MAX_TOKENS = 24
REFUSALS = 3
SERVED, REFUSED = 200, 429
_HOST = "127.0.0.1"
_SPARE_S = 25.0
_TURN_S = 0.5


class Outcome(msgspec.Struct):
    """What came of one round: tokens served, requests served and refused, the slowest refusal, whether one minute saw it all."""

    tokens: int = 0
    served: int = 0
    refused: int = 0
    refusal_s: float = 0.0
    is_whole: bool = True


async def ask(target: Target, key: str, prompt: str) -> tuple[int, int]:
    """Ask on a connection of its own; give status and tokens."""
    messages = [{"role": "user", "content": prompt}]
    body = msgspec.json.encode({"model": target.model, "messages": messages, "max_tokens": MAX_TOKENS})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {_HOST}:{target.port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(_HOST, target.port)
    try:
        writer.write(head.encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    status = int(answer.split(b" ", 2)[1])
    said = msgspec.json.decode(answer.split(b"\r\n\r\n", 1)[1])
    return status, said["usage"]["total_tokens"] if status == SERVED else 0


async def press(target: Target, key: str, callers: int) -> Outcome:
    """Ask until everybody was refused three times."""
    found = Outcome()

    async def call(n: int) -> None:
        refused = 0
        while refused < REFUSALS:
            asked = time.monotonic()
            status, tokens = await ask(target, key, f"{n} {found.served + found.refused} Tell me about Tokyo.")
            if status == REFUSED:
                refused += 1
                found.refused += 1
                found.refusal_s = max(found.refusal_s, time.monotonic() - asked)
                continue
            assert status == SERVED, status
            found.served += 1
            found.tokens += tokens

    window = window_of(time.time())
    await asyncio.gather(*(call(n) for n in range(callers)))
    found.is_whole = window_of(time.time()) == window
    return found


async def measure(target: Target, operator: Operator, args: argparse.Namespace) -> tuple[list[list[str]], bool]:
    """Measure every limit in turn, a new key each time. True: none was passed."""
    outcomes: dict[int, list[Outcome]] = {limit: [] for limit in args.limits}
    for limit in list(args.limits) * args.rounds:
        key = operator.new_key("--tenant", TENANT, "--name", "end")
        operator.set_limits("key", id_of(key), tokens_per_minute=limit)
        await asyncio.sleep(_TURN_S)
        if WINDOW_S - time.time() % WINDOW_S < _SPARE_S:
            await asyncio.sleep(WINDOW_S - time.time() % WINDOW_S + _TURN_S)
        outcomes[limit].append(await press(target, key, args.callers))
    fine = all(one.tokens <= limit for limit, found in outcomes.items() for one in found)
    return [row_of(limit, found) for limit, found in outcomes.items()], fine


def row_of(limit: int, found: list[Outcome]) -> list[str]:
    whole = [one for one in found if one.is_whole]
    under = [100 * (1 - one.tokens / limit) for one in whole]
    each = sum(one.tokens for one in whole) / max(1, sum(one.served for one in whole))
    return [
        f"{limit:,}",
        str(len(whole)),
        str(max(0, *(one.tokens - limit for one in found), 0)),
        f"{statistics.median(under):.1f} %",
        f"{max(under):.1f} %",
        ", ".join(str(limit - one.tokens) for one in whole),
        f"{each:.0f}",
        f"{max(one.refusal_s for one in whole) * 1000:.0f}",
    ]


HEAD = [
    "tokens/min",
    "rounds",
    "over",
    "under, median",
    "at worst",
    "tokens left",
    "a request used",
    "slowest refusal ms",
]


async def main(args: argparse.Namespace) -> int:
    options = ["--gateways", str(args.gateways)]
    with tempfile.TemporaryDirectory(prefix="inferbus-end-") as folder:
        async with (
            platform(Path(folder), simulator=not args.engine, options=options) as target,
            OtherPrograms() as others,
        ):
            rows, fine = await measure(target, Operator(home_in(Path(folder))), args)
    about = f"{args.gateways} gateways, {args.callers} callers, each until it was refused {REFUSALS} times."
    print("\n" + "\n\n".join([heading(others.cores, "limit_end.py"), about, grid(HEAD, rows)]))
    return 0 if fine else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--limits", type=lambda text: [int(part) for part in text.split(",")], default=[1500, 3000, 6000]
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--engine", action="store_true", help="the small model in vLLM instead of the simulator")
    try:
        sys.exit(uvloop.run(main(parser.parse_args())))
    except DidNotStart as exc:
        print(f"limit_end: {exc}", file=sys.stderr)
        sys.exit(1)
