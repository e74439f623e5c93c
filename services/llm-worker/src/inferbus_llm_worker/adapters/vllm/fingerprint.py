"""The name of everything that must be equal in two vLLM engines for one to go on with the other's answer.

Not vLLM's `system_fingerprint`: that one hashes the model's path and nothing of its files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import vllm
from vllm.platforms import current_platform

from inferbus_llm_worker.adapters.vllm.boot import Booted
from inferbus_llm_worker.domain.model_identity import arguments_digest, model_digest


def fingerprint_of(booted: Booted) -> str:
    """Give `vllm-<version>-<device>-<hash>`; reads some megabytes of the model's files, so call it off the event loop."""
    model_config = booted.engine.model_config
    parts = [
        _identity(str(model_config.model), model_config.hf_config, model_config.revision),
        _identity(str(model_config.tokenizer), model_config.hf_config, model_config.tokenizer_revision),
        arguments_digest(vars(booted.args)),
        # What the arguments leave open, as this machine resolved it.
        [str(model_config.dtype), str(model_config.quantization), int(model_config.max_model_len)],
        bool(getattr(booted.engine.vllm_config, "use_v2_model_runner", False)),
    ]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return f"vllm-{vllm.__version__}-{current_platform.device_type}-{digest[:16]}"


def _identity(model: str, hf_config: Any, revision: str | None) -> str:
    """Give a folder's content or a hub id with its commit."""
    place = Path(model)
    if place.exists():
        return model_digest(place)
    return f"{model}@{getattr(hf_config, '_commit_hash', None) or revision or ''}"
