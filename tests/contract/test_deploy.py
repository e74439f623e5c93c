"""Deploy files against the code. No container engine runs here: what can be checked without one is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from inferbus.bus_users.folder import UsersFolder
from inferbus.bus_users.render import render
from inferbus.bus_users.template import read_template
from inferbus.cli import bus_users
from inferbus.cli.models import read_models
from inferbus.files.settings import FilesSettings
from inferbus.ledger.main import LedgerSettings
from inferbus.local.features import features_specs
from inferbus.local.layout import Layout
from inferbus.local.processes import (
    Platform,
    batch_spec,
    gateway_spec,
    ledger_spec,
    nats_spec,
    topology_spec,
    vectors_spec,
    worker_specs,
)
from inferbus.local.secrets import Secrets
from inferbus.local.serving import UpOptions, served_models
from inferbus.local.triton import served_by_triton, triton_entries, triton_specs
from inferbus.settings import BusSettings, HealthSettings, from_env
from inferbus.topology.configs import TopologySettings
from inferbus_batch.settings import BatchSettings
from inferbus_features.settings import FeaturesSettings
from inferbus_gateway.settings import GatewaySettings
from inferbus_llm_worker.settings import WorkerSettings
from inferbus_triton_worker.settings import TritonSettings
from inferbus_vectors.settings import VectorsSettings

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))
SETTINGS: list[tuple[str, type[msgspec.Struct]]] = [
    ("bus", BusSettings), ("gateway", GatewaySettings), ("health", HealthSettings), ("llm_worker", WorkerSettings),
    ("topology", TopologySettings), ("ledger", LedgerSettings), ("triton_worker", TritonSettings),
    ("files", FilesSettings), ("batch", BatchSettings), ("features", FeaturesSettings), ("vectors", VectorsSettings),
]  # fmt: skip
# Where it runs, and as what: rightly different.
_OWN = re.compile(
    r"INFERBUS_(NATS_(HOST|PORT|STORE|MONITOR)|BUS_URL|BUS_NKEY_SEED(_FILE)?|(GATEWAY|HEALTH)_(HOST|PORT)|GATEWAY_ADMIN_(KEYS|NKEY_SEED(_FILE)?)|LLM_WORKER_MODEL|TRITON_WORKER_(ENVIRONMENT|REPOSITORY|STATE)|FEATURES_(STATE|STORE|REDIS)|TOPOLOGY_KNOWN_STREAMS|FILES_URL|VECTORS_FOLDER"
    r"|TELEMETRY_.*)"
)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    return found


def image_env(dockerfile: str) -> dict[str, str]:
    text = (ROOT / "deploy/docker" / dockerfile).read_text()
    return dict(re.findall(r"\b(INFERBUS_[A-Z_]+)=(\S+)", text))


def env_of(compose: dict[str, Any], service: str) -> dict[str, str]:
    """Give what a container gets: the image's environment and compose's, secrets as `$NAME`."""
    described = compose["services"][service]
    env = image_env(Path(described["build"]["dockerfile"]).name) if "build" in described else {}
    given = {
        name: re.sub(r"\$\{(\w+):\?[^}]*\}", r"$\1", str(value)) for name, value in described["environment"].items()
    }
    return env | given


def up_env(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Give what `inferbus up` gives the same processes, with the same secrets."""
    secrets = Secrets(key_pepper="$INFERBUS_GATEWAY_KEY_PEPPER", admin_mac="mac")
    layout = Layout(root=ROOT, home=tmp_path)
    platform = Platform(layout=layout, secrets=secrets, options=UpOptions(embed=True, features=1))
    chat, embed = served_models(platform.options, layout)
    (triton,) = served_by_triton(layout, 1)
    url = "nats://nats:4222"
    specs = {
        "nats": nats_spec(platform, port=4222),
        "topology": topology_spec(platform, bus_url=url),
        "ledger": ledger_spec(platform, bus_url=url),
        "batch": batch_spec(platform, bus_url=url),
        "vectors": vectors_spec(platform, bus_url=url),
        "gateway": gateway_spec(platform, bus_url=url, port=8080),
        "llm-worker": worker_specs(platform, chat, bus_url=url)[0],
        "embed-worker": worker_specs(platform, embed, bus_url=url)[0],
        "triton-worker": triton_specs(platform, triton, bus_url=url)[0],
        "features": features_specs(platform, bus_url=url)[0],
    }
    return {
        name: {key: value for key, value in spec.env.items() if key.startswith("INFERBUS_")}
        for name, spec in specs.items()
    }


_SERVICES = [
    "topology",
    "ledger",
    "batch",
    "vectors",
    "gateway",
    "llm-worker",
    "embed-worker",
    "triton-worker",
    "features",
]


@pytest.mark.parametrize("service", ["nats", *_SERVICES])
def test_compose_gives_what_up_gives(compose: dict[str, Any], tmp_path: Path, service: str) -> None:
    defaults = {
        f"INFERBUS_{section.upper()}_{field.encode_name.upper()}": str(field.default).lower()
        for section, struct in SETTINGS
        for field in msgspec.structs.fields(struct)
    }
    in_container, in_up = env_of(compose, service), up_env(tmp_path)[service]
    for name in (in_container.keys() | in_up.keys()) - {"INFERBUS_HOME"}:
        if not _OWN.fullmatch(name):
            default = defaults.get(name)
            assert in_container.get(name, default) == in_up.get(name, default), name


@pytest.mark.parametrize("service", _SERVICES)
def test_services_know_every_variable_they_get(compose: dict[str, Any], service: str) -> None:
    for section, struct in SETTINGS:
        from_env(struct, section, env_of(compose, service))


def test_the_bus_gets_every_variable_its_configuration_asks_for(compose: dict[str, Any], tmp_path: Path) -> None:
    lines = render(read_template((ROOT / "deploy/nats/nats.conf").read_text()), []).splitlines()
    asked = set(re.findall(r"\$(INFERBUS_\w+)", "\n".join(line for line in lines if not line.startswith("#"))))
    assert asked == set(compose["services"]["nats"]["environment"])
    assert asked <= set(up_env(tmp_path)["nats"])


def test_compose_asks_for_the_seeds_that_init_prints(
    compose: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = re.search(r"inferbus bus-users init (.*?) --folder deploy/bus", (ROOT / "deploy/README.md").read_text())
    assert command is not None
    pools = re.findall(r"--pool (\S+)", command[1])
    bus_users.init(pool=pools, region="local", folder=tmp_path / "bus", template=ROOT / "deploy/nats/nats.conf")
    printed = {line.partition("=")[0] for line in capsys.readouterr().out.splitlines()}
    env = {service: env_of(compose, service) for service in compose["services"] if service not in {"nats", "redis"}}
    assert {one["INFERBUS_BUS_NKEY_SEED"].removeprefix("$") for one in env.values()} == printed
    users = {user.login: user for user in UsersFolder(tmp_path / "bus", ROOT / "deploy/nats/nats.conf").read().users}
    for service, one in env.items():
        user = users[one["INFERBUS_BUS_USER"]]
        assert one["INFERBUS_BUS_NKEY_SEED"] == f"$INFERBUS_{user.name.upper().replace('-', '_')}_SEED", service


@pytest.mark.parametrize(
    ("service", "drain_s"),
    [
        ("gateway", GatewaySettings().drain_s),
        ("batch", BatchSettings().drain_s),
        ("vectors", VectorsSettings().drain_s),
        ("llm-worker", WorkerSettings().drain_grace_s),
        ("embed-worker", WorkerSettings().drain_grace_s),
        ("triton-worker", TritonSettings().drain_grace_s),
        ("features", FeaturesSettings().drain_s),
    ],
)
def test_containers_may_drain_before_they_are_killed(compose: dict[str, Any], service: str, drain_s: float) -> None:
    assert compose["services"][service]["stop_grace_period"] == f"{drain_s + 10:g}s"


def test_models_applied_are_those_of_up(tmp_path: Path) -> None:
    served = served_models(UpOptions(embed=True), Layout(root=ROOT, home=tmp_path))
    for one in served:
        assert read_models(ROOT / f"deploy/models/{one.entry.name}.toml") == [one.entry]
    assert read_models(ROOT / "deploy/models/triton.toml") == list(triton_entries())


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_images_are_pinned_unprivileged_and_watched(file: Path) -> None:
    text = file.read_text()
    final = text.rsplit("\nFROM ", 1)[1]
    assert text.count("\nFROM ") == 2  # a build stage: pip's leftovers and the sources stay behind
    assert re.search(r"^USER \d+$", final, re.MULTILINE)
    assert "\nHEALTHCHECK " in final
    assert "\nENTRYPOINT [" in final
    for line in re.findall(r"pip install (.*?)(?:\n(?! )|$)", text.replace("\\\n", " "), re.DOTALL):
        assert "--no-deps" in line
        assert "--require-hashes" in line or "./libs/common" in line
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path


def test_every_image_is_used(compose: dict[str, Any]) -> None:
    used = {service["build"]["dockerfile"] for service in compose["services"].values() if "build" in service}
    assert used == {str(file.relative_to(ROOT)) for file in DOCKERFILES}


ONLY_TRITON = ("grpcio", "numpy", "tritonclient")
_IMPORT_ALL = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("grpc", "numpy", "tritonclient"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
for package in ("inferbus", "inferbus_gateway"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_only_the_triton_worker_has_its_client(file: Path) -> None:
    services = set(re.findall(r"requirements/(services|triton-worker|vectors)\.txt", file.read_text()))
    wanted = {"llm-worker": set(), "triton-worker": {"triton-worker"}, "vectors": {"vectors"}, "features": set()}
    assert services == wanted.get(file.stem, {"services"})
    for name in services:
        text = (ROOT / f"requirements/{name}.txt").read_text()
        found = [package for package in ONLY_TRITON if re.search(rf"^{package}==", text, re.MULTILINE)]
        has = {"triton-worker": list(ONLY_TRITON), "vectors": ["grpcio", "numpy"]}
        assert found == has.get(name, [])


def test_the_gateway_and_the_platform_run_without_it() -> None:
    """`infer` of the SDK imports numpy when it is called."""
    done = subprocess.run([sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "inferbus_gateway.main" in done.stdout
    assert "inferbus.client" in done.stdout
