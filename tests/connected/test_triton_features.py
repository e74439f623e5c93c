"""A Triton request that brings ids: the worker reads their features over the bus, a real model gets the tensor, and what was
read and predicted is kept where that is wished. The features service is a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from tests.connected.triton_models import add_model
from tests.triton_path import TritonPath

from inferbus import routes
from inferbus.bus.stored import last_stored
from inferbus.codec import to_json
from inferbus.contracts.features import FeatureColumn, FeatureFault, GetAnswer, GetRequest
from inferbus.contracts.predictions import PredictionLogged
from inferbus.testing import eventually

pytestmark = pytest.mark.timeout(240)


def wish(users: list[int], items: list[str], **parameters: Any) -> dict[str, Any]:
    return {
        "parameters": {"feature_service": "ranking", **parameters},
        "inputs": [
            {"name": "user_id", "datatype": "INT64", "shape": [len(users)], "data": users},
            {"name": "item_id", "datatype": "BYTES", "shape": [len(items)], "data": items},
        ],
    }


async def test_ids_become_a_models_input_and_what_was_read_is_kept(tmp_path: Path) -> None:
    async with TritonPath(tmp_path, "double") as path:
        add_model(path.repository, "double")
        await path.triton()
        bus = await path.nats.connect("features")
        asked: list[GetRequest] = []

        def on_read(message: Msg) -> None:
            request = msgspec.json.decode(message.data, type=GetRequest)
            asked.append(request)
            service = routes.parse_features(message.subject)
            rows = len(request.entities["item_id"])
            columns = [
                FeatureColumn(name=f"f{n}", kind="float32", values=[n + row for row in range(rows)]) for n in range(4)
            ]
            answer = GetAnswer(service=service.name, rows=rows, columns=columns, revision="r1")
            if request.entities["user_id"] == 9:
                fault = FeatureFault(code="invalid_request", message="no such user", param="entities.user_id")
                answer = GetAnswer(service=service.name, error=fault)
            bus.send(message.reply, to_json(answer))

        await bus.listen(routes.FEATURES_GET_ALL, on_read, queue=routes.QUEUE_FEATURES)
        answer = await path.ask("double", wish([7], ["a", "b"], feature_log=True))
        assert (answer.status, answer.rows) == (200, 2)
        assert answer.values("Y") == [0.0, 2.0, 4.0, 6.0, 2.0, 4.0, 6.0, 8.0]
        assert asked == [GetRequest(entities={"user_id": 7, "item_id": ["a", "b"]})]

        refused = await path.ask("double", wish([9], ["a"]))
        assert (refused.status, refused.json) == (400, {"error": "no such user"})
        wrong = await path.ask("double", {"parameters": {"feature_service": "ranking"}, "inputs": [
            {"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        ]})  # fmt: skip
        assert wrong.status == 400
        assert "ids of entities" in wrong.json["error"]

        operator = await path.nats.connect("operator")
        subject = routes.event("triton", routes.FACT_PREDICTION)
        stored: list[bytes] = []

        async def is_kept() -> bool:
            found = await last_stored(operator, routes.STREAM_EVENTS, subject)
            stored.extend([found.data] if found is not None else [])
            return found is not None

        await eventually(is_kept)
        event = msgspec.json.decode(stored[0], type=PredictionLogged)
        assert (event.tenant, event.model, event.service, event.revision, event.rows) == (
            "dev",
            "double",
            "ranking",
            "r1",
            2,
        )
        assert event.entities == {"user_id": 7, "item_id": ["a", "b"]}
        assert [one.values for one in event.features] == [[n, n + 1] for n in range(4)]
        assert event.outputs[0].values == answer.values("Y")
        await operator.close()
        await bus.close()
