"""A feature repository: a folder of Python files with Feast's objects in them, made into a registry's bytes."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource

from inferbus.contracts.features import Catalogue
from inferbus.errors import InvalidRequest
from inferbus.routes import token_safe
from inferbus_features.adapters.feast.catalogue import catalogue_of, definitions_of

PROJECT = "inferbus"
_DEFINITIONS = (Entity, FeatureView, OnDemandFeatureView, FeatureService, DataSource)


class FeastRepositories:
    """Implements `Repositories`. It runs the repository's code: in a process of its own, by whoever may apply."""

    def __init__(self, project: str = PROJECT) -> None:
        self._project = project

    def compile_repository(self, folder: str) -> tuple[bytes, Catalogue]:
        """Run a repository's files; gives the registry's bytes, and what is in it. A registry is made anew each time: what
        is not in the files is not in it.

        Raises:
            InvalidRequest: it cannot be, and which file or definition is why.
        """
        root = Path(folder)
        if not root.is_dir():
            raise InvalidRequest(f"{folder} is no folder", param="folder")
        definitions = list(_definitions_in(root))
        if not any(isinstance(one, FeatureView) for one in definitions):
            raise InvalidRequest(f"{folder} defines no feature view", param="folder")
        with tempfile.TemporaryDirectory() as scratch:
            store = FeatureStore(config=_config(self._project, Path(scratch)))
            try:
                store.apply(definitions, partial=False)
                catalogue = catalogue_of(definitions_of(store.registry, self._project), self._project)
            except InvalidRequest:
                raise
            except Exception as exc:  # Feast has no common type for what is wrong with a definition
                raise InvalidRequest(f"{folder}: {exc}", param="folder") from exc
            registry = (Path(scratch) / "registry.db").read_bytes()
        _check_names(catalogue)
        return registry, msgspec.structs.replace(catalogue, revision=hashlib.sha256(registry).hexdigest())


def _config(project: str, scratch: Path) -> RepoConfig:
    return RepoConfig(
        project=project,
        provider="local",
        registry={"path": str(scratch / "registry.db")},
        online_store={"type": "sqlite", "path": str(scratch / "online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )


def _definitions_in(root: Path) -> Iterator[Any]:
    """Give every definition of every file, once; one that makes several says so in `definitions()`."""
    seen: set[int] = set()
    sys.path.insert(0, str(root.resolve()))
    try:
        for path in sorted(root.resolve().rglob("*.py")):
            for found in vars(_module(path, root.resolve())).values():
                made = found.definitions() if hasattr(found, "definitions") and not isinstance(found, type) else [found]
                for one in made:
                    if isinstance(one, _DEFINITIONS) and id(one) not in seen:
                        seen.add(id(one))
                        yield one
    finally:
        sys.path.remove(str(root.resolve()))


def _module(path: Path, root: Path) -> ModuleType:
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):  # another file of the repository has imported it
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{path} cannot be read as Python", param=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[name]
        raise InvalidRequest(f"{path}: {type(exc).__name__}: {exc}", param=str(path)) from exc
    return module


def _check_names(catalogue: Catalogue) -> None:
    """Refuse names that cannot stand in a subject.

    Raises:
        InvalidRequest.
    """
    for kind, records in (("service", catalogue.services), ("source", catalogue.sources)):
        for record in records:
            if token_safe(record.name) != record.name:
                raise InvalidRequest(f"{kind} {record.name!r}: use letters, digits, _ and -", param=record.name)
