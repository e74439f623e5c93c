"""`inferbus features`: what is defined and who uses it, how new it is; definitions applied, rows pushed, files materialised."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from inferbus import routes
from inferbus.bus.waiting import NoResponders
from inferbus.cli import features_apply
from inferbus.cli.administration import say_json, say_table
from inferbus.cli.connection import connected
from inferbus.codec import from_json, to_json
from inferbus.contracts.features import QUEUED, RUNNING, ManageReply, ManageRequest
from inferbus.errors import DependencyDown, InvalidRequest, error_from

app = typer.Typer(no_args_is_help=True, help="Features: find, apply, push, materialize.")
app.command()(features_apply.apply)

_LOOK_S = 0.5
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Tenant = Annotated[str, typer.Option(help="Whose rows.")]


def operate(verb: str, tenant: str = routes.PLATFORM, **arguments: Any) -> Any:
    """Have a features process do something.

    Raises:
        InferbusError: it was refused, or no features process runs. NotRunning: there is no bus to talk to.
    """

    async def work() -> Any:
        async with connected() as bus:
            body = to_json(ManageRequest(arguments=arguments))
            try:
                answer = await bus.request(routes.features_manage(tenant, verb), body, timeout_s=30.0)
            except NoResponders:
                raise DependencyDown("no features process runs: `inferbus up --features 1` starts one") from None
            reply = from_json(answer.data, ManageReply, what="the answer")
            if reply.error is not None:
                raise error_from(reply.error.code, reply.error.message)
            return reply.data

    return asyncio.run(work())


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
        (one["service"], one["tenant"], str(one["requests"]), str(one["rows"]), _ago(one["last"]))
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
def materialize(
    view: str,
    paths: Annotated[list[str], typer.Argument(help="Parquet files or globs the features service can read.")],
    *,
    timestamp: Annotated[str, typer.Option(help="Column of the row's time.")] = "event_timestamp",
    arrived: Annotated[str, typer.Option(help="Column of an event's arrival, for windows.")] = "",
    slices: Annotated[int, typer.Option(min=1, max=4096, help="Pieces it is done in.")] = 16,
    wait: Annotated[bool, typer.Option(help="Wait for its end.")] = True,
) -> None:
    """Write the newest row of each entity, or the windows of events, from files; it goes on whatever is killed."""
    absolute = [str(Path(path).resolve()) if not path.startswith("/") else path for path in paths]
    job = operate(
        "materialize", view=view, paths=absolute, timestamp_column=timestamp, arrived_column=arrived, slices=slices
    )
    typer.echo(f"{job['id']} queued")
    while wait and job.get("state", QUEUED) in {QUEUED, RUNNING}:
        time.sleep(_LOOK_S)
        job = operate("job", name=job["id"])
    if wait:
        typer.echo(f"{job['id']} {job['state']}: {job.get('rows', 0)} rows {job.get('error', '')}".rstrip())
        if job["state"] != "done":
            raise typer.Exit(1)


@app.command()
def jobs(*, json: Json = False) -> None:
    """Show materialisations and how far they are."""
    found = operate("jobs")
    if json:
        say_json(found)
        return
    rows = [
        (
            one["id"], one["view"], one.get("state", QUEUED), f"{one.get('done', 0)}/{one.get('slices', 16)}",
            str(one.get("rows", 0)), _ago(one["created"]), one.get("error", ""),
        )
        for one in found
    ]  # fmt: skip
    say_table(("job", "view", "state", "slices", "rows", "begun", "error"), rows)


@app.command()
def cancel(job: str) -> None:
    """End a materialisation; what it has written stays."""
    operate("cancel", name=job)
    typer.echo(f"cancelled {job}")


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


def _ago(then: float) -> str:
    return f"{max(0.0, time.time() - then):.0f} s ago" if then else "-"
