from __future__ import annotations

from inferbus_llm_worker.domain.serve_args import default_argv, engine_env


def test_cpu_defaults_protect_a_small_machine() -> None:
    argv = default_argv("/models/tiny", "tiny", cpu=True, embed=False)
    assert argv[:4] == ["--model", "/models/tiny", "--served-model-name", "tiny"]
    assert "--no-enable-chunked-prefill" in argv
    assert argv[argv.index("--gpu-memory-utilization") + 1] == "0.05"
    assert argv[argv.index("--kv-cache-memory-bytes") + 1] == str(64 << 20)


def test_a_gpu_gets_none_of_the_cpu_flags() -> None:
    argv = default_argv("m", "m", cpu=False, embed=False)
    for flag in (
        "--enforce-eager",
        "--gpu-memory-utilization",
        "--kv-cache-memory-bytes",
        "--max-model-len",
        "--dtype",
    ):
        assert flag not in argv
    assert "--enable-auto-tool-choice" in argv


def test_an_embedding_engine_has_no_tools() -> None:
    argv = default_argv("m", "m", cpu=True, embed=True)
    assert argv[argv.index("--runner") + 1] == "pooling"
    assert argv[argv.index("--dtype") + 1] == "float32"
    assert "--tool-call-parser" not in argv


def test_the_operators_flags_come_last() -> None:
    argv = default_argv("m", "m", cpu=True, embed=False, extra=["--max-num-seqs", "8"])
    assert argv[-2:] == ["--max-num-seqs", "8"]


def test_environment_of_an_eager_cpu_engine() -> None:
    argv = default_argv("m", "m", cpu=True, embed=False)
    env = engine_env(argv, cpu=True, offline=True)
    assert env["TORCH_COMPILE_DISABLE"] == "1"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["OMP_NUM_THREADS"] == "1"


def test_compiling_is_left_on_where_it_is_wanted() -> None:
    argv = default_argv("m", "m", cpu=True, embed=False, extra=["--no-enforce-eager"])
    assert "TORCH_COMPILE_DISABLE" not in engine_env(argv, cpu=True, offline=True)


def test_a_model_to_download_and_a_gpu() -> None:
    env = engine_env(default_argv("m", "m", cpu=False, embed=False), cpu=False, offline=False)
    assert not env.keys() & {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS", "VLLM_TARGET_DEVICE"}
    assert env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
