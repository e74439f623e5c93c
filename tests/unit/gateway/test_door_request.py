"""What the bus door reads of a producer's request."""

from __future__ import annotations

import pytest

from inferbus.errors import InvalidRequest, Unsupported
from inferbus_gateway.door_request import DoorRequest, read_request


@pytest.mark.parametrize(
    ("path", "headers", "data", "read"),
    [
        ("/v1/chat/completions", {}, b'{"model":"m","stream":true}', DoorRequest("m", "chat", True)),
        ("/v1/embeddings", {}, b'{"model":"m"}', DoorRequest("m", "embeddings", False)),
        ("/v2/models/m/infer", {}, b'{"inputs":[]}', DoorRequest("m", "infer", False)),
        ("/v2/models/m/versions/2/infer", {"Ib-Json-Bytes": "2"}, b"{}\0", DoorRequest("m", "infer", False, 2)),
        ("/v2/models/m/generate_stream", {}, b"{}", DoorRequest("m", "infer", True)),
        ("/v2/models/m/generate", {}, b"{}", DoorRequest("m", "infer", False)),
    ],
)
def test_it_is_read(path: str, headers: dict[str, str], data: bytes, read: DoorRequest) -> None:
    assert read_request(path, headers, data) == read


@pytest.mark.parametrize(
    ("path", "headers", "data", "error"),
    [
        ("/v1/rerank", {}, b"{}", Unsupported),
        ("/v2/models/m", {}, b"{}", Unsupported),
        ("/v2/models/m/ready", {}, b"{}", Unsupported),
        ("/v1/embeddings", {}, b"{}", InvalidRequest),
        ("/v2/models/m/infer", {"Ib-Json-Bytes": "3"}, b"{}", InvalidRequest),
        ("/v2/models/m/infer", {"Ib-Json-Bytes": "-3"}, b"{}", InvalidRequest),
    ],
)
def test_or_refused(path: str, headers: dict[str, str], data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_request(path, headers, data)
