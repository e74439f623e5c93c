"""Answers of inference: written as the client wants them, read again; paths and content types."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.errors import InferbusError, InvalidRequest, Unsupported
from inferbus.kserve.content_type import content_type_of, json_bytes_of
from inferbus.kserve.paths import ModelPath, parse_path, path_of
from inferbus.kserve.request import InferRequest, RequestedOutput
from inferbus.kserve.response import OutputTensor, read, write
from inferbus.kserve.tensors import bytes_raw, raw_of

AS_JSON = InferRequest(id="", inputs=[])
AS_BYTES = InferRequest(id="", inputs=[], binary_default=True)


def _floats(*values: float, name: str = "y") -> OutputTensor:
    return OutputTensor(name=name, datatype="FP32", shape=[len(values)], raw=struct.pack(f"<{len(values)}f", *values))


@given(st.lists(st.floats(width=32), max_size=6), st.lists(st.binary(max_size=5), max_size=4), st.booleans())
def test_raw_outputs_come_back_as_they_were_whatever_is_in_them(
    numbers: list[float], items: list[bytes], with_json: bool
) -> None:
    texts = OutputTensor(name="t", datatype="BYTES", shape=[len(items)], raw=bytes_raw(items))
    small = OutputTensor(name="n", datatype="INT8", shape=[1], raw=b"\7")
    wanted = InferRequest(
        id="", inputs=[], outputs=[RequestedOutput(name="n", binary=not with_json)], binary_default=True
    )
    body, json_bytes = write("m", "2", "id", [_floats(*numbers), small, texts], wanted)
    answer = read(body, json_bytes)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "id")
    assert [bytes(raw_of(output)) for output in answer.outputs] == [_floats(*numbers).raw, b"\7", texts.raw]
    assert (answer.outputs[1].raw is None) == with_json


def test_json_has_no_binary_part_and_says_so() -> None:
    body, json_bytes = write("m", "", "", [_floats(0.5, 2.0)], AS_JSON)
    assert json_bytes == 0
    assert msgspec.json.decode(body) == {
        "model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [0.5, 2.0]}],
    }  # fmt: skip


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_have_is_refused_and_never_null(number: float) -> None:
    with pytest.raises(Unsupported, match="output `y` has numbers that are not finite"):
        write("m", "", "", [_floats(1.0, number)], AS_JSON)
    body, json_bytes = write("m", "", "", [_floats(1.0, number)], AS_BYTES)
    assert read(body, json_bytes).outputs[0].raw == struct.pack("<2f", 1.0, number)


def test_bytes_that_are_no_text_are_refused_in_json() -> None:
    output = OutputTensor(name="y", datatype="BYTES", shape=[1], raw=bytes_raw([b"\xff"]))
    with pytest.raises(Unsupported, match="not text"):
        write("m", "", "", [output], AS_JSON)


def test_bf16_is_the_upper_half_of_fp32() -> None:
    output = OutputTensor(name="y", datatype="BF16", shape=[2], raw=struct.pack("<2H", 0x3FC0, 0xC000))
    assert msgspec.json.decode(write("m", "", "", [output], AS_JSON)[0])["outputs"][0]["data"] == [1.5, -2.0]


def test_an_output_that_is_not_its_shape_is_no_answer() -> None:
    output = OutputTensor(name="y", datatype="FP32", shape=[2], raw=b"\0\0\0\0")  # what numpy 2 makes of it in a model
    for wanted in (AS_JSON, AS_BYTES):
        with pytest.raises(InvalidRequest, match="8 bytes, got 4"):
            write("m", "", "", [output], wanted)


@pytest.mark.parametrize(
    ("body", "json_bytes"),
    [
        (b"nonsense", 0),
        (b'{"model_name":"m","outputs":[{"name":"y","datatype":"WHAT","shape":[1],"data":[1]}]}', 0),
        (b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}', 0),
        (b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}', 0),
    ],
)  # fmt: skip
def test_a_damaged_answer_is_an_error(body: bytes, json_bytes: int) -> None:
    with pytest.raises(InferbusError, match="not KServe v2"):
        read(body, json_bytes)


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("/v2/models/m", ModelPath("m")),
        ("/v2/models/m/", ModelPath("m")),
        ("/v2/models/m/infer", ModelPath("m", "", "infer")),
        ("/v2/models/m/versions/2/infer", ModelPath("m", "2", "infer")),
        ("/v2/models/m/versions/2", ModelPath("m", "2")),
        ("/v2/models/team/m/versions/2/ready", ModelPath("team/m", "2", "ready")),
        ("/v2/models/m/generate_stream", ModelPath("m", "", "generate_stream")),
        ("/v2/models/m/versions/1/generate", ModelPath("m", "1", "generate")),
        ("/v2/models/", None),
        ("/v2/models/versions/", ModelPath("versions")),
        ("/v1/models/m", None),
    ],
)
def test_paths(path: str, parsed: ModelPath | None) -> None:
    assert parse_path(path) == parsed


@given(st.sampled_from(["m", "a/b"]), st.sampled_from(["", "3"]), st.sampled_from(["", "infer", "stats"]))
def test_paths_are_written_as_they_are_read(model: str, version: str, verb: str) -> None:
    assert parse_path(path_of(model, version, verb)) == ModelPath(model, version, verb)


@given(st.integers(0, 10**9))
def test_the_length_of_the_json_travels_in_the_content_type(json_bytes: int) -> None:
    assert json_bytes_of(content_type_of(json_bytes)) == json_bytes


@pytest.mark.parametrize("other", ["application/json", "", "application/octet-stream; json-bytes=", "json-bytes=3"])
def test_other_content_types_have_no_binary_part(other: str) -> None:
    assert json_bytes_of(other) == 0
