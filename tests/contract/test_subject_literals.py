"""No subject, stream or durable name is written outside `inferbus.routes`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("libs", "services") for path in (ROOT / folder).glob("*/src/**/*.py"))

# The grammar's first tokens (DESIGN.md section 2), those of later issues included.
FIRST = [
    "request",
    "infer",
    "step",
    "reply",
    "direct",
    "control",
    "cancel",
    "presence",
    "results",
    "deltas",
    "stored",
    "fetch",
    "pay",
    "usage",
    "events",
    "audit",
    "batch",
    "quota",
    "dlq",
]
NAMES_OF_SPANS_TOO = ["vectors", "features"]  # and of types; with a wildcard it is a subject
SUBJECT = re.compile(
    rf"({'|'.join(FIRST)})\.[\w{{*>.-]*[\w}}*>]?$|({'|'.join(NAMES_OF_SPANS_TOO)})\.[a-z]+\.[*>]|(REQUEST|PAY|DLQ|EVENTS|AUDIT|DELTAS|RESULTS|USAGE|INFER_\S*|KV_\S*)$|\$KV\."
)
TYPE_TAG = re.compile(r"[a-z._]+\.v\d+$")
API = re.compile(r"\$(JS|KV)\.")
ROUTES = {
    "libs/common/src/inferbus/route_table.py",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "libs/common/src/inferbus/routes").glob("*.py")),
}
API_USERS = {
    f"libs/common/src/inferbus/{name}.py"
    for name in (
        "bus/bus",
        "bus/server_clock",
        "bus/watch",
        "bus/tickets",
        "bus/stored",
        "bus/consumers",
        "bus/oldest",
        "bus/queued",
        "queue/intake",
        "topology/reconcile",
    )
} | {
    "libs/common/src/inferbus/topology/stream_check.py",
    "libs/common/src/inferbus/bus_users/render.py",  # writes them into permissions
}


def strings(tree: ast.AST) -> Iterator[str]:
    """Give every string that is written, the constant beginning of f-strings included; docstrings are not."""
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[0], ast.Constant):
            yield str(node.values[0].value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inside:
            yield node.value


def written(path: Path) -> list[str]:
    return list(strings(ast.parse(path.read_text(encoding="utf-8"))))


def test_there_is_something_to_look_at() -> None:
    assert {ROOT / name for name in ROUTES} <= set(SOURCES)
    assert len(SOURCES) > 50


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_subject_is_written_here(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name in ROUTES:
        return
    found = [text for text in written(path) if SUBJECT.match(text) and not TYPE_TAG.match(text)]
    assert found == [], "subjects and names of streams come from inferbus.routes"
    if name not in API_USERS:
        found = [text for text in written(path) if API.match(text)]
        assert found == [], "JetStream's own subjects are confined to bus/, queue/intake and topology/"


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ('x = "step.a1"', True),
        ('x = f"infer.{region}.llm"', True),
        ('x = f"control.{worker}.drain"', True),
        ('x = "DLQ"', True),
        ('x = "INFER_local_llm_batch"', True),
        ('x = "$KV.models.m"', True),
        ('x = "request."', True),
        ('"""request.dev.m: a docstring"""', False),
        ('log.info("request_finished")', False),
        ('x = "the request. Then more"', False),
        ('x = Struct(tag="presence.beat.v1")', False),
        ('x = "usage: inferbus up"', False),
    ],
)
def test_the_test_sees_what_it_should(code: str, caught: bool) -> None:
    found = [text for text in strings(ast.parse(code)) if SUBJECT.match(text) and not TYPE_TAG.match(text)]
    assert bool(found) is caught
