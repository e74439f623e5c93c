"""GET /v1/usage: a key sees its own organisation's totals, and nobody else's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.gateway.fakes import Door

from inferbus.contracts.usage import Figures, Total


def row(day: str, model: str, cost: int, tenant: str = "dev", team: str = "") -> Total:
    figures = Figures(requests=1, prompt_tokens=2, completion_tokens=3, cost=cost)
    return Total(tenant=tenant, team=team, key_id="k", model=model, day=day, figures=figures, upto=1)


@pytest.fixture
def rows(door: Door) -> None:
    door.totals.all = [
        row("2026-11-20", "a", 1), row("2026-11-21", "a", 2, team="t"), row("2026-11-21", "b", 4),
        row("2026-11-22", "a", 8), row("2026-11-22", "a", 16, tenant="acme"),
    ]  # fmt: skip


async def asked(door: Door, query: str) -> list[dict[str, Any]]:
    call = await door.get(f"/v1/usage{query}").done()
    assert call.status == 200, call.body
    decoded = msgspec.json.decode(call.body)
    assert decoded["organisation"] == "dev"
    return list(decoded["data"])


@pytest.mark.usefixtures("rows")
async def test_totals_by_day_and_model_of_the_key_s_organisation(door: Door) -> None:
    lines = await asked(door, "")
    assert [(line["day"], line["model"], line["cost"]) for line in lines] == [
        ("2026-11-20", "a", 1), ("2026-11-21", "a", 2), ("2026-11-21", "b", 4), ("2026-11-22", "a", 8),
    ]  # fmt: skip
    assert lines[0] == {
        "requests": 1, "prompt_tokens": 2, "completion_tokens": 3, "cached_tokens": 0, "wasted_tokens": 0, "cost": 1,
        "day": "2026-11-20", "model": "a",
    }  # fmt: skip


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("query", "costs"),
    [
        ("?by=model", [11, 4]),
        ("?by=", [15]),
        ("?by=org", [15]),
        ("?by=day&from=2026-11-21", [6, 8]),
        ("?by=day&to=2026-11-21", [1, 6]),
        ("?by=day&model=b", [4]),
        ("?by=team", [13, 2]),
        ("?team=t&by=key", [2]),
    ],
)
async def test_filters_and_dimensions(door: Door, query: str, costs: list[int]) -> None:
    assert [line["cost"] for line in await asked(door, query)] == costs


@pytest.mark.parametrize(
    ("query", "param"), [("?by=user", "by"), ("?from=yesterday", "from"), ("?to=2026-13-01", "to")]
)
async def test_what_cannot_be_asked_is_named(door: Door, query: str, param: str) -> None:
    call = await door.get(f"/v1/usage{query}").done()
    assert (call.status, call.error["param"]) == (400, param)


async def test_usage_needs_a_key(door: Door) -> None:
    call = await door.call("GET", "/v1/usage", b"", {}).done()
    assert (call.status, call.error["code"]) == (401, "unauthenticated")
