"""This worker's settings: section LLM_WORKER."""

from __future__ import annotations

from inferbus.worker.settings import PoolSettings


class WorkerSettings(PoolSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`model` is a Hugging Face id or a folder; `args` are further `vllm serve` flags, quoted as in a shell.

    `media_hosts` may be fetched from for images and the like (none unless listed). Times in seconds. `simulator_*` matter
    to the simulator only.
    """

    process: str = "llm-0"
    pool: str = "inferbus-tiny"
    runtime: str = "llm"
    model: str = ""
    served_name: str = "inferbus-tiny"
    engine: str = "vllm"
    embed: bool = False
    cpu: bool = True
    cpu_threads: int = 1
    args: str = ""
    media_hosts: list[str] = []
    hang_after_s: float = 60.0
    simulator_slots: int = 512
    simulator_itl_s: float = 0.0
    simulator_ttft_s: float = 0.0
    simulator_dimension: int = 64
