"""What a user gets for each mistake: the status, the openai client's own exception, and a message that helps."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tests.running_platform import CHAT, EMBED, RunningPlatform

QUESTION = [{"role": "user", "content": "Explain open."}]
LIMIT_BYTES = 32 * 1024 * 1024


def post(platform: RunningPlatform, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    authorization = {"Authorization": f"Bearer {platform.key}", "Content-Type": "application/json"}
    url = platform.url + path
    return httpx.post(url, content=body, headers=authorization | headers, timeout=60)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert error["message"]
    assert error["type"]
    return error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"model": "inferbus-tiny",}',
        b'{"model": "\xff"}',
        b"\x00",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(platform: RunningPlatform, body: bytes) -> None:
    answer = post(platform, body)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"stream": "perhaps"}, "stream"),
        ({"model": 7}, "model"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"top_p": 7}, "top_p"),
        ({"n": 1000}, "n"),
        ({"stop": {"a": 1}}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": "all"}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"top_logprobs": 1000, "logprobs": True}, "top_logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"seed": "lucky"}, "seed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_value_is_a_400_that_names_the_field(
    platform: RunningPlatform, fields: dict[str, Any], param: str, stream: bool
) -> None:
    body = {"model": CHAT, "messages": QUESTION, "max_tokens": 3, "stream": stream} | fields
    answer = post(platform, json.dumps(body).encode())
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert param in f"{error.get('param')} {error['message']}"


def test_the_client_raises_bad_request_with_the_field(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens="many")
    assert caught.value.param == "max_tokens"
    assert caught.value.type == "invalid_request_error"


def test_a_missing_model_is_named(platform: RunningPlatform) -> None:
    answer = post(platform, json.dumps({"messages": QUESTION}).encode())
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "model"


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer x", "Bearer ib-a-b", "Basic aWI6eA==", "Bearer ib-{id}-{wrong}", "Bearer ib-{id}-"],
)
def test_a_wrong_key_is_a_401_everywhere(platform: RunningPlatform, authorization: str) -> None:
    _, id_, secret = platform.key.split("-")
    headers = {"Authorization": authorization.format(id=id_, wrong="0" * len(secret))}
    for answer in (
        httpx.post(f"{platform.url}/v1/chat/completions", headers=headers, json={"model": CHAT, "messages": QUESTION}),
        httpx.get(f"{platform.url}/v1/models", headers=headers),
        httpx.get(f"{platform.url}/v1/models/{CHAT}", headers=headers),
    ):
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "unauthenticated"


def test_the_client_raises_authentication_error(platform: RunningPlatform) -> None:
    with platform.openai(api_key="ib-0-0") as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model=CHAT, messages=QUESTION)


@pytest.mark.parametrize("model", ["no-such-model", "*", ">", "a.b", "../..", "x" * 5000, "infer\r\nbus"])
def test_an_unknown_model_is_a_404(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=model, messages=QUESTION)
    assert caught.value.param == "model"


def test_a_model_that_cannot_do_it_says_so(client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="does not support chat"):
        client.chat.completions.create(model=EMBED, messages=QUESTION)
    with pytest.raises(openai.UnprocessableEntityError, match="does not support embeddings"):
        client.embeddings.create(model=CHAT, input="a cat")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_a_400_with_both_numbers(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "word " * 3000}], stream=stream
        )
    assert "2048" in caught.value.message
    assert "2049" in caught.value.message, "it stops counting one after the limit"


def test_an_answer_longer_than_the_context_is_a_400_with_both_numbers(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"2048.*5000|5000.*2048"):
        client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=5000)


def test_an_input_longer_than_the_embedder_takes_is_a_400(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="256"):
        client.embeddings.create(model=EMBED, input="cat " * 1000)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_a_413_with_both_numbers(platform: RunningPlatform, announced: bool) -> None:
    body = json.dumps({"model": CHAT, "messages": [{"role": "user", "content": "x" * LIMIT_BYTES}]}).encode()
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    answer = httpx.post(
        f"{platform.url}/v1/chat/completions",
        content=body if announced else pieces,
        headers={"Authorization": f"Bearer {platform.key}"},
        timeout=60,
    )
    assert answer.status_code == 413
    message = error_of(answer)["message"]
    assert str(LIMIT_BYTES) in message
    counted = [int(word) for word in message.replace(",", " ").split() if word.isdigit() and int(word) > LIMIT_BYTES]
    assert counted, message


def test_a_body_over_one_megabyte_arrives_whole(client: OpenAI) -> None:
    """It travels by ticket; `metadata` costs the model nothing, so that the answer is an ordinary one."""
    asked = {"model": CHAT, "messages": QUESTION, "max_tokens": 5, "temperature": 0}
    metadata = {"note": "n" * 3_000_000}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    assert client.chat.completions.create(**asked, metadata=metadata).choices[0].message.content == plain
    stream = client.chat.completions.create(**asked, metadata=metadata, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == plain


def test_a_prompt_over_one_megabyte_is_the_engines_to_refuse(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="2048"):
        client.chat.completions.create(model=CHAT, messages=[{"role": "system", "content": "word " * 400_000}])


def test_many_inputs_over_one_megabyte_are_all_embedded(client: OpenAI) -> None:
    """The spaces make the body large and are nothing to the tokenizer."""
    inputs = [f"number {n}{' ' * 2500}" for n in range(500)]
    answer = client.embeddings.create(model=EMBED, input=inputs)
    assert [item.index for item in answer.data] == list(range(500))
    few = client.embeddings.create(model=EMBED, input=["number 0", "number 499"])
    for one, other in ((answer.data[0], few.data[0]), (answer.data[499], few.data[1])):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-3)


def test_an_answer_over_one_bus_message_arrives_whole(platform: RunningPlatform) -> None:
    """1200 embeddings as decimal numbers are more than one bus message takes (8 MB): they come by ticket."""
    body = {"model": EMBED, "input": [f"number {n}" for n in range(1200)], "encoding_format": "float"}
    answer = post(platform, json.dumps(body).encode(), "/v1/embeddings")
    assert answer.status_code == 200
    assert len(answer.content) > 8 * 1024 * 1024
    assert [item["index"] for item in answer.json()["data"]] == list(range(1200))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.png", "https://example.org/a.png", "file:///etc/hostname", "ftp://example.org/a.png"]
)
def test_media_from_elsewhere_are_refused(client: OpenAI, url: str) -> None:
    image = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": [image]}])


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Inferbus-Deadline-Ms", "soon"),
        ("X-Inferbus-Deadline-Ms", "0"),
        ("X-Inferbus-Deadline-Ms", "-5"),
        ("X-Inferbus-Lane", "fast"),
        ("Content-Encoding", "gzip"),
    ],
)
def test_an_unusable_header_is_a_400_that_names_it(platform: RunningPlatform, header: str, value: str) -> None:
    body = json.dumps({"model": CHAT, "messages": QUESTION, "max_tokens": 3}).encode()
    answer = post(platform, body, **{header: value})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == header


def test_unknown_paths_and_methods_are_answered_in_the_same_form(platform: RunningPlatform) -> None:
    headers = {"Authorization": f"Bearer {platform.key}"}
    unknown = httpx.get(f"{platform.url}/v1/nothing", headers=headers)
    assert unknown.status_code == 404
    assert error_of(unknown)["code"] == "not_found"
    method = httpx.get(f"{platform.url}/v1/chat/completions", headers=headers)
    assert method.status_code == 405
    assert error_of(method)


@pytest.mark.parametrize(
    "path", ["/sleep", "/v1/load_lora_adapter", "/reset_prefix_cache", "/tokenize", "/collective_rpc"]
)
def test_the_engines_own_controls_are_not_reachable(platform: RunningPlatform, path: str) -> None:
    assert post(platform, b"{}", path).status_code == 404


def test_fields_that_steer_the_engine_do_nothing(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT,
        messages=QUESTION,
        max_tokens=3,
        extra_body={
            "priority": -100,
            "request_id": "theirs",
            "kv_transfer_params": {"do_remote_prefill": True},
            "vllm_xargs": {"resume_ids": "1"},
        },
        extra_headers={"X-Request-Id": "mine"},
    )
    assert "mine" in answer.id
