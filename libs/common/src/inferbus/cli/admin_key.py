"""`inferbus admin-key`: a key for the admin API, for gateways that `inferbus up` does not start."""

from __future__ import annotations

from typing import Annotated

import typer

from inferbus.admission.admin_keys import make_admin_key
from inferbus.cli.connection import key_pepper


def admin_key(
    name: Annotated[str, typer.Option("--name", help="What audit events call whoever has it.")] = "ops",
) -> None:
    """Make an admin key and print it, with what gateways are told of it. Nothing is stored."""
    if not name.isalnum():
        raise typer.BadParameter("letters and digits")
    key, mac = make_admin_key(key_pepper())
    typer.echo(key)
    typer.echo(f"INFERBUS_GATEWAY_ADMIN_KEYS={name}:{mac}  # several: comma separated", err=True)
