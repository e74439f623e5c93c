"""Where things lie: the checkout the platform runs from, and the one folder its state is in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

_MARK = Path("deploy/nats/nats.conf")


class NotACheckout(Exception):
    """Neither the current folder nor this package lies in an Inferbus checkout."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of one local platform. `root` is the checkout, `home` the state folder (`.inferbus/`)."""

    root: Path
    home: Path

    @property
    def secrets(self) -> Path:
        return self.home / "secrets.json"

    @property
    def dev_key(self) -> Path:
        return self.home / "dev-key"

    @property
    def admin_key(self) -> Path:
        return self.home / "admin-key"

    @property
    def store(self) -> Path:
        return self.home / "nats"

    @property
    def bus(self) -> Path:
        """The bus's users, their seeds, and the server's configuration made of them."""
        return self.home / "bus"

    @property
    def known_streams(self) -> Path:
        """What the topology process remembers. It lies with the store: who removes that, means to begin anew."""
        return self.store / "known-streams.json"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def state(self) -> Path:
        return self.run / "state.json"

    @property
    def commands(self) -> Path:
        """The supervisor's socket."""
        return self.run / "commands"

    @property
    def ports(self) -> Path:
        return self.run / "ports"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def supervisor_log(self) -> Path:
        return self.logs / "supervisor.log"

    @property
    def files(self) -> Path:
        """Uploaded files and what batches have made, where `INFERBUS_FILES_URL` does not say otherwise."""
        return self.home / "files"

    @property
    def vectors(self) -> Path:
        """The index of the vector service, where it is embedded."""
        return self.home / "vectors"

    @property
    def traces(self) -> Path:
        return self.home / "traces.jsonl"

    @property
    def nats_conf(self) -> Path:
        """The template of the bus server's configuration."""
        return self.root / _MARK

    @property
    def tiny_weights(self) -> Path:
        return self.root / "services/llm-worker/models/inferbus-tiny/weights"

    @property
    def llm_python(self) -> Path:
        return self.root / ".venv-llm/bin/python"

    @property
    def features_python(self) -> Path:
        return self.root / ".venv-features/bin/python"

    @property
    def features(self) -> Path:
        """What the features processes keep: copies of the registry and, with SQLite, the store."""
        return self.home / "features"

    @property
    def triton_environment(self) -> Path:
        return self.root / ".venv-triton"

    @property
    def triton_models(self) -> Path:
        return self.root / "services/triton-worker/models/repository"

    @property
    def triton(self) -> Path:
        """What the Triton servers keep, a folder for each worker: links and logs."""
        return self.home / "triton"

    def log_of(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def make_folders(self) -> None:
        """Create the state folder, readable by this user only: it holds keys and the queue."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        for folder in (self.store, self.run, self.ports, self.logs):
            folder.mkdir(exist_ok=True)


def find_layout(env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Layout:
    """Find the checkout around the current folder, else the one this package is installed from.

    `INFERBUS_HOME` moves the state folder, so that several platforms can run side by side.

    Raises:
        NotACheckout: there is none (an installed wheel: run the services one by one, see deploy/).
    """
    env = os.environ if env is None else env
    here = (cwd or Path.cwd()).resolve()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / _MARK).is_file() and (folder / "services").is_dir():
            home = env.get("INFERBUS_HOME", "")
            return Layout(root=folder, home=Path(home).resolve() if home else folder / ".inferbus")
    raise NotACheckout(f"{here} is not in an Inferbus checkout (no {_MARK} in it or above)")
