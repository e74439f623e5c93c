"""The options of `keys`, `orgs`, `teams` and `users` that say what one may use, given to commands by a decorator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

F = TypeVar("F", bound=Callable[..., Any])

Tenant = Annotated[str, typer.Option("--tenant", help="The organisation: a-z, 0-9, _ and -.")]
OfTenant = Annotated[str, typer.Option("--tenant", help="Only this organisation's.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]

ENTITLED: dict[str, Any] = {
    "name": Annotated[str | None, typer.Option("--name", help="What it is for.")],
    "lanes": Annotated[list[str] | None, typer.Option("--lane", help="A lane it may ask for (default: all).")],
    "models": Annotated[
        list[str] | None, typer.Option("--model", help="A model, or tag:<tag>, it may use (default: all).")
    ],
    "endpoints": Annotated[
        list[str] | None,
        typer.Option("--endpoint", help="chat, completions, embeddings, infer or vectors (default: all)."),
    ],
    "max_tokens": Annotated[
        int | None, typer.Option("--max-tokens", help="Output tokens a request may ask for; 0: any.")
    ],
    "priority": Annotated[
        int | None, typer.Option("--priority", help="-100 to 100; the least of key, team, ... counts.")
    ],
}
"""By the field of `inferbus.admission.wanted.Entitled` that they say. None: it was not said."""


def takes(options: dict[str, Any], **more: Any) -> Callable[[F], F]:
    """Give these options to a command whose last parameter is `**said: Any`: all that were said, or None, by their names."""

    def give(command: F) -> F:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        given = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in (options | more).items()
        ]
        command.__signature__ = signature.replace(parameters=[*own, *given])  # type: ignore[attr-defined]  # read by inspect
        command.__annotations__ = {each.name: each.annotation for each in [*own, *given]}
        return command

    return give
