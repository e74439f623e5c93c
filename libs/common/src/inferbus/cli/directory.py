"""`inferbus orgs`, `inferbus teams`, `inferbus users`: whom keys belong to, and what narrows them."""

from __future__ import annotations

from typing import Annotated

import typer

from inferbus.admission.views import MemberView, view_of_member
from inferbus.admission.wanted import MemberChange, NewMember, NewOrganisation
from inferbus.cli.administration import administer, at, say_json, say_table, wanted
from inferbus.cli.keys import Endpoints, Json, Lanes, MaxTokens, Models, Name, Priority, Tenant
from inferbus.contracts.directory import Organisation, Team, User

Id = Annotated[str, typer.Argument(metavar="ID", help="a-z, 0-9, _ and -.")]
Disabled = Annotated[bool | None, typer.Option("--disable/--enable", help="Disabled, it takes its keys with it.")]
_HEAD = ("id", "tenant", "name", "lanes", "models", "endpoints", "created", "state")


def organisations() -> typer.Typer:
    """Build `inferbus orgs`."""
    app = typer.Typer(no_args_is_help=True, help="Organisations (tenants): create, list, show, update, delete.")
    _add_organisation_reads(app)
    _add_organisation_writes(app)
    return app


def _add_organisation_writes(app: typer.Typer) -> None:
    @app.command()
    def create(
        id_: Id,
        name: Name = None,
        lane: Lanes = None,
        model: Models = None,
        endpoint: Endpoints = None,
        max_tokens: MaxTokens = None,
        priority: Priority = None,
    ) -> None:
        """Create an organisation; what is said of it narrows all its keys."""
        new = wanted(
            NewOrganisation, id=id_, name=name, lanes=lane, models=model, endpoints=endpoint, max_tokens=max_tokens,
            priority=priority,
        )  # fmt: skip
        say_json(view_of_member(administer(lambda books: books.directory.create(Organisation, new))))

    @app.command()
    def update(
        id_: Id,
        name: Name = None,
        lane: Lanes = None,
        model: Models = None,
        endpoint: Endpoints = None,
        max_tokens: MaxTokens = None,
        priority: Priority = None,
        disabled: Disabled = None,
    ) -> None:
        """Change an organisation; what is not said stays."""
        change = _change(name, lane, model, endpoint, max_tokens, priority, disabled)
        say_json(view_of_member(administer(lambda books: books.directory.update(Organisation, id_, id_, change))))

    @app.command()
    def delete(id_: Id) -> None:
        """Forget an organisation that has no keys, teams or users."""
        administer(lambda books: books.directory.delete(Organisation, id_, id_))
        typer.echo(f"deleted {id_}")


def _add_organisation_reads(app: typer.Typer) -> None:
    @app.command("list")
    def list_(*, json: Json = False) -> None:
        """List the organisations."""
        _say([view_of_member(one) for one in administer(lambda books: books.directory.list(Organisation))], json)

    @app.command()
    def show(id_: Id) -> None:
        """Show an organisation as JSON."""
        say_json(view_of_member(administer(lambda books: books.directory.get(Organisation, id_, id_))))


def members(type_: type[Team | User], noun: str) -> typer.Typer:
    """Build `inferbus teams` or `inferbus users`."""
    app = typer.Typer(
        no_args_is_help=True, help=f"{noun.title()}s of organisations: create, list, show, update, delete."
    )

    _add_member_reads(app, type_, noun)
    _add_member_writes(app, type_, noun)
    return app


def _add_member_writes(app: typer.Typer, type_: type[Team | User], noun: str) -> None:
    @app.command(help=f"Create a {noun}; what is said of it narrows all its keys.")
    def create(
        id_: Id,
        tenant: Tenant,
        name: Name = None,
        lane: Lanes = None,
        model: Models = None,
        endpoint: Endpoints = None,
        max_tokens: MaxTokens = None,
        priority: Priority = None,
    ) -> None:
        new = wanted(
            NewMember, tenant=tenant, id=id_, name=name, lanes=lane, models=model, endpoints=endpoint,
            max_tokens=max_tokens, priority=priority,
        )  # fmt: skip
        say_json(view_of_member(administer(lambda books: books.directory.create(type_, new))))

    @app.command(help=f"Change a {noun}; what is not said stays.")
    def update(
        id_: Id,
        tenant: Tenant,
        name: Name = None,
        lane: Lanes = None,
        model: Models = None,
        endpoint: Endpoints = None,
        max_tokens: MaxTokens = None,
        priority: Priority = None,
        disabled: Disabled = None,
    ) -> None:
        change = _change(name, lane, model, endpoint, max_tokens, priority, disabled)
        say_json(view_of_member(administer(lambda books: books.directory.update(type_, tenant, id_, change))))

    @app.command(help=f"Forget a {noun} that has no keys.")
    def delete(id_: Id, tenant: Tenant) -> None:
        administer(lambda books: books.directory.delete(type_, tenant, id_))
        typer.echo(f"deleted {id_}")


def _add_member_reads(app: typer.Typer, type_: type[Team | User], noun: str) -> None:
    @app.command("list", help=f"List the {noun}s.")
    def list_(
        tenant: Annotated[str, typer.Option("--tenant", help="Only this organisation's.")] = "", *, json: Json = False
    ) -> None:
        _say([view_of_member(one) for one in administer(lambda books: books.directory.list(type_, tenant))], json)

    @app.command(help=f"Show a {noun} as JSON.")
    def show(id_: Id, tenant: Tenant) -> None:
        say_json(view_of_member(administer(lambda books: books.directory.get(type_, tenant, id_))))


def _change(
    name: str | None,
    lane: list[str] | None,
    model: list[str] | None,
    endpoint: list[str] | None,
    max_tokens: int | None,
    priority: int | None,
    disabled: bool | None,
) -> MemberChange:
    return wanted(
        MemberChange, name=name, lanes=lane, models=model, endpoints=endpoint, max_tokens=max_tokens, priority=priority,
        disabled=disabled,
    )  # fmt: skip


def _say(views: list[MemberView], json: bool) -> None:
    if json:
        say_json(views)
        return
    rows = [
        (
            view.id, view.tenant, view.name, ", ".join(view.lanes), ", ".join(view.models), ", ".join(view.endpoints),
            at(view.created), "disabled" if view.disabled else "active",
        )
        for view in views
    ]  # fmt: skip
    say_table(_HEAD, rows)
