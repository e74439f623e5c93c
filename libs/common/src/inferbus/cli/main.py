"""The `inferbus` command: puts the nouns together, and turns our errors into one line and an exit status."""

from __future__ import annotations

import sys

import typer

from inferbus.bus_users.template import BadTemplate
from inferbus.cli import (
    admin_key,
    audit,
    batch,
    bus_users,
    directory,
    features,
    keys,
    limits,
    models,
    platform,
    prices,
    triton,
    usage,
    vectors,
)
from inferbus.cli.connection import NotRunning
from inferbus.contracts.directory import Team, User
from inferbus.errors import InferbusError
from inferbus.local.layout import NotACheckout
from inferbus.settings import SettingsError
from inferbus.telemetry import logs

# What a user can cause: one line, no traceback.
_EXPECTED = (InferbusError, NotRunning, NotACheckout, SettingsError, BadTemplate)


def build_app() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,  # locals hold keys and passwords
        help="Inferbus: event-driven ML inference over NATS JetStream.",
    )
    platform.register(app)
    app.add_typer(models.app, name="models")
    app.add_typer(keys.app, name="keys")
    app.add_typer(prices.app, name="prices")
    app.add_typer(usage.app, name="usage")
    app.add_typer(bus_users.app, name="bus-users")
    app.add_typer(directory.organisations(), name="orgs")
    app.add_typer(directory.members(Team, "team"), name="teams")
    app.add_typer(directory.members(User, "user"), name="users")
    app.add_typer(limits.app, name="limits")
    app.add_typer(triton.app, name="triton")
    app.add_typer(batch.app, name="batch")
    app.add_typer(vectors.app, name="vectors")
    app.add_typer(features.app, name="features")
    app.command()(audit.audit)
    app.command("admin-key")(admin_key.admin_key)
    return app


def main() -> None:
    """Run the command line."""
    logs.configure("inferbus", "error")
    try:
        build_app()()
    except _EXPECTED as exc:
        typer.echo(f"inferbus: {exc}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
