"""Completions, embeddings and models with the ordinary openai client, against real engines."""

from __future__ import annotations

import base64
import math
import struct
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from tests.running_platform import CHAT, EMBED, RunningPlatform

from inferbus.testing import eventually


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=CHAT, prompt="Return the", max_tokens=10, temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 10


def test_completions_stream(client: OpenAI) -> None:
    asked = {"model": CHAT, "prompt": "Return the", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole
    assert len(chunks) > 3


def test_several_prompts_give_several_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=CHAT, prompt=["Return the", "Open a"], max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_embeddings_lie_close_where_meanings_do(client: OpenAI) -> None:
    answer = client.embeddings.create(model=EMBED, input=["a cat on a sofa", "a kitten on a couch", "tax law"])
    assert [item.index for item in answer.data] == [0, 1, 2]
    cat, kitten, tax = (item.embedding for item in answer.data)
    assert len(cat) == 384
    assert math.isclose(_dot(cat, cat), 1, abs_tol=1e-3)
    assert _dot(cat, kitten) > 0.5 > _dot(cat, tax)


def test_embeddings_as_floats_and_as_base64_are_the_same(platform: RunningPlatform) -> None:
    """The openai client asks for base64 unless told otherwise; others do not."""
    headers = {"Authorization": f"Bearer {platform.key}"}

    def ask(encoding: str) -> list[float] | str:
        body = {"model": EMBED, "input": "a cat", "encoding_format": encoding}
        answer = httpx.post(f"{platform.url}/v1/embeddings", headers=headers, json=body, timeout=60)
        return answer.raise_for_status().json()["data"][0]["embedding"]

    encoded = ask("base64")
    assert isinstance(encoded, str)
    assert list(struct.unpack("<384f", base64.b64decode(encoded))) == pytest.approx(ask("float"), abs=1e-6)


def test_models_are_listed_and_described(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} >= {CHAT, EMBED}
    assert client.models.retrieve(CHAT).id == CHAT
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert "no-such-model" in caught.value.message


async def test_an_alias_works_like_the_name(platform: RunningPlatform, client: OpenAI, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f'name = "{CHAT}"\npool = "{CHAT}"\naliases = ["small", "org/Small 1.0"]\n')
    platform.command("models", "apply", str(file))
    await eventually(lambda: _is_known(client, "small"))
    for alias in ("small", "org/Small 1.0"):
        assert client.models.retrieve(alias).id == CHAT
        answer = client.chat.completions.create(
            model=alias, messages=[{"role": "user", "content": "Explain open."}], max_tokens=3
        )
        assert answer.choices[0].finish_reason in {"stop", "length"}


def _is_known(client: OpenAI, model: str) -> bool:
    try:
        client.models.retrieve(model)
    except NotFoundError:
        return False
    return True


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("narrowed", ["limits", "an entitlement"])
def test_a_narrowed_key_needs_to_name_no_length(platform: RunningPlatform, narrowed: str) -> None:
    """The platform then writes one into the body, which may be more than the engine has room for."""
    options = ("--max-tokens", "5000") if narrowed == "an entitlement" else ()
    key = platform.command("keys", "create", "--tenant", "narrowed", *options).stdout.strip()
    if narrowed == "limits":
        platform.command("limits", "set", "key", key.split("-")[1], "--tokens-per-minute", "1000000")
    client = platform.openai(api_key=key)
    messages = [{"role": "user", "content": "Hello."}]
    answer = client.chat.completions.create(model=CHAT, messages=messages)
    assert answer.choices[0].message.content
    assert list(client.chat.completions.create(model=CHAT, messages=messages, stream=True))
    with pytest.raises(BadRequestError, match="2048"):  # a client's own wish is refused as ever
        client.chat.completions.create(model=CHAT, messages=messages, max_completion_tokens=4096)
