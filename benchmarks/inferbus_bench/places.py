"""Where things lie in the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
LOADGEN = BENCHMARKS / "loadgen"
BUILD = BENCHMARKS / "build"
RESULTS = BENCHMARKS / "RESULTS.md"
PLATFORM_BIN = ROOT / ".venv/bin"
LLM_BIN = ROOT / ".venv-llm/bin"
TINY_WEIGHTS = ROOT / "services/llm-worker/models/inferbus-tiny/weights"
