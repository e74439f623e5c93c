"""What a value is: judged once for a batch, cut to requests."""

from __future__ import annotations

import pytest

from inferbus.contracts.features import DEFAULT, MISSING, PRESENT, STALE
from inferbus.errors import FeaturesStale
from inferbus_features.domain.services import ColumnSpec
from inferbus_features.domain.statuses import cut, judge
from inferbus_features.domain.window import Window
from inferbus_features.ports import Column

NOW = 1000.0
PLAIN = ColumnSpec("x", "v", "int64", 60.0, None)
WITH_DEFAULT = ColumnSpec("x", "v", "int64", 60.0, 7)
COLUMN = Column("x", "v", [1, 2, None, 4], [990.0, 900.0, 0.0, 990.0])


def test_values_are_present_stale_missing_or_their_default() -> None:
    assert judge(COLUMN, PLAIN, NOW).status == [PRESENT, STALE, MISSING, PRESENT]
    judged = judge(COLUMN, WITH_DEFAULT, NOW)
    assert (judged.values, judged.status) == ([1, 2, 7, 4], [PRESENT, STALE, DEFAULT, PRESENT])
    assert judge(Column("x", "v", [1, 2], [990.0, 950.0]), PLAIN, NOW).status is None
    assert judge(Column("x", "v", [1], [0.0]), ColumnSpec("x", "v", "int64", 0.0, None), NOW).status is None


def test_a_request_gets_its_part() -> None:
    judged = judge(COLUMN, PLAIN, NOW)
    first = cut(judged, 0, 2, now=NOW, max_age_s=None, ages=False)
    assert (first.values, first.status, first.age_s) == ([1, 2], [PRESENT, STALE], [None, 100.0])
    last = cut(judged, 3, 4, now=NOW, max_age_s=None, ages=False)
    assert (last.values, last.status, last.age_s) == ([4], [], []), "nothing is said of what is present"
    assert cut(judged, 2, 4, now=NOW, max_age_s=None, ages=True).age_s == [None, 10.0]


def test_what_is_too_old_is_refused_or_its_default() -> None:
    with pytest.raises(FeaturesStale, match="x of row 1 is 100 s old, the limit is 50 s") as caught:
        cut(judge(COLUMN, PLAIN, NOW), 0, 4, now=NOW, max_age_s=50, ages=False)
    assert caught.value.param == "x"
    judged = judge(COLUMN, WITH_DEFAULT, NOW)
    part = cut(judged, 0, 4, now=NOW, max_age_s=50, ages=False)
    assert (part.values, part.status) == ([1, 7, 7, 4], [PRESENT, DEFAULT, DEFAULT, PRESENT])
    assert judged.values == [1, 2, 7, 4], "other requests of the batch see what there is"


def test_a_batch_waits_only_for_what_is_to_be_expected() -> None:
    window = Window(0.002, 64)
    assert window.wait_s(1) == 0.0, "alone"
    for n in range(100):
        window.came(10 + n * 0.0002)
    assert 0 < window.wait_s(1) <= 0.002
    assert window.wait_s(64) == 0.0
    window.came(20.0)
    assert window.wait_s(1) == 0.0, "it was quiet for long"
