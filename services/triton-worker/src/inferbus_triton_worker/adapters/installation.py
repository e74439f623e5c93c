"""Where Triton's server lies in an environment, and its command line.

The server comes with the `nvidia-pytriton` wheel, which is used for its files only. The wheel keeps the program that runs
a Python model (the stub) outside the backend's folder, one per Python version, so a folder of links is laid out here.
Links, not copies: the server's libraries are found relative to where a link leads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

_PROBE_S = 30.0
_PROBE = """
import ctypes, json, os, sys, sysconfig
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
beside = os.path.join(sysconfig.get_config_var("LIBDIR") or "", name)
found = beside if os.path.exists(beside) else ""
try:
    ctypes.CDLL(found or name)
    error = ""
except OSError as exc:
    error = str(exc)
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "site": sysconfig.get_path("purelib"), "library": found, "error": error}))
"""
_LIBRARY_PATH = "LD_LIBRARY_PATH"
_OURS = "INFERBUS_"
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class ServerMissing(Exception):
    """The environment has no Triton server, or it cannot run its models; the message says what to do."""


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment has: its Python's version, its packages' folder, its shared Python library (empty: the
    system's) and why that cannot be loaded (empty: it can)."""

    python: str
    site: str
    library: str
    error: str

    @property
    def server(self) -> Path:
        return Path(self.site) / "pytriton" / "tritonserver"

    @property
    def stub(self) -> Path:
        return self.server / "python_backend_stubs" / self.python / "triton_python_backend_stub"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where one server listens, all on 127.0.0.1."""

    grpc: int
    http: int
    metrics: int


async def find_installation(environment: Path) -> Installation:
    """Ask an environment's Python what is there. About 50 ms.

    Raises:
        ServerMissing: there is no such environment, no server in it, or no shared Python library. Without the last the
            server would wait for its models for ever.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        raise ServerMissing(f"{environment} is no environment: `make install` makes it")
    try:
        async with asyncio.timeout(_PROBE_S):
            process = await asyncio.create_subprocess_exec(
                str(python), "-c", _PROBE, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
            )
            answer, _ = await process.communicate()
        found = msgspec.json.decode(answer, type=Installation)
    except (OSError, TimeoutError, msgspec.DecodeError) as exc:
        raise ServerMissing(f"{python} does not say what it is: {exc!r}") from exc
    if not (found.server / "bin" / "tritonserver").exists():
        raise ServerMissing(f"{environment} has no Triton server: nvidia-pytriton is missing (`make install`)")
    if not found.stub.exists():
        raise ServerMissing(f"this Triton runs no models of Python {found.python}")
    if found.error:
        raise ServerMissing(
            f"Triton's models need Python's shared library (Debian: apt-get install libpython{found.python}): {found.error}"
        )
    return found


def lay_out(found: Installation, folder: Path) -> None:
    """Make `folder/backends` and `folder/lib`: links to the server's parts. What was there is replaced."""
    shutil.rmtree(folder / "backends", ignore_errors=True)
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (found.server / "backends" / "python").iterdir():
        if not file.name.startswith("__"):
            (backend / file.name).symlink_to(file)
    (backend / found.stub.name).symlink_to(found.stub)
    shutil.rmtree(folder / "lib", ignore_errors=True)
    (folder / "lib").mkdir()
    if found.library:  # alone in a folder: beside it may lie libraries that would hide the server's own
        (folder / "lib" / Path(found.library).name).symlink_to(found.library)


def command_line(
    found: Installation,
    folder: Path,
    ports: Ports,
    *,
    repository: Path,
    models: Sequence[str],
    cache_bytes: int,
    region_prefix: str,
    exit_timeout_s: int,
) -> list[str]:
    """Give the server's arguments. One model that cannot be loaded does not keep the others from being served."""
    argv = [
        str(found.server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={region_prefix}",
        f"--cache-directory={found.server / 'caches'}",
        f"--cache-config=local,size={cache_bytes}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--disable-auto-complete-config",  # it would start every model twice
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--exit-timeout-secs={exit_timeout_s}",  # with a dead stub all of it is waited for
        "--allow-gpu-metrics=false",
        "--metrics-config=summary_latencies=true",
    ]
    for endpoint in msgspec.structs.fields(Ports):
        argv += [f"--{endpoint.name}-address=127.0.0.1", f"--{endpoint.name}-port={getattr(ports, endpoint.name)}"]
    return argv


def environment_of(environment: Path, folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Give the server's environment: `env` without secrets of ours (models run code of other people), the models'
    Python first on the path, and one thread a model unless `env` says otherwise: each instance is a process."""
    kept = {key: value for key, value in env.items() if not key.startswith(_OURS) and key not in _FOREIGN}
    search = [str(folder / "lib"), *filter(None, [kept.get(_LIBRARY_PATH)])]
    ours = {
        "PATH": f"{environment.absolute() / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}",
        _LIBRARY_PATH: os.pathsep.join(search),
    }
    return {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | kept | ours
