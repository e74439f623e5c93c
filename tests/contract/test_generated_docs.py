"""docs/asyncapi.json and docs/errors.md are what this code says, and the former is AsyncAPI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from inferbus.asyncapi import asyncapi_document
from inferbus.contracts.presence import Presence
from inferbus.contracts.step import Delta, Usage
from inferbus.errors import ERROR_TABLE
from inferbus.errors_page import errors_page
from inferbus.route_table import ROUTES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(msgspec.json.decode(asyncapi_document()))


def test_the_committed_asyncapi_is_current() -> None:
    committed = (DOCS / "asyncapi.json").read_bytes()
    assert committed == asyncapi_document(), "run: python -m inferbus.asyncapi > docs/asyncapi.json"


def test_the_committed_page_of_errors_is_current() -> None:
    committed = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert committed == errors_page(), "run: python -m inferbus.errors_page > docs/errors.md"


def test_the_page_has_every_error() -> None:
    page = errors_page()
    for row in ERROR_TABLE.values():
        assert f"| `{row.code}` | {row.http_status} |" in page


def test_it_is_asyncapi_three(document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(document["info"])
    for server in document["servers"].values():
        assert {"host", "protocol"} <= set(server)
    allowed = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert set(document) <= allowed


def test_every_row_is_a_channel_sent_and_received(document: dict[str, Any]) -> None:
    assert {channel["address"] for channel in document["channels"].values()} == {route.subject for route in ROUTES}
    for name in document["channels"]:
        assert document["operations"][f"{name}.send"]["action"] == "send"
        assert document["operations"][f"{name}.receive"]["action"] == "receive"


def test_parameters_are_those_of_the_address(document: dict[str, Any]) -> None:
    for channel in document["channels"].values():
        assert set(channel.get("parameters", {})) == set(re.findall(r"\{(\w+)\}", channel["address"]))


def test_operations_name_their_channel_s_messages(document: dict[str, Any]) -> None:
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(channel + "/messages/")


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if "$ref" in node else set()
            return own.union(*(references(value) for value in node.values()))
        return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    found = references(document)
    assert found
    for reference in found:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in node, reference
            node = node[step]


def test_schemas_are_json_schemas_that_fit_what_is_sent(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert [item["title"] for item in schemas["Usage"]["prefixItems"]] == list(Usage.__struct_fields__)
    assert [item["title"] for item in schemas["Delta"]["prefixItems"]] == ["kind", *Delta.__struct_fields__]
    beat = Presence(process="w", role="worker", incarnation="i", region="local", state="ready")
    validate = jsonschema.Draft202012Validator(
        {"$ref": "#/components/schemas/Presence", "components": {"schemas": schemas}}
    )
    validate.validate(msgspec.json.decode(msgspec.json.encode(beat)))
    with pytest.raises(jsonschema.ValidationError):
        validate.validate({"type": "presence.beat.v1"})


def test_it_is_the_same_every_time() -> None:
    assert asyncapi_document() == asyncapi_document()
