from __future__ import annotations

import msgspec
from tests.unit.gateway.fakes import Door


async def test_the_list_of_models_is_what_is_applied(door: Door) -> None:
    call = await door.get("/v1/models").done()
    assert call.status == 200
    decoded = msgspec.json.decode(call.body)
    assert decoded["object"] == "list"
    assert [model["id"] for model in decoded["data"]] == ["inferbus-tiny", "org/mini lm"]
    assert decoded["data"][0] == {"id": "inferbus-tiny", "object": "model", "created": 0, "owned_by": "inferbus"}


async def test_a_model_is_found_by_its_alias_and_by_a_name_with_a_slash(door: Door) -> None:
    for asked, name in (("tiny", "inferbus-tiny"), ("org/mini lm", "org/mini lm")):
        call = await door.get(f"/v1/models/{asked}").done()
        assert call.status == 200
        assert msgspec.json.decode(call.body)["id"] == name


async def test_models_need_a_key(door: Door) -> None:
    for path in ("/v1/models", "/v1/models/tiny"):
        call = await door.call("GET", path, b"", {}).done()
        assert (call.status, call.error["code"]) == (401, "unauthenticated")


async def test_health_needs_no_key_and_says_why_it_is_not_ready(door: Door) -> None:
    call = await door.call("GET", "/health/ready", b"", {}).done()
    assert (call.status, call.body) == (200, b'{"status":"ready"}')
    door.not_ready = "the bus is disconnected"
    call = await door.call("GET", "/health/ready", b"", {}).done()
    assert call.status == 503
    assert msgspec.json.decode(call.body) == {"status": "not_ready", "reason": "the bus is disconnected"}
    call = await door.call("GET", "/health/live", b"", {}).done()
    assert (call.status, call.body) == (200, b'{"status":"live"}')


async def test_the_documentation_is_served(door: Door) -> None:
    page = await door.call("GET", "/docs", b"", {}).done()
    assert page.status == 200
    assert b"<html" in page.body
    document = await door.call("GET", "/docs/openapi.json", b"", {}).done()
    paths = msgspec.json.decode(document.body)["paths"]
    assert "/admin/v1/keys" in paths
    assert {path for path in paths if not path.startswith("/admin/")} == {
        "/health/live",
        "/health/ready",
        "/v1/batches",
        "/v1/batches/{batch_id}",
        "/v1/batches/{batch_id}/cancel",
        "/v1/batches/{batch_id}/dead-letters",
        "/v1/batches/{batch_id}/dead-letters/{line}",
        "/v1/batches/{batch_id}/pause",
        "/v1/batches/{batch_id}/resume",
        "/v1/batches/{batch_id}/retry-failed",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/features",
        "/v1/features/{name}",
        "/v1/files",
        "/v1/files/{file_id}",
        "/v1/files/{file_id}/content",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/requests/{request_id}",
        "/v1/requests/{request_id}/cancel",
        "/v1/requests/{request_id}/events",
        "/v1/usage",
        "/v1/vector_stores",
        "/v1/vector_stores/{vector_store_id}",
        "/v1/vector_stores/{vector_store_id}/file_batches",
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}",
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel",
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files",
        "/v1/vector_stores/{vector_store_id}/files",
        "/v1/vector_stores/{vector_store_id}/files/{file_id}",
        "/v1/vector_stores/{vector_store_id}/files/{file_id}/content",
        "/v1/vector_stores/{vector_store_id}/search",
        "/v1/vectors/backups",
        "/v1/vectors/aliases/{alias}",
        "/v1/vectors/collections",
        "/v1/vectors/collections/restore",
        "/v1/vectors/collections/{name}",
        "/v1/vectors/collections/{name}/backup",
        "/v1/vectors/collections/{name}/reindex",
        "/v1/vectors/collections/{name}/stats",
        "/v1/vectors/erase",
        "/v1/vectors/watchlists",
        "/v1/vectors/watchlists/{name}",
        "/v1/vectors/watchlists/{name}/hits",
        "/v1/vectors/watchlists/{name}/match",
        "/v1/vectors/{collection}/dead-letters",
        "/v1/vectors/{collection}/dead-letters/redrive",
        "/v1/vectors/{collection}/documents",
        "/v1/vectors/{collection}/documents/retrieve",
        "/v1/vectors/{collection}/documents/{id}",
        "/v1/vectors/{collection}/erase",
        "/v1/vectors/{collection}/search",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{rest}",
        "/v2/repository/index",
        "/v2/repository/models/{rest}",
    }
    assert {path.split("/")[3] for path in paths if path.startswith("/admin/v1/")} == {
        "audit", "keys", "limits", "organisations", "teams", "triton", "users",
    }  # fmt: skip
