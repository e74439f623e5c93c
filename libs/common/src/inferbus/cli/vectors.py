"""`inferbus vectors`: collections, documents and search, through the HTTP door like any other client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from inferbus.cli import vector_letters, watchlists
from inferbus.cli.administration import at, say_json, say_table, seconds_of
from inferbus.cli.vector_index import SOME_FAILED, Reading, index_files
from inferbus.cli.vector_options import Json, Key, Name, Url, with_api
from inferbus.cli.vector_reindex import follow_reindexing
from inferbus.errors import InvalidRequest
from inferbus.vectors.http_api import VectorsApi
from inferbus.vectors.shapes import BackupFileObject, CollectionObject

app = typer.Typer(
    no_args_is_help=True, help="Search over documents: create, index, search, reindex, stats, list, delete, watch."
)
app.add_typer(vector_letters.app, name="dead-letters")
app.add_typer(watchlists.app, name="watch")
_SHOWN_CHARS = 160
_CHUNK_CHARS = 600
"""Fits models that read 256 tokens, such as all-minilm-l6-v2."""


@app.command()
def create(
    name: Name,
    model: Annotated[str, typer.Option("--model", help="What embeds its texts; none: documents have vectors.")] = "",
    dimension: Annotated[int, typer.Option("--dimension", min=0, help="Of its vectors; 0: the model's.")] = 0,
    distance: Annotated[str, typer.Option("--distance", help="cosine, dot or euclid.")] = "cosine",
    field: Annotated[
        list[str] | None, typer.Option("--field", help="NAME or NAME:TYPE of the payload, to filter by.")
    ] = None,
    max_chars: Annotated[
        int, typer.Option("--max-chars", min=0, help="Longest chunk; 0: texts stay whole.")
    ] = _CHUNK_CHARS,
    overlap: Annotated[int, typer.Option("--overlap", min=0, help="Characters that chunks share.")] = 0,
    retention: Annotated[str, typer.Option("--retention", help="Documents go after that long: 30d.")] = "",
    url: Url = "",
    key: Key = "",
    *,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Keep texts for BM25 as well.")] = False,
) -> None:
    """Make a collection."""
    wanted = {
        "name": name, "model": model, "dimension": dimension, "distance": distance, "hybrid": hybrid,
        "fields": [_field(one) for one in field or []],
        "chunking": {"max_chars": max_chars, "overlap_chars": overlap},
        "retention_s": float(seconds_of(retention)) if retention else 0.0,
    }  # fmt: skip
    made = with_api(url, key, lambda api: api.create_collection(wanted))
    typer.echo(f"{made.name}: {made.model or 'ready vectors'}, {made.dimension} numbers, {made.distance}")


@app.command()
def index(
    name: Name,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="JSON lines, CSV or Parquet; `*` works.")],
    model: Annotated[str, typer.Option("--model", help="Make the collection first, if it is not there.")] = "",
    id_column: Annotated[str, typer.Option("--id", help="The column with the documents' ids.")] = "id",
    text_column: Annotated[str, typer.Option("--text", help="The column with their texts.")] = "text",
    vector_column: Annotated[str, typer.Option("--vector", help="The column with their vectors, if any.")] = "vector",
    max_chars: Annotated[int, typer.Option("--max-chars", min=0, help="With --model: longest chunk.")] = _CHUNK_CHARS,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, max=64, help="Requests at once.")] = 4,
    batch: Annotated[int, typer.Option("--batch", min=1, max=4096, help="Documents in one request.")] = 256,
    url: Url = "",
    key: Key = "",
    *,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="With --model: keep texts for BM25 as well.")] = False,
) -> None:
    """Index documents: every row is one. What is not id, text or vector is its payload (`payload`, where there is one)."""
    reading = Reading(id=id_column, text=text_column, vector=vector_column, batch=batch, in_flight=in_flight)

    async def work(api: VectorsApi) -> int:
        if model and not any([one.name == name async for one in api.collections()]):
            chunking = {"max_chars": max_chars}
            await api.create_collection({"name": name, "model": model, "hybrid": hybrid, "chunking": chunking})
        return await index_files(api, name, files, reading, Console())

    if with_api(url, key, work):
        raise typer.Exit(SOME_FAILED)


@app.command()
def search(
    name: Name,
    text: Annotated[str, typer.Argument(help="What to look for.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 5,
    like: Annotated[str, typer.Option("--like", help="Instead of a text: what is near this document.")] = "",
    mode: Annotated[str, typer.Option("--mode", help="dense, sparse or hybrid.")] = "dense",
    where: Annotated[str, typer.Option("--filter", help='JSON: {"type":"eq","key":"lang","value":"en"}.')] = "",
    threshold: Annotated[float | None, typer.Option("--threshold", help="Only hits of at least this score.")] = None,
    rerank: Annotated[str, typer.Option("--rerank", help="A model that orders the best anew.")] = "",
    url: Url = "",
    key: Key = "",
    *,
    exact: Annotated[bool, typer.Option("--exact", help="Look at every vector.")] = False,
    json: Json = False,
) -> None:
    """Search a collection."""
    wanted: dict[str, Any] = {"limit": limit, "mode": mode, "exact": exact}
    wanted |= {"like": like} if like else {"text": text}
    wanted |= {"filter": _json_of(where, "--filter")} if where else {}
    wanted |= {"threshold": threshold} if threshold is not None else {}
    wanted |= {"rerank": {"model": rerank}} if rerank else {}
    found = with_api(url, key, lambda api: api.search(name, wanted))
    if json:
        say_json(found)
        return
    for hit in found.data:
        line = " ".join(hit.text.split())[:_SHOWN_CHARS]
        typer.echo(f"{hit.score:7.4f}  {hit.id}{f' #{hit.chunk}' if hit.chunk else ''}\n         {line}")
    typer.echo(f"{len(found.data)} hits in {found.took_ms:.1f} ms ({found.model or 'vectors'})")


@app.command()
def reindex(
    name: Name,
    model: Annotated[str, typer.Option("--model", help="The model it is to have.")],
    dimension: Annotated[int, typer.Option("--dimension", min=0, help="0: the model's.")] = 0,
    url: Url = "",
    key: Key = "",
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
) -> None:
    """Move a collection to another model while it is used. Ctrl-C leaves it going on."""

    async def work(api: VectorsApi) -> CollectionObject:
        begun = await api.reindex(name, model, dimension)
        return begun if detach else await follow_reindexing(api, name, Console())

    ended = with_api(url, key, work)
    moving = ended.reindexing
    if moving is not None and moving.state in ("failed", "cancelled"):
        typer.echo(f"{name}: {moving.state} {moving.error}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{ended.name}: {ended.model}, generation {ended.generation}")


@app.command()
def stats(name: Name, url: Url = "", key: Key = "", *, json: Json = False) -> None:
    """Say how much is in a collection, and how much waits for it."""
    found = with_api(url, key, lambda api: api.stats(name))
    if json:
        say_json(found)
        return
    one = found.collection
    rows = [
        ("model", one.model or "-"), ("vectors", f"{one.dimension}, {one.distance}"), ("documents", str(found.documents)),
        ("chunks", str(found.chunks)), ("messages waiting", str(found.waiting)),
        ("shard", f"{found.shard}: {found.shard_points} points, {found.shard_indexed} in a graph, {found.bytes} bytes"),
    ]  # fmt: skip
    if one.reindexing is not None:
        moving = one.reindexing
        rows.append(("re-indexing", f"to {moving.model}: {moving.state}, {moving.done}/{moving.total} {moving.error}"))
    say_table(("", one.name), rows)


@app.command("list")
def list_(url: Url = "", key: Key = "", *, json: Json = False) -> None:
    """Show your organisation's collections and aliases."""

    async def work(api: VectorsApi) -> tuple[list[CollectionObject], dict[str, str]]:
        return [one async for one in api.collections()], await api.aliases()

    found, aliases = with_api(url, key, work)
    if json:
        say_json({"collections": found, "aliases": aliases})
        return
    head = ("name", "model", "dimension", "distance", "hybrid", "created", "state")
    rows = [
        (one.name, one.model or "-", str(one.dimension), one.distance, "yes" if one.hybrid else "-", at(one.created_at),
         one.state if one.reindexing is None or one.reindexing.is_over else f"re-indexing to {one.reindexing.model}")
        for one in found
    ]  # fmt: skip
    say_table(head, rows + [(alias, f"-> {to}", "", "", "", "", "alias") for alias, to in aliases.items()])


@app.command()
def delete(name: Name, url: Url = "", key: Key = "") -> None:
    """Delete a collection and all that is in it."""
    with_api(url, key, lambda api: api.delete_collection(name))
    typer.echo(f"{name} is deleted")


@app.command()
def erase(
    name: Name,
    ids: Annotated[list[str] | None, typer.Option("--id", help="A document; may be said again.")] = None,
    where: Annotated[str, typer.Option("--filter", help="JSON: the documents it matches.")] = "",
    url: Url = "",
    key: Key = "",
) -> None:
    """Erase documents for good."""
    wanted: dict[str, Any] = {"ids": ids or []} | ({"filter": _json_of(where, "--filter")} if where else {})
    typer.echo(f"{with_api(url, key, lambda api: api.erase(name, wanted))} chunks erased")


@app.command()
def alias(
    alias_: Annotated[str, typer.Argument(metavar="ALIAS", help="Another name.")],
    collection: Annotated[str, typer.Argument(help="The collection it stands for from now on.")],
    url: Url = "",
    key: Key = "",
) -> None:
    """Point an alias at a collection, at once for everybody."""
    with_api(url, key, lambda api: api.set_alias(alias_, collection))
    typer.echo(f"{alias_} -> {collection}")


@app.command()
def backup(
    name: Name, out: Annotated[Path, typer.Option("--out", help="A file.")], url: Url = "", key: Key = ""
) -> None:
    """Write a collection to a file here; it stays among the platform's files as well."""

    async def work(api: VectorsApi) -> tuple[str, int]:
        made = await api.backup(name)
        return str(made["file_id"]), await api.download(str(made["file_id"]), out)

    file_id, size = with_api(url, key, work)
    typer.echo(f"{out}: {size} bytes; `inferbus vectors restore NAME {file_id}` makes a collection of it")


@app.command()
def backups(
    name: Annotated[str, typer.Argument(help="Only of a collection of this name.")] = "",
    url: Url = "",
    key: Key = "",
    *,
    json: Json = False,
) -> None:
    """List backups, the newest first."""

    async def work(api: VectorsApi) -> list[BackupFileObject]:
        return [one async for one in api.backups(name)]

    found = with_api(url, key, work)
    if json:
        say_json(found)
        return
    rows = [(one.file_id, one.collection, at(one.created_at), str(one.bytes)) for one in found]
    say_table(("backup", "of", "made", "bytes"), rows)


@app.command()
def restore(
    name: Name,
    file_id: Annotated[str, typer.Argument(help="A backup, as `inferbus vectors backup` named it.")],
    url: Url = "",
    key: Key = "",
) -> None:
    """Make a new collection of a backup."""
    made = with_api(url, key, lambda api: api.restore(name, file_id))
    typer.echo(f"{made.name} is made")


def _field(said: str) -> dict[str, str]:
    name, _, type_ = said.partition(":")
    return {"name": name, "type": type_ or "keyword"}


def _json_of(text: str, what: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{what} is no JSON: {exc}") from exc
