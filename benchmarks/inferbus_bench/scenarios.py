"""The loads. A scenario is named by what the client sees; both sides of a comparison get the same body."""

from __future__ import annotations

import msgspec

from inferbus_bench.loadgen import Load

STREAMS = (1, 8, 32)
CONNECTIONS = (1, 16, 64)
_QUESTION = [{"role": "user", "content": "What does the threading module do, and when is it of use?"}]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One load under a name. `title` is for people."""

    name: str
    title: str
    load: Load


def engine_scenarios(model: str, seconds: float) -> list[Scenario]:
    """Give the loads for a real engine: chats of exactly 64 tokens.

    `direct` is what the platform serves on its direct path; `logprobs` must go through vLLM's own layer everywhere.
    """
    exact = {"model": model, "messages": _QUESTION, "max_tokens": 64, "temperature": 0, "ignore_eos": True}
    streamed = exact | {"stream": True, "stream_options": {"include_usage": True}}
    scenarios = [
        Scenario(
            name=f"{kind}-{streams}",
            title=f"{title}, {streams} at once",
            load=Load(body=streamed | extra, connections=streams, seconds=seconds, streamed=True),
        )
        for kind, title, extra in (
            ("direct", "streamed chat", {}),
            ("asgi", "streamed chat with logprobs", {"logprobs": True}),
        )
        for streams in STREAMS
    ]
    whole = Load(body=exact, connections=32, seconds=seconds)
    return [*scenarios, Scenario(name="whole-32", title="unstreamed chat, 32 at once", load=whole)]


def simulator_scenarios(model: str, seconds: float) -> list[Scenario]:
    """Give the loads for an engine that costs nothing: what is left is the path."""
    whole = {"model": model, "messages": _QUESTION, "max_tokens": 16}
    streamed = {"model": model, "messages": _QUESTION, "max_tokens": 100, "stream": True}
    scenarios = [
        Scenario(
            name=f"whole-{connections}",
            title=f"unstreamed, 16 tokens, {connections} at once",
            load=Load(body=whole, connections=connections, seconds=seconds),
        )
        for connections in CONNECTIONS
    ]
    stream = Load(body=streamed, connections=32, seconds=seconds, streamed=True)
    return [*scenarios, Scenario(name="stream-32", title="streamed, 100 tokens at full speed, 32 at once", load=stream)]


def chosen(scenarios: list[Scenario], names: str) -> list[Scenario]:
    """Keep those named in a comma-separated list, all if it is empty."""
    wanted = set(filter(None, names.split(",")))
    return [one for one in scenarios if one.name in wanted] if wanted else scenarios
