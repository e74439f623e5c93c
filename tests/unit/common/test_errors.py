"""The error tree and its table: complete, consistent, and the same in both directions."""

from __future__ import annotations

import asyncio

import pytest

from inferbus import errors
from inferbus.contracts.envelope import UnknownVersion
from inferbus.errors import (
    ERROR_TABLE,
    Ended,
    EngineDead,
    InferbusError,
    InvalidRequest,
    Overloaded,
    Permanent,
    TenantOverloaded,
    Transient,
    Verdict,
    error_from,
    openai_body,
    retry_after_of,
    verdict_of,
)


def tree(cls: type[InferbusError] = InferbusError) -> set[type[InferbusError]]:
    """Give every class of the tree that errors.py itself defines."""
    found = {sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__}
    return found | {deeper for sub in found for deeper in tree(sub)}


LEAVES = sorted((cls for cls in tree() if cls not in (Permanent, Transient, Ended)), key=lambda cls: cls.__name__)


def test_every_class_has_a_row_and_every_row_a_class() -> None:
    assert {cls.code for cls in LEAVES} | {"internal"} == set(ERROR_TABLE)
    assert len({cls.code for cls in LEAVES}) == len(LEAVES)


@pytest.mark.parametrize("code", sorted(ERROR_TABLE))
def test_rows_are_usable(code: str) -> None:
    row = ERROR_TABLE[code]
    assert row.code == code
    assert 400 <= row.http_status < 600
    assert row.openai_type
    assert row.meaning.endswith(".")


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_an_error_crosses_the_bus_as_code_and_message(cls: type[InferbusError]) -> None:
    error = cls("why")
    back = error_from(error.code, error.message)
    assert type(back) is cls
    assert (back.message, back.row) == ("why", error.row)


@pytest.mark.parametrize(
    ("base", "verdict"),
    [(Permanent, Verdict.TERMINATE), (Transient, Verdict.RETRY), (Ended, Verdict.ACKNOWLEDGE)],
)
def test_the_type_decides_what_happens_next(base: type[InferbusError], verdict: Verdict) -> None:
    classes = [cls for cls in LEAVES if issubclass(cls, base)]
    assert classes
    assert {verdict_of(cls("x")) for cls in classes} == {verdict}


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError(), InferbusError("x")], ids=repr)
def test_anything_else_is_a_bug(error: BaseException) -> None:
    assert verdict_of(error) is Verdict.BUG


def test_an_unknown_version_is_no_error_of_the_user() -> None:
    assert verdict_of(UnknownVersion("2")) in (Verdict.BUG, Verdict.RETRY), (
        "never terminated: another worker may know it"
    )


def test_what_the_runtime_retries_the_user_may_retry_too() -> None:
    for cls in LEAVES:
        if issubclass(cls, Transient):
            assert cls("x").row.retryable, cls
        if issubclass(cls, Permanent):
            assert not cls("x").row.retryable, cls


def test_unknown_codes_become_internal_errors() -> None:
    error = error_from("of_tomorrow", "m")
    assert type(error) is InferbusError
    assert error.row.http_status == 500


def test_the_openai_body() -> None:
    body = openai_body(InvalidRequest("max_tokens is no number", param="max_tokens"))
    assert body.error.message == "max_tokens is no number"
    assert (body.error.type, body.error.param, body.error.code) == (
        "invalid_request_error",
        "max_tokens",
        "invalid_request",
    )


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (TenantOverloaded("x", retry_after_s=7.4), "7"),
        (Overloaded("x", retry_after_s=0.01), "1"),
        (EngineDead("x"), "1"),
        (error_from("deadline_queued", "x"), "1"),
        (error_from("deadline_running", "x"), None),
        (InvalidRequest("x"), None),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_retry_after(error: InferbusError, header: str | None) -> None:
    assert retry_after_of(error) == header
