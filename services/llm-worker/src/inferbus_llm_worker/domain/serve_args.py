"""The arguments and environment a vLLM engine gets by default; whatever the operator says wins.

CPU values were measured on small machines: vLLM's own defaults want 92 % of the memory, and a client's `seed` with
chunked prefill kills a CPU engine.
"""

from __future__ import annotations

from collections.abc import Sequence

_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--tool-strict-level", "parameter")
_GRAMMARS = ("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}')

_CPU_CHAT = (
    "--max-model-len", "2048",
    "--max-num-seqs", "32",
    "--block-size", "32",              # the CPU default of 128 gives short prompts no prefix-cache hits
    "--no-enable-chunked-prefill",     # a seeded request with a split prompt kills a CPU engine
)  # fmt: skip
_CPU_ALWAYS = (
    "--enforce-eager",
    "--gpu-memory-utilization", "0.05",        # yes, this name: the share of memory that must be free at start
    "--kv-cache-memory-bytes", "67108864",
)  # fmt: skip


def default_argv(model_dir: str, served_name: str, *, cpu: bool, embed: bool, extra: Sequence[str] = ()) -> list[str]:
    """Give `vllm serve`'s argument list for a model; the last mention of a flag wins, so `extra` overrides all.

    The KV cache of the CPU defaults (64 MiB) suits models of a few hundred million parameters at most: larger ones
    need `--kv-cache-memory-bytes` in `extra`.
    """
    argv = ["--model", model_dir, "--served-model-name", served_name]
    argv += ["--scheduling-policy", "priority", "--enable-prompt-tokens-details"]
    if embed:
        argv += ["--runner", "pooling", "--convert", "embed"]
        argv += ["--dtype", "float32"] if cpu else []
    else:
        argv += [*_TOOLS, *_GRAMMARS]
        argv += ["--dtype", "bfloat16", *_CPU_CHAT] if cpu else []
    argv += _CPU_ALWAYS if cpu else ()
    return [*argv, *extra]


def engine_env(argv: Sequence[str], *, cpu: bool, offline: bool, cpu_threads: int = 1) -> dict[str, str]:
    """Give the environment vLLM should find, each name only where the operator has not set it.

    `offline`: the model is a folder on this machine, nothing may be fetched. `cpu_threads`: OpenMP threads of the
    engine process; more than one only for models that need them, they spin.
    """
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # One engine step is one pass of the event loop: never split a step's outputs.
        "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE": "65536",
        # An allowed media host must not send the worker somewhere else.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if offline:
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if cpu:
        # Without the third process (the worker inside EngineCore) a start takes 8 s instead of 20.
        env |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": str(cpu_threads)}
        if _is_eager(argv):
            # Otherwise the first request with logprobs compiles for 15 s, and everybody waits.
            env["TORCH_COMPILE_DISABLE"] = "1"
    return env


def _is_eager(argv: Sequence[str]) -> bool:
    switches = [flag for flag in argv if flag in {"--enforce-eager", "--no-enforce-eager"}]
    return bool(switches) and switches[-1] == "--enforce-eager"
