from __future__ import annotations

from pathlib import Path

import pytest

from inferbus_triton_worker.adapters.installation import Installation, Ports, command_line, environment_of, lay_out


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    """An environment's files, empty ones."""
    found = Installation(
        python="3.11", site=str(tmp_path / "site"), library=str(tmp_path / "libpython3.11.so.1.0"), error=""
    )
    for file in (found.server / "backends/python/libtriton_python.so", found.stub, Path(found.library)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    (found.server / "backends/python/__pycache__").mkdir()
    return found


def test_stub_lies_beside_its_backend(installed: Installation, tmp_path: Path) -> None:
    state = tmp_path / "state"
    for _ in range(2):  # what was there is replaced
        lay_out(installed, state)
    backend = state / "backends/python"
    assert sorted(file.name for file in backend.iterdir()) == ["libtriton_python.so", "triton_python_backend_stub"]
    assert (backend / "libtriton_python.so").resolve() == installed.server / "backends/python/libtriton_python.so"
    assert [file.name for file in (state / "lib").iterdir()] == ["libpython3.11.so.1.0"]


def test_command_line(installed: Installation, tmp_path: Path) -> None:
    argv = command_line(
        installed, tmp_path, Ports(grpc=1, http=2, metrics=3), repository=tmp_path / "models", models=("a", "b"),
        cache_bytes=4, region_prefix="mine_", exit_timeout_s=3,
    )  # fmt: skip
    assert {"--grpc-port=1", "--http-port=2", "--metrics-port=3", "--http-address=127.0.0.1"} <= set(argv)
    assert [one for one in argv if one.startswith("--load-model")] == ["--load-model=a", "--load-model=b"]
    assert "--backend-config=python,shm-region-prefix-name=mine_" in argv


def test_models_get_their_python_and_no_secret_of_ours(tmp_path: Path) -> None:
    ours = {
        "PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib", "INFERBUS_BUS_NKEY_SEED_FILE": "x", "PYTHONPATH": "src",
        "HOME": "/root", "OMP_NUM_THREADS": "2",
    }  # fmt: skip
    env = environment_of(tmp_path / "venv", tmp_path / "state", ours)
    assert env["PATH"] == f"{tmp_path}/venv/bin:/usr/bin"
    assert env["LD_LIBRARY_PATH"] == f"{tmp_path}/state/lib:/opt/lib"
    assert (env["HOME"], env["OMP_NUM_THREADS"]) == ("/root", "2")
    assert not {"INFERBUS_BUS_NKEY_SEED_FILE", "PYTHONPATH"} & set(env)
