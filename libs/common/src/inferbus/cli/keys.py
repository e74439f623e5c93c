"""`inferbus keys`: API keys. A key is shown once, when it is made; the bus only ever holds its hash."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from inferbus.admission.key_book import drawn
from inferbus.admission.views import KeyView, view_of_key
from inferbus.admission.wanted import KeyChange, NewKey, Rotation
from inferbus.cli.administration import administer, at, moment_of, say_json, say_table, seconds_of, wanted
from inferbus.cli.entitled import ENTITLED, Json, OfTenant, Tenant, takes

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, show, update, rotate, revoke, delete.")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The middle part of ib-<id>-<secret>.")]
Expires = Annotated[str | None, typer.Option("--expires", help="In how long, such as 30d or 12h; or never.")]


@app.command()
@takes(ENTITLED)
def create(
    tenant: Tenant,
    team: Annotated[str, typer.Option("--team", help="A team of the organisation.")] = "",
    user: Annotated[str, typer.Option("--user", help="A user of the organisation.")] = "",
    expires: Expires = None,
    **said: Any,
) -> None:
    """Make a key and print it. It cannot be shown again."""
    new = wanted(NewKey, tenant=tenant, team=team, user=user, expires=moment_of(expires), **said)
    key, _ = administer(lambda books: books.keys.create(new, drawn()), pepper=True)
    typer.echo(key)


@app.command("list")
def list_(tenant: OfTenant = "", *, json: Json = False) -> None:
    """Show the keys, without their secrets."""
    views = [view_of_key(entry, now=time.time()) for entry in administer(lambda books: books.keys.list(tenant))]
    if json:
        say_json(views)
        return
    head = ("id", "tenant", "team", "user", "name", "lanes", "models", "created", "expires", "state")
    say_table(head, [_row(view) for view in views])


@app.command()
def show(key_id: KeyId) -> None:
    """Show one key as JSON, without its secret."""
    say_json(view_of_key(administer(lambda books: books.keys.get(key_id)), now=time.time()))


@app.command()
@takes(ENTITLED)
def update(key_id: KeyId, expires: Expires = None, **said: Any) -> None:
    """Change what a key may do; what is not said stays."""
    change = wanted(KeyChange, expires=moment_of(expires), **said)
    say_json(view_of_key(administer(lambda books: books.keys.update(key_id, change)), now=time.time()))


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option("--grace", help="How long the old secret holds, such as 1h; 0s: not.")] = "1h",
) -> None:
    """Give a key a new secret and print it. It cannot be shown again."""
    rotation = Rotation(grace_s=seconds_of(grace))
    key, _ = administer(lambda books: books.keys.rotate(key_id, rotation, drawn()), pepper=True)
    typer.echo(key)


@app.command()
def revoke(key_id: KeyId) -> None:
    """Make a key worthless, everywhere, within a second. Its entry stays, so that the id is never reused."""
    administer(lambda books: books.keys.revoke(key_id))
    typer.echo(f"revoked {key_id}")


@app.command()
def delete(key_id: KeyId) -> None:
    """Forget a revoked key."""
    administer(lambda books: books.keys.delete(key_id))
    typer.echo(f"deleted {key_id}")


def _row(view: KeyView) -> list[str]:
    return [
        view.id, view.tenant, view.team, view.user, view.name, ", ".join(view.lanes), ", ".join(view.models),
        at(view.created), at(view.expires), view.state,
    ]  # fmt: skip
