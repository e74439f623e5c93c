"""`inferbus features`: what is defined, where it comes from, who uses it, and how fresh it is."""

from __future__ import annotations

import typer

from inferbus.cli import features_apply

app = typer.Typer(no_args_is_help=True, help="Features: apply a repository; list, show.")
app.command()(features_apply.apply)
