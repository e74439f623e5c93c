"""The engine's figures of the last step: what presence needs, from the scheduler's per-step record.

vLLM's own statistics cost 8-9 us per token in the front end: records of every request, Prometheus, logging.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger

from inferbus.contracts.presence import EngineStats

_WINDOW_TOKENS = 1_000_000


class StepStats:
    """Figures of one engine. `record` is called on the event loop once per engine step."""

    def __init__(self) -> None:
        self.steps = 0
        self.generated_tokens = 0
        self._running = 0
        self._waiting = 0
        self._kv_cache_usage = 0.0
        self._queried = 0
        self._hit = 0

    def record(self, scheduler: Any) -> None:
        """Take vLLM's `SchedulerStats` of a step (None where the step has none)."""
        self.steps += 1
        if scheduler is None:
            return
        self._running = scheduler.num_running_reqs
        self._waiting = scheduler.num_waiting_reqs
        self._kv_cache_usage = scheduler.kv_cache_usage
        prefix = scheduler.prefix_cache_stats
        if prefix is not None and prefix.queries:
            if self._queried > _WINDOW_TOKENS:  # the past counts half: a rate of the recent, not of all time
                self._queried //= 2
                self._hit //= 2
            self._queried += prefix.queries
            self._hit += prefix.hits

    def view(self, restarts: int) -> EngineStats:
        return EngineStats(
            running=self._running,
            waiting=self._waiting,
            kv_cache_usage=self._kv_cache_usage,
            prefix_cache_hit_rate=self._hit / self._queried if self._queried else 0.0,
            generated_tokens=self.generated_tokens,
            restarts=restarts,
        )


def stat_logger_class(stats: StepStats) -> type:
    """Make the class vLLM takes as its only stat logger.

    It derives from the Prometheus logger because the presence of one is what keeps vLLM from adding its own.
    """

    class _StepLogger(PrometheusStatLogger):  # type: ignore[misc]  # vLLM has no types in the platform's environment
        def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:
            """Build nothing of the base: it would register a hundred metrics."""

        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
            stats.record(scheduler_stats)

        def log_engine_initialized(self) -> None:
            pass

        def log(self) -> None:
            pass

        def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
            pass

        def record_admission_rejection(self, reason: str) -> None:
            pass

    return _StepLogger
