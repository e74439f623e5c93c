from __future__ import annotations

import pytest
from tests.unit.gateway.fakes import Door


@pytest.fixture
async def door() -> Door:
    return Door()
