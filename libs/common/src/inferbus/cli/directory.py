"""`inferbus orgs`, `inferbus teams`, `inferbus users`: whom keys belong to, and what narrows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from inferbus.admission.views import MemberView, OrganisationView, view_of
from inferbus.admission.wanted import MemberChange, NewMember, NewOrganisation, OrganisationChange
from inferbus.cli.administration import administer, at, say_json, say_table, wanted
from inferbus.cli.entitled import ENTITLED, Json, OfTenant, Tenant, takes
from inferbus.contracts.directory import Organisation, Team, User

Id = Annotated[str, typer.Argument(metavar="ID", help="a-z, 0-9, _ and -.")]
Disabled = Annotated[bool | None, typer.Option("--disable/--enable", help="Disabled, it takes its keys with it.")]
Weight = Annotated[int | None, typer.Option("--weight", help="1 to 100: slots for one of another tenant's.")]
_HEAD = ("id", "tenant", "name", "lanes", "models", "endpoints", "created", "state")


def organisations() -> typer.Typer:
    """Build `inferbus orgs`."""
    app = typer.Typer(no_args_is_help=True, help="Organisations (tenants): create, list, show, update, delete.")
    _add_organisation_reads(app)
    _add_organisation_writes(app)
    return app


def _add_organisation_writes(app: typer.Typer) -> None:
    @app.command()
    @takes(ENTITLED, weight=Weight)
    def create(id_: Id, **said: Any) -> None:
        """Create an organisation; what is said of it narrows all its keys."""
        new = wanted(NewOrganisation, id=id_, **said)
        made = administer(lambda books: books.directory.create(Organisation, new))
        say_json(view_of(made, OrganisationView))

    @app.command()
    @takes(ENTITLED, weight=Weight, disabled=Disabled)
    def update(id_: Id, **said: Any) -> None:
        """Change an organisation; what is not said stays."""
        change = wanted(OrganisationChange, **said)
        changed = administer(lambda books: books.directory.update(Organisation, id_, id_, change))
        say_json(view_of(changed, OrganisationView))

    @app.command()
    def delete(id_: Id) -> None:
        """Forget an organisation that has no keys, teams or users."""
        administer(lambda books: books.directory.delete(Organisation, id_, id_))
        typer.echo(f"deleted {id_}")


def _add_organisation_reads(app: typer.Typer) -> None:
    @app.command("list")
    def list_(*, json: Json = False) -> None:
        """List the organisations."""
        found = administer(lambda books: books.directory.list(Organisation))
        _say([view_of(one, OrganisationView) for one in found], json)

    @app.command()
    def show(id_: Id) -> None:
        """Show an organisation as JSON."""
        say_json(view_of(administer(lambda books: books.directory.get(Organisation, id_, id_)), OrganisationView))


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
    @takes(ENTITLED)
    def create(id_: Id, tenant: Tenant, **said: Any) -> None:
        new = wanted(NewMember, tenant=tenant, id=id_, **said)
        say_json(view_of(administer(lambda books: books.directory.create(type_, new)), MemberView))

    @app.command(help=f"Change a {noun}; what is not said stays.")
    @takes(ENTITLED, disabled=Disabled)
    def update(id_: Id, tenant: Tenant, **said: Any) -> None:
        change = wanted(MemberChange, **said)
        say_json(view_of(administer(lambda books: books.directory.update(type_, tenant, id_, change)), MemberView))

    @app.command(help=f"Forget a {noun} that has no keys.")
    def delete(id_: Id, tenant: Tenant) -> None:
        administer(lambda books: books.directory.delete(type_, tenant, id_))
        typer.echo(f"deleted {id_}")


def _add_member_reads(app: typer.Typer, type_: type[Team | User], noun: str) -> None:
    @app.command("list", help=f"List the {noun}s.")
    def list_(tenant: OfTenant = "", *, json: Json = False) -> None:
        _say([view_of(one, MemberView) for one in administer(lambda books: books.directory.list(type_, tenant))], json)

    @app.command(help=f"Show a {noun} as JSON.")
    def show(id_: Id, tenant: Tenant) -> None:
        say_json(view_of(administer(lambda books: books.directory.get(type_, tenant, id_)), MemberView))


def _say(views: Sequence[MemberView], json: bool) -> None:
    if json:
        say_json(views)
        return
    weighs = any(isinstance(view, OrganisationView) for view in views)
    say_table((*_HEAD, "weight") if weighs else _HEAD, [_row(view) for view in views])


def _row(view: MemberView) -> tuple[str, ...]:
    row = (
        view.id, view.tenant, view.name, ", ".join(view.lanes), ", ".join(view.models), ", ".join(view.endpoints),
        at(view.created), "disabled" if view.disabled else "active",
    )  # fmt: skip
    return (*row, str(view.weight)) if isinstance(view, OrganisationView) else row
