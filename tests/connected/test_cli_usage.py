"""`inferbus usage` and `inferbus prices` as a user runs them, against a real bus."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from tests.connected.conftest import Connect
from tests.connected.test_cli_bus import Run, inferbus
from tests.connected.test_ledger import figures_of, some_event, write

from inferbus import routes
from inferbus.codec import to_json
from inferbus.contracts.prices import Price
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.reading import read_totals
from inferbus.ledger.rows import key_of_row
from inferbus.ledger.totaling import Totaling
from inferbus.testing import eventually

__all__ = ["inferbus"]
EVENTS = [some_event(random.Random(n)) for n in range(60)]


@pytest.fixture
async def counted(connect: Connect) -> None:
    await write(await connect("worker"), EVENTS)
    await Totaling(await connect("ledger"), name="l", registry=CollectorRegistry()).step()


async def test_prices_are_set_listed_and_known_to_workers(inferbus: Run, connect: Connect) -> None:
    status, said, _ = await inferbus("prices", "set", "org/big", "--input", "0.15", "--output", "0.6")
    assert (status, said.startswith("price of org/big: version ")) == (0, True)
    first = said.split()[-1]
    book = PriceBook(await connect("worker"))
    await book.start()
    await eventually(lambda: book.price_of("org/big") is not None, within_s=20)
    assert book.price_of("org/big") == Price(input=150_000, output=600_000, version=first, model="org/big")
    assert (await inferbus("prices", "set", "org/big", "--input", "1", "--output", "2", "--cached", "0.5"))[0] == 0
    await eventually(lambda: book.price_of("org/big") != book.price_of("org/big", first), within_s=20)
    assert book.price_of("org/big", first) == Price(input=150_000, output=600_000, version=first, model="org/big")
    status, said, _ = await inferbus("prices", "list")
    assert said.splitlines()[1].split()[:4] == ["org/big", "1.00", "2.00", "0.50"]
    (listed,) = json.loads((await inferbus("prices", "list", "--json"))[1])
    assert (listed["input"], listed["cached"]) == (1_000_000, 500_000)
    await book.stop()
    dear, cheap = json.loads((await inferbus("audit", "--json"))[1])
    assert (dear["action"], dear["target"], dear["before"]) == ("price_set", "org_big", None)
    assert dear["after"]["version"] == first
    assert (cheap["before"], cheap["after"]["cached"]) == (dear["after"], 500_000)
    assert dear["actor"].startswith("cli:")
    assert "input: 150000 -> 1000000" in (await inferbus("audit", COLUMNS="300"))[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--input", "-1", "--output", "1"], "input"),
        (["--input", "1", "--output", "much"], "output"),
        (["--input", "1", "--output", "0.0000001"], "output"),
        (["--input", "1", "--output", "1", "--cached", "1e12"], "cached"),
    ],
)
async def test_prices_nobody_can_mean_are_refused(inferbus: Run, arguments: list[str], named: str) -> None:
    status, _, why = await inferbus("prices", "set", "m", *arguments)
    assert status == 1
    assert named in why


@pytest.mark.usefixtures("counted")
async def test_usage_is_summed_and_filtered(inferbus: Run) -> None:
    lines = json.loads((await inferbus("usage", "--by", "org,model", "--json"))[1])
    for line in lines:
        mine = [event for event in EVENTS if (event.tenant, event.model) == (line["org"], line["model"])]
        assert line == {"org": line["org"], "model": line["model"], **msgspec.structs.asdict(figures_of(mine))}
    assert len(lines) == 4
    (one,) = json.loads((await inferbus("usage", "--org", "acme", "--team", "core", "--by", "org", "--json"))[1])
    assert one["requests"] == sum(event.tenant == "acme" and event.team == "core" for event in EVENTS)
    status, shown, _ = await inferbus("usage", "--by", "day")
    assert status == 0
    assert shown.splitlines()[-1].split()[:2] == ["total", "60"]
    status, _, why = await inferbus("usage", "--by", "colour")
    assert (status, "colour" in why) == (1, True)


@pytest.mark.usefixtures("counted")
async def test_verify_says_what_differs_and_fails(inferbus: Run, connect: Connect) -> None:
    status, said, _ = await inferbus("usage", "verify")
    assert (status, said) == (0, f"60 events, {len(await read_totals(await connect('admin')))} rows: all agree\n")
    ledger = await connect("ledger")
    row = (await read_totals(await connect("admin")))[0]
    wrong = msgspec.structs.replace(row, figures=msgspec.structs.replace(row.figures, cost=row.figures.cost + 5))
    await ledger.kv_put(routes.KV_TOTALS, key_of_row(row), to_json(wrong))
    status, said, _ = await inferbus("usage", "verify")
    assert status == 1
    assert f"cost is {row.figures.cost + 5}, the events say {row.figures.cost}" in said
    assert said.splitlines()[-1].endswith("1 differ")


@pytest.mark.usefixtures("counted")
async def test_export_writes_every_event(inferbus: Run, tmp_path: Path) -> None:
    from pyarrow import parquet  # noqa: PLC0415 - half a second, for one test

    status, said, why = await inferbus(
        "usage", "export", "--out", str(tmp_path / "u.parquet"), PYTHONPATH=":".join(sys.path)
    )
    assert (status, said) == (0, f"60 events written to {tmp_path / 'u.parquet'}\n"), why
    rows = parquet.read_table(tmp_path / "u.parquet").to_pylist()
    assert [row["seq"] for row in rows] == list(range(1, 61))
    assert sum(row["cost"] for row in rows) == figures_of(EVENTS).cost
    assert {row["tenant"] for row in rows} == {"dev", "acme"}
    assert [path.name for path in tmp_path.glob("*.part")] == []
