"""Chaos in small: a few random faults under load, seen by the same oracle as the long run (`make chaos`)."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import pytest
from tests.chaos.__main__ import simulated
from tests.chaos.campaign import play
from tests.chaos.faults import SIMULATED
from tests.chaos.load import Load
from tests.chaos.platform import ChaosPlatform, Setting
from tests.chaos.report import render

FAULTS = 8


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_no_stream_is_lost_or_doubled_whatever_breaks(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**9)
    async with ChaosPlatform(tmp_path, Setting(gateways=2)) as platform:
        load = Load(platform, simulated, clients=12, durable=4, draw=random.Random(seed))
        outcome = await play(platform, load, SIMULATED, faults=FAULTS, seed=seed, say=print)
    report = render(outcome, engine="simulator")
    print(report)
    assert outcome.passed(FAULTS), report
