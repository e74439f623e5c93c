"""Telling whether two machines hold the same model and started it alike, without reading all of it.

Small files (configuration, tokenizer, chat template) are hashed whole, weights by name, size and samples. No path enters
a hash: equal files at other places are equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KINDS = frozenset({
    ".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".safetensors", ".bin", ".pt", ".pth", ".gguf",
})  # fmt: skip
"""Files that say what a model is; a README beside them does not."""
_WHOLE_BYTES = 32 << 20
_SAMPLE_BYTES = 64 << 10
_SAMPLES = 16
_MAX_PATH = 4096

_OPERATIONAL = frozenset({
    "model", "model_tag", "tokenizer", "config", "download_dir", "hf_token", "host", "port", "uds", "root_path",
    "api_key", "api_server_count", "headless", "middleware", "allow_credentials", "allowed_origins", "allowed_methods",
    "allowed_headers", "scheduling_policy", "max_num_seqs", "max_num_queued_reqs", "max_num_queued_tokens",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "enable_prefix_caching",
    "disable_log_stats", "enable_log_requests", "enable_log_outputs", "enable_log_deltas", "max_log_len",
    "otlp_traces_endpoint", "collect_detailed_traces", "show_hidden_metrics_for_version", "sse_keep_alive_interval",
    "subparser", "dispatch_function", "uvicorn_log_level", "disable_uvicorn_access_log", "log_config_file",
    "master_addr", "master_port", "node_rank", "data_parallel_address", "data_parallel_rpc_port",
    "data_parallel_rank", "data_parallel_start_rank", "enable_request_id_headers", "h11_max_header_count",
    "h11_max_incomplete_event_size", "shutdown_timeout",
})  # fmt: skip
"""Arguments of `vllm serve` that do not change what is generated. One that is not listed counts."""


def model_digest(place: Path) -> str:
    """Give the hash of a model's folder, or of one file."""
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.suffix in _KINDS)
    for path in files:
        if path.is_file():
            digest.update(f"{'' if path == place else path.name}\0{path.stat().st_size}\0".encode())
            _feed(digest, path)
    return digest.hexdigest()


def arguments_digest(arguments: Mapping[str, Any]) -> str:
    """Give the hash of an engine's arguments, less those that only say how it is run."""
    counted = {name: _portable(value) for name, value in arguments.items() if name not in _OPERATIONAL}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def _portable(value: Any) -> Any:
    """Give a JSON value that is the same on equal machines: what names something on this one becomes its content."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): _portable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return model_digest(Path(value)) if _is_place(value) else value
    text = repr(value)
    return text if " at 0x" not in text else type(value).__name__


def _is_place(text: str) -> bool:
    # Only whole paths: a relative one is the same word on equal machines, and a model's name looks like one.
    return text.startswith("/") and len(text) < _MAX_PATH and "\n" not in text and Path(text).exists()


def _feed(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
            return
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
