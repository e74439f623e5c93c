"""`inferbus features`: what is defined and who uses it, how new it is; definitions applied, rows pushed, files materialised."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from inferbus.cli import features_apply, features_jobs
from inferbus.cli.administration import say_json, say_table
from inferbus.cli.feature_operating import Json, ago, operate
from inferbus.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Features: find, apply, push, materialize.")
app.command()(features_apply.apply)
for _command in (features_jobs.materialize, features_jobs.history, features_jobs.jobs, features_jobs.cancel):
    app.command()(_command)

Tenant = Annotated[str, typer.Option(help="Whose rows.")]


@app.command("list")
def list_(
    *,
    tag: Annotated[str, typer.Option(help="Only views with this tag: name, or name=value.")] = "",
    owner: Annotated[str, typer.Option(help="Only views of this owner.")] = "",
    json: Json = False,
) -> None:
    """Show views with their features, and the services that have them."""
    found = operate("list")
    views = [one for one in found.get("views", []) if _has(one, tag, owner)]
    if json:
        say_json(found | {"views": views})
        return
    used = {name: sum(one.get("requests", 0) for one in ones) for name, ones in found["used"].items()}
    rows = []
    for view in views:
        services = [
            service["name"] for service in found.get("services", [])
            if any(ref.split(":")[0] == view["name"] for ref in service.get("features", []))
        ]  # fmt: skip
        requests = sum(used.get(name, 0) for name in services)
        rows.append((
            view["name"], view.get("type", "batch"), ", ".join(view.get("entities", [])),
            ", ".join(one["name"] for one in view.get("features", [])), ", ".join(services), view.get("owner", ""),
            ", ".join(f"{name}={value}" for name, value in view.get("tags", {}).items()), str(requests),
        ))  # fmt: skip
    say_table(("view", "type", "entities", "features", "services", "owner", "tags", "requests"), rows)


def _has(view: dict[str, Any], tag: str, owner: str) -> bool:
    name, _, value = tag.partition("=")
    tags = view.get("tags", {})
    return (not owner or view.get("owner") == owner) and (not tag or (name in tags and value in {"", tags[name]}))


@app.command()
def show(name: Annotated[str, typer.Argument(help="A view, service, source or entity.")]) -> None:
    """Show what is defined under a name, as JSON."""
    say_json(operate("show", name=name))


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A source, entity, view, `view:feature` or service.")],
    *,
    json: Json = False,
) -> None:
    """Show where something comes from, what is made of it, and who asks for it."""
    found = operate("lineage", name=name)
    if json:
        say_json(found)
        return
    typer.echo(f"{found['kind']} {found['name']}")
    for what in ("sources", "views", "features", "services"):
        typer.echo(f"  {what}: {', '.join(found[what]) or '-'}")
    rows = [
        (one["service"], one["tenant"], str(one["requests"]), str(one["rows"]), ago(one["last"]))
        for one in found["used_by"]
    ]
    say_table(("service", "used by", "requests", "rows", "last"), rows)


@app.command()
def freshness(
    views: Annotated[list[str] | None, typer.Argument(help="Views (none: all).")] = None,
    *,
    key: Annotated[list[str] | None, typer.Option(help="Also of this entity: join_key=value.")] = None,
    json: Json = False,
) -> None:
    """Show how new what is written of views is."""
    keys = [_key(one) for one in key or []]
    found = operate("freshness", views=list(views or []), keys=[dict(keys)] if keys else [])
    if json:
        say_json(found)
        return
    rows = [
        (
            one["view"], one["type"], _seconds(one.get("newest_age_s")), _seconds(one.get("written_ago_s")),
            str(one.get("rows", 0)), _seconds(one["ttl_s"]) if one["ttl_s"] else "-",
            ", ".join(_seconds(age) for age in one.get("ages_s", [])),
        )
        for one in found
    ]  # fmt: skip
    say_table(("view", "type", "newest row is", "written", "rows", "ttl", "of this entity"), rows)


def _key(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        raise InvalidRequest(f"{text!r}: --key is join_key=value")
    return name, int(value) if value.lstrip("-").isdigit() else value


@app.command()
def push(
    source: str,
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="JSON Lines, a row each; - for standard input.")],
    *,
    tenant: Tenant = "dev",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in a message.")] = 500,
) -> None:
    """Push rows to a source; those that are wrong are told and left out."""
    lines = [line for line in file.read().splitlines() if line.strip()]
    accepted, refused = 0, 0
    for begin in range(0, len(lines), batch):
        rows = [_row(line, n) for n, line in enumerate(lines[begin : begin + batch], begin + 1)]
        answer = operate("push", tenant, source=source, rows=rows)
        accepted += answer["accepted"]
        refused += len(answer["refused"])
        for one in answer["refused"]:
            typer.echo(f"line {begin + one['row'] + 1}: {one['fault']['message']}", err=True)
    typer.echo(f"{accepted} rows accepted, {refused} refused")
    if refused:
        raise typer.Exit(1)


def _row(line: bytes, n: int) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"line {n}: {exc}") from exc


@app.command()
def dead(source: Annotated[str, typer.Argument()] = "", *, tenant: Tenant = "dev", json: Json = False) -> None:
    """Show rows that were refused, and why."""
    found = operate("dead", source=source, tenant=tenant)
    if json:
        say_json(found)
        return
    rows = [(str(one["sequence"]), one["source"], one["code"], str(len(one["rows"])), one["reason"]) for one in found]
    say_table(("sequence", "source", "code", "rows", "why"), rows)


@app.command()
def redrive(
    sequences: Annotated[list[int] | None, typer.Argument(help="Which dead letters (none: all of the source).")] = None,
    *,
    source: Annotated[str, typer.Option()] = "",
    tenant: Tenant = "dev",
) -> None:
    """Push refused rows again, after what they were refused for has changed."""
    if not sequences and not source:
        raise InvalidRequest("which ones: sequences, or --source")
    pushed = operate("redrive", sequences=list(sequences or []), source=source, tenant=tenant)["pushed"]
    typer.echo(f"{len(pushed)} messages pushed again")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"
