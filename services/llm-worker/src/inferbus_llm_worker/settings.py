"""This worker's settings: section LLM_WORKER."""

from __future__ import annotations

import msgspec


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`model` is a Hugging Face id or a folder; `args` are further `vllm serve` flags, quoted as in a shell.

    `pool` and `runtime` say which queue it pulls; `media_hosts` may be fetched from for images and the like (none unless
    listed). Times in seconds. `simulator_*` matter to the simulator only.
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
    drain_grace_s: float = 30.0
    old_message_s: float = 5.0
    hang_after_s: float = 60.0
    simulator_slots: int = 512
    simulator_itl_s: float = 0.0
    simulator_ttft_s: float = 0.0
