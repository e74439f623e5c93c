"""Searches over HTTP and over the bus, beside the bare adapter, at the same documents in the same run; and their recall.

    .venv/bin/python benchmarks/vector_search.py [--documents 10000,100000] [--graph 100000] [--rounds 5]

Vectors of 384 numbers in clusters, ten hits, without a filter and with one that a tenth passes, one search after the other.
`--graph`: of sizes from this on a graph (HNSW) is made first, as the service does it of itself from 100,000 on. Exit status 1
where a target was missed.
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
from inferbus_bench.vector_searching import Found, searches

MAX_ADDED_MS, MIN_RECALL = 2.0, 0.9
HEAD = ("documents", "in a graph", "filter", "who", "p50 ms", "p99 ms", "added p50 ms", "recall@10")


def rows(found: Found) -> list[list[str]]:
    bare = found.times[0]
    return [
        [
            str(found.documents), str(found.indexed), "1 in 10" if found.filtered else "none", one.who, f"{one.at(0.5):.2f}",
            f"{one.at(0.99):.2f}", f"{one.at(0.5) - bare.at(0.5):.2f}" if one is not bare else "",
            f"{found.recall:.3f}" if one is not bare else "",
        ]
        for one in found.times
    ]  # fmt: skip


def judged(measured: list[Found]) -> list[tuple[str, str, str, bool]]:
    added = max(one.at(0.5) - found.times[0].at(0.5) for found in measured for one in found.times[1:])
    recall = min(found.recall for found in measured)
    return [
        ("added p50, the most of all rows", f"{added:.2f} ms", f"<= {MAX_ADDED_MS:g} ms", added <= MAX_ADDED_MS),
        ("recall@10 against exact, the least of all", f"{recall:.3f}", f">= {MIN_RECALL:g}", recall >= MIN_RECALL),
    ]


async def main(args: argparse.Namespace) -> int:
    logs.configure("benchmark", "error")
    measured = list[Found]()
    async with OtherPrograms() as others:
        with tempfile.TemporaryDirectory(prefix="inferbus-bench-") as folder:
            for count in args.documents:
                optimised = 0 < args.graph <= count
                measured += await searches(Path(folder) / str(count), count, rounds=args.rounds, optimised=optimised)
                print(f"  {count} documents measured", file=sys.stderr)
    verdicts = judged(measured)
    print(grid(HEAD, [row for found in measured for row in rows(found)]) + "\n")
    print(grid(("target", "measured", "wanted", ""), [[*row, "met" if met else "MISSED"] for *row, met in verdicts]))
    print("\n" + heading(others.cores, "vector_search.py"))
    return 0 if all(met for *_, met in verdicts) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--documents", type=lambda text: [int(one) for one in text.split(",")], default=[10_000, 100_000]
    )
    parser.add_argument("--graph", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    sys.exit(uvloop.run(main(parser.parse_args())))
