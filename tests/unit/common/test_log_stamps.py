from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from inferbus.telemetry.logs import _stamps


@pytest.mark.parametrize("ns", [0, 1_795_392_829_000_000_000, 1_795_392_829_474_169_856, 1_795_392_830_000_001_999])
def test_says_the_time_to_the_microsecond(monkeypatch: pytest.MonkeyPatch, ns: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: ns)
    second, micros = divmod(ns // 1000, 1_000_000)
    said = datetime.fromtimestamp(second, UTC).replace(microsecond=micros).isoformat(timespec="microseconds")
    assert _stamps()() == said.removesuffix("+00:00") + "Z"


def test_another_second_is_another_text(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([59_999_999_999, 60_000_000_000, 60_000_001_000, 59_000_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    stamp = _stamps()
    assert [stamp() for _ in range(4)] == [
        "1970-01-01T00:00:59.999999Z", "1970-01-01T00:01:00.000000Z", "1970-01-01T00:01:00.000001Z",
        "1970-01-01T00:00:59.000000Z",
    ]  # fmt: skip
