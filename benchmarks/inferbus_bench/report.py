"""Tables: the same text for the terminal and for RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from inferbus_bench.cpu import ENGINE, Seconds
from inferbus_bench.rounds import Figures, Measurement, Table
from inferbus_bench.verdicts import ALL_THREE, Verdict


def engine_table(table: Table, peer: str) -> str:
    """Show what clients saw and what it cost outside the engine, target beside target, and against the peer."""
    rows = []
    for (scenario, target), one in by_scenario(table):
        theirs = table[scenario, peer]
        result = one.of
        streamed = one.measurements[0].scenario.load.streamed
        rows.append([
            one.measurements[0].scenario.title,
            target,
            _pair(result(lambda r: r.ttft.p50), result(lambda r: r.ttft.p99)) if streamed else "",
            _pair(result(lambda r: r.itl.p50), result(lambda r: r.itl.p99)) if streamed else "",
            f"{result(lambda r: r.tokens_per_s):.0f}",
            f"{one.us_per_request(one.outside):.0f}",
            f"{one.us_per_token(one.outside):.1f}",
            " + ".join(f"{role} {one.us_per_token([role]):.0f}" for role in one.outside if one.us_per_token([role]) >= 0.5),
            f"{one.us_per_token(one.outside) / theirs.us_per_token(theirs.outside):.2f}",
            f"{one.us_per_token([ENGINE]):.0f}",
            str(one.errors),
        ])  # fmt: skip
    head = [
        "load",
        "target",
        "TTFT p50 / p99 ms",
        "ITL p50 / p99 ms",
        "tokens/s",
        "CPU us/request",
        "CPU us/token",
        "of which",
        "against peer",
        "engine us/token",
        "errors",
    ]
    return grid(head, rows)


def simulator_table(table: Table) -> str:
    """Show what the path alone adds and costs, by process."""
    rows = []
    for (_, target), one in by_scenario(table):
        result = one.of
        streamed = one.measurements[0].scenario.load.streamed
        cost = one.us_per_token if streamed else one.us_per_request
        rows.append([
            one.measurements[0].scenario.title,
            target,
            _pair(result(lambda r: r.latency.p50), result(lambda r: r.latency.p99)),
            f"{result(lambda r: r.requests_per_s):.0f}",
            f"{result(lambda r: r.tokens_per_s):.0f}" if streamed else "",
            "token" if streamed else "request",
            f"{cost(ALL_THREE):.1f}",
            " + ".join(f"{cost([role]):.1f}" for role in ALL_THREE),
            str(one.errors),
        ])  # fmt: skip
    head = [
        "load",
        "target",
        "p50 / p99 ms",
        "requests/s",
        "tokens/s",
        "per",
        "CPU us",
        "= " + " + ".join(ALL_THREE),
        "errors",
    ]
    return grid(head, rows)


def idle_table(idle: Mapping[str, Seconds]) -> str:
    """Show the share of a core each role takes while idle."""
    rows = [
        [target, role, f"{share * 100:.2f} %"]
        for target, shares in idle.items()
        for role, share in shares.items()
    ]  # fmt: skip
    return grid(["target", "process", "of a core"], rows)


def verdict_table(verdicts: Iterable[Verdict]) -> str:
    rows = [
        [one.what, f"{one.value:.2f}", f"{one.limit:g}", one.unit, "met" if one.met else "MISSED"] for one in verdicts
    ]
    return grid(["target", "measured", "at most", "unit", ""], rows)


def line_of(one: Measurement) -> str:
    """Show one measurement as it comes."""
    result = one.result
    outside = sum(seconds for role, seconds in one.cpu_s.items() if role != ENGINE)
    return (
        f"  {one.scenario.name:<10} {one.target:<22} {result.requests_per_s:8.0f} req/s  p50 {result.latency.p50:8.2f} ms  "
        f"CPU {outside * 1e6 / result.ok:7.0f} us/request {outside * 1e6 / max(1, result.tokens):6.1f} us/token  "
        f"others {one.other_cores:.2f} cores"
        + (f"  {result.errors} ERRORS: {result.error_text[:200]}" if result.errors else "")
    )


def by_scenario(table: Table) -> list[tuple[tuple[str, str], Figures]]:
    """Order by scenario, targets beside each other (measured order within both)."""
    scenarios = list(dict.fromkeys(scenario for scenario, _ in table))
    targets = list(dict.fromkeys(target for _, target in table))
    return [((s, t), table[s, t]) for s in scenarios for t in targets if (s, t) in table]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table that also reads well in a terminal."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _pair(first: float, second: float) -> str:
    return f"{first:.2f} / {second:.2f}"
