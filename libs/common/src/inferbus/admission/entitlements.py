"""Entitlements: what an identity may use of what is there. Pure; one call per request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from inferbus import routes
from inferbus.admission.answer_bound import BOUND_FIELDS, COMPLETIONS_DEFAULT, UNREADABLE, fields_of, with_bound
from inferbus.admission.identity import Identity
from inferbus.admission.narrowing import allows
from inferbus.contracts.models import ModelEntry
from inferbus.errors import Forbidden, InvalidRequest

if TYPE_CHECKING:
    from inferbus.admission.admit import Ask


def may_use(identity: Identity, entry: ModelEntry) -> bool:
    """Whether an identity may use a model, by its name, an alias or a tag."""
    if not identity.models and not identity.within:
        return True
    names = (entry.name, *entry.aliases)
    return all(allows(patterns, names, entry.tags) for patterns in (identity.models, *identity.within))


def check_model(identity: Identity, entry: ModelEntry) -> None:
    """Refuse a model an identity may not use.

    Raises:
        Forbidden: it may not.
    """
    if not may_use(identity, entry):
        raise Forbidden(f"the model `{entry.name}` is not open to this key", param="model")


def check_entitled(identity: Identity, ask: Ask, entry: ModelEntry) -> Ask:
    """Refuse what an identity may not ask for; gives what is to be done instead of `ask`, which mostly is `ask` itself.

    Where an identity has a bound on answers, a body without one gets it, and every body is written anew: what the engine
    reads is then exactly what was checked here, whatever other parsers make of a field that comes twice.

    Raises:
        Forbidden: the model, the endpoint, the lane or the length of the answer; the message says which.
        InvalidRequest: there is no such lane; or, under a bound, a length that is no whole number.
    """
    check_model(identity, entry)
    if identity.endpoints and ask.task not in identity.endpoints:
        raise Forbidden(f"the endpoint {ask.task or ask.path} is not open to this key")
    if ask.lane not in identity.lanes:
        known = ask.lane in routes.LANES
        raise (Forbidden if known else InvalidRequest)(f"lane {ask.lane!r} is not open to this key", param="lane")
    if not identity.max_tokens or ask.task not in BOUND_FIELDS:
        return ask
    body, written = bounded(ask.body, ask.task, identity.max_tokens)
    return msgspec.structs.replace(ask, body=body, bound=written)


def bounded(body: bytes, task: str, bound: int) -> tuple[bytes, int]:
    """Hold a body to `bound` output tokens in all: those of every choice and every prompt count. Also gives the length that
    was written into a body that named none, 0 where it did.

    Raises:
        Forbidden: it asks for more; the message has both numbers. InvalidRequest: it cannot be told what it asks for.
    """
    try:
        fields = fields_of(body)
    except UNREADABLE as exc:
        raise InvalidRequest(f"the body must be a JSON object: {exc}") from exc
    answers = _answers(fields, task)
    names = BOUND_FIELDS[task]
    asked = {name: _count(fields, name) for name in names}
    for name, tokens in asked.items():
        if tokens is not None and tokens * answers > bound:
            raise _too_long(name, tokens * answers, bound)
    if any(tokens is not None for tokens in asked.values()):
        return msgspec.json.encode(fields), 0
    share = bound // answers
    if not share:
        raise _too_long("n", answers, bound)
    default = COMPLETIONS_DEFAULT if task == "completions" and names[0] not in fields else share
    written = min(share, default)
    return with_bound(fields, task, written), written


def _answers(fields: dict[str, msgspec.Raw], task: str) -> int:
    """Count the answers a body asks for."""
    choices = max(_count(fields, "n") or 1, _count(fields, "best_of") or 1)
    if task != "completions" or "prompt" not in fields:
        return choices
    prompt: Any = msgspec.json.decode(fields["prompt"])
    is_list_of_prompts = isinstance(prompt, list) and len(prompt) > 0 and not isinstance(prompt[0], int)
    return choices * (len(prompt) if is_list_of_prompts else 1)


def _count(fields: dict[str, msgspec.Raw], name: str) -> int | None:
    """Read a whole number of a body; None where it is null or not there."""
    if name not in fields:
        return None
    value: Any = msgspec.json.decode(fields[name])
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{name} must be a whole number", param=name)
    return value


def _too_long(name: str, asked: int, bound: int) -> Forbidden:
    return Forbidden(f"{asked} output tokens are asked for, this key may ask for {bound}", param=name)
