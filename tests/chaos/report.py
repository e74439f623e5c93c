"""What a campaign found, as text."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.campaign import KindTally, Outcome


def render(outcome: Outcome, *, engine: str) -> str:
    """Give the table of faults and the figures of the load."""
    tally = outcome.tally
    rows = [_row(name, kind) for name, kind in outcome.kinds.items() if kind.done]
    total = KindTally(
        done=sum(kind.done for kind in outcome.kinds.values()),
        counted=outcome.counted,
        held=sum(kind.held for kind in outcome.kinds.values()),
        acks_in_flight=sum(kind.acks_in_flight for kind in outcome.kinds.values()),
        takeovers=[one for kind in outcome.kinds.values() for one in kind.takeovers],
    )
    head = ("fault", "done", "counted", "streams held", "acks in flight", "moved", "takeover p50 / p99 / max s")
    lines = [
        f"engine {engine}, seed {outcome.seed}, {outcome.seconds:.0f} s",
        *table([head, *rows, _row("all", total)]),
        "",
        f"requests {tally.requests}, tokens {tally.tokens}, moved to another worker {tally.moved}",
        f"durable requests {tally.durable}, whose clients came back {tally.returns} times after losing their gateway",
        f"lost {tally.lost}, doubled {tally.doubled}, wrong {tally.wrong}, broken {tally.broken}",
        f"refused and tried again {tally.refused} (503 with Retry-After while a gateway had no bus)",
        f"refused without such a reason {tally.unexplained}",
        f"longest stall between two tokens {tally.longest_stall_s:.2f} s, before the first {tally.longest_wait_s:.2f} s",
        f"left in the queue or dead-lettered at the end {outcome.left}",
    ]
    return "\n".join(lines + [f"  {line}" for line in tally.slow + tally.failures])


def _row(name: str, kind: KindTally) -> tuple[str, ...]:
    takeovers = sorted(kind.takeovers)
    shown = "-"
    if takeovers:
        shown = f"{_percentile(takeovers, 50):.2f} / {_percentile(takeovers, 99):.2f} / {takeovers[-1]:.2f}"
    counts = (kind.done, kind.counted, kind.held, kind.acks_in_flight, len(takeovers))
    return (name, *map(str, counts), shown)


def _percentile(values: Sequence[float], percent: int) -> float:
    """Give the nearest-rank percentile of sorted values."""
    return values[min(len(values) - 1, len(values) * percent // 100)]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Draw rows, the first of them the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
