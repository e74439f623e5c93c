"""The vector service: documents a second and CPU a document, beside the bare engine.

    .venv/bin/python benchmarks/vectors.py [--only ready,text,kills] [--documents 20000] [--texts 8000] [--killed 50000] [--vllm]

`ready`: documents that bring vectors of 384 numbers, over the bus, beside the bare adapter and a plain loop at the engine.
`text`: texts of 40 words embedded by the simulator, which takes a second for a request of 32 (16 are in flight, so 512 texts a
second), beside its pool alone and a plain loop of embedding and writing. With `--vllm`: by all-minilm-l6-v2 in vLLM, on
this machine's processors.
`kills`: SIGKILL of engine, service and nats-server in turn, every two seconds, while documents are indexed.
Exit status 1 where a target was missed or a document is missing or there twice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import uvloop

from inferbus.telemetry import logs
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.report import grid
from inferbus_bench.vector_indexing import Kills, Rate, embedded_text, ready_vectors, under_kills

MIN_OF_BARE, MIN_OF_POOL = 0.67, 0.9
EVERY_S, LATENCY_S = 2.0, 1.0


def rate_row(rate: Rate) -> list[str]:
    shares = ", ".join(f"{name} {us:.0f}" for name, us in rate.cpu_us.items())
    return [rate.what, str(rate.documents), f"{rate.rate:.0f}", f"{sum(rate.cpu_us.values()):.0f}", shares]


def kills_lines(found: Kills) -> str:
    killed = ", ".join(f"{name} {count}" for name, count in found.kills.items())
    return (
        f"{found.accepted} of {found.documents} documents accepted and indexed in {found.seconds:.0f} s under kills ({killed}): "
        f"{found.missing} missing, {found.twice} twice, {found.wrong_version} of another version.\n"
    )


async def measure(args: argparse.Namespace, folder: Path) -> bool:
    judged: list[tuple[str, float, float]] = []
    head, rows, met = ("what", "documents", "documents/s", "CPU us/document", "of which"), list[list[str]](), True
    if "ready" in args.only:
        plain, bare, *bus = await ready_vectors(folder / "ready", args.documents)
        rows += [rate_row(rate) for rate in (plain, bare, *bus)]
        judged.append(("ready vectors against the bare adapter", bus[0].rate / bare.rate, MIN_OF_BARE))
    if "text" in args.only:
        alone, loop, ours = await embedded_text(folder / "text", args.texts, None if args.vllm else LATENCY_S)
        rows += [rate_row(rate) for rate in (alone, loop, ours)]
        judged.append(("texts against the embedding pool alone", ours.rate / alone.rate, MIN_OF_POOL))
    if rows:
        print(grid(head, rows) + "\n")
    if "kills" in args.only:
        found = await under_kills(folder / "kills", args.killed, every_s=EVERY_S)
        print(kills_lines(found))
        met = not (found.missing or found.twice or found.wrong_version)
    if judged:
        table = [
            [what, f"{value:.2f}", f">= {limit:g}", "met" if value >= limit else "MISSED"]
            for what, value, limit in judged
        ]
        print(grid(("target", "measured", "wanted", ""), table))
    return met and all(value >= limit for _, value, limit in judged)


async def main(args: argparse.Namespace) -> int:
    logs.configure("benchmark", "error")
    async with OtherPrograms() as others:
        with tempfile.TemporaryDirectory(prefix="inferbus-bench-") as folder:
            met = await measure(args, Path(folder))
    print("\n" + heading(others.cores, "vectors.py"))
    return 0 if met else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--texts", type=int, default=8_000)
    parser.add_argument("--vllm", action="store_true", help="texts are embedded by all-minilm-l6-v2 in vLLM")
    parser.add_argument("--killed", type=int, default=50_000)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["ready", "text", "kills"])
    sys.exit(uvloop.run(main(parser.parse_args())))
