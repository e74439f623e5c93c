"""Settings: read from the environment, and nothing misspelt goes unnoticed."""

from __future__ import annotations

import msgspec
import pytest

from inferbus.settings import BusSettings, SettingsError, TelemetrySettings, from_env


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = "n"
    count: int = 1
    ratio: float = 0.5
    on: bool = False
    models: list[str] = []
    limit: int | None = None


def test_defaults_without_variables() -> None:
    assert from_env(Example, "example", {"PATH": "x", "INFERBUS_OTHER_NAME": "y"}) == Example()


def test_every_kind_of_value() -> None:
    env = {
        "INFERBUS_EXAMPLE_NAME": "x",
        "INFERBUS_EXAMPLE_COUNT": "3",
        "INFERBUS_EXAMPLE_RATIO": "0.25",
        "INFERBUS_EXAMPLE_ON": "true",
        "INFERBUS_EXAMPLE_MODELS": "a, b",
        "INFERBUS_EXAMPLE_LIMIT": "9",
    }
    assert from_env(Example, "example", env) == Example(
        name="x", count=3, ratio=0.25, on=True, models=["a", "b"], limit=9
    )


def test_an_empty_list_is_empty() -> None:
    assert from_env(Example, "example", {"INFERBUS_EXAMPLE_MODELS": ""}).models == []


def test_an_unknown_variable_is_named_with_those_known() -> None:
    with pytest.raises(SettingsError, match=r"INFERBUS_EXAMPLE_CUONT.*INFERBUS_EXAMPLE_COUNT"):
        from_env(Example, "example", {"INFERBUS_EXAMPLE_CUONT": "3"})


@pytest.mark.parametrize(("field", "value"), [("COUNT", "three"), ("RATIO", "half"), ("ON", "maybe"), ("LIMIT", "x")])
def test_an_unusable_value_is_named_but_not_shown(field: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"INFERBUS_EXAMPLE_{field}") as caught:
        from_env(Example, "example", {f"INFERBUS_EXAMPLE_{field}": value})
    assert value not in str(caught.value).split()


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERBUS_BUS_URL", "nats://elsewhere:1")
    monkeypatch.setenv("INFERBUS_BUS_PASSWORD", "12345")
    settings = from_env(BusSettings, "bus")
    assert (settings.url, settings.password) == ("nats://elsewhere:1", "12345")


def test_traces_are_off_unless_asked_for() -> None:
    settings = from_env(TelemetrySettings, "telemetry", {})
    assert (settings.sample_ratio, settings.otlp_endpoint, settings.trace_file) == (0.0, "", "")
