"""Predictions that are kept with the features they were made of, on `events.triton.prediction_logged`: for training, replay and
whoever asks why."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.features import FeatureColumn


class PredictedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One output, its values in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any]


class PredictionLogged(msgspec.Struct, frozen=True, kw_only=True, tag="prediction.logged.v1"):
    """What was read for one request, exactly, and what the model made of it. `version` is the model's, `revision` the
    definitions'; `entities` and `context` are as they were asked, `features` as they were answered, ages and statuses included.
    `at` is Unix seconds."""

    request_id: str
    tenant: str
    model: str
    version: str
    at: float
    service: str
    revision: str
    rows: int
    entities: dict[str, Any]
    context: dict[str, Any]
    features: list[FeatureColumn]
    outputs: list[PredictedTensor]
