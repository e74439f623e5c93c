"""A request of inference: a JSON head, and perhaps the raw bytes of its inputs behind it, sliced and not copied.

What can be known without the model is checked here: the form, the names, the types, that every tensor has exactly the
elements its shape says. What the model wants is its worker's to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.codec import field_of
from inferbus.errors import InvalidRequest
from inferbus.kserve.tensors import BYTES, DATATYPES, Tensor, check_raw, flat

MAX_TENSORS, MAX_RANK = 1024, 32
_SIZE, _BINARY, _ALL_BINARY, _CLASSES = "binary_data_size", "binary_data", "binary_data_output", "classification"
_SHARED = "shared_memory_region"
_MAX_FORM_BYTES, _MAX_FORMS = 1024, 256


class RequestedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """An output a client names. `binary` None: as the request says for all. `classification`: the so many best classes
    instead of the tensor, 0 for the tensor."""

    name: str
    binary: bool | None = None
    classification: int = 0
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`binary_default`: outputs without a wish of their own are to be raw bytes. `form`: what all requests of the same head
    have in common; None where that is not kept."""

    id: str
    inputs: list[Tensor]
    outputs: list[RequestedOutput] = []
    parameters: dict[str, Any] = {}
    binary_default: bool = False
    form: Form | None = None

    def wants_binary(self, name: str) -> bool:
        """Say whether an output is to be raw bytes."""
        for output in self.outputs:
            if output.name == name and output.binary is not None:
                return output.binary
        return self.binary_default


class Form:
    """Requests of one head: a client that asks a model again and again says the same each time, but for the bytes of its
    tensors. Nothing that is shared between them may be changed. Equal to itself only."""

    __slots__ = ("_head", "_places", "_size")

    def __init__(self, request: InferRequest) -> None:
        self._head = msgspec.structs.replace(request, inputs=[], form=self)  # not the tensors: they hold the whole body
        self._places: list[tuple[str, str, list[int], dict[str, Any], int, int]] = []
        at = 0
        for tensor in request.inputs:
            end = at + len(tensor.raw or b"")
            self._places.append((tensor.name, tensor.datatype, tensor.shape, tensor.parameters, at, end))
            at = end
        self._size = at

    def request(self, rest: memoryview) -> InferRequest | None:
        """Make the request whose raw bytes these are; None where they are not as many as its tensors have.

        Raises:
            InvalidRequest: lengths of the elements of a tensor of BYTES do not fit.
        """
        if len(rest) != self._size:
            return None
        inputs = []
        for name, datatype, shape, parameters, begin, end in self._places:
            raw = rest[begin:end]
            if datatype == BYTES:
                check_raw(name, datatype, shape, raw)
            inputs.append(Tensor(name=name, datatype=datatype, shape=shape, parameters=parameters, raw=raw))
        head = self._head
        return InferRequest(
            id="", inputs=inputs, outputs=head.outputs, parameters=head.parameters,
            binary_default=head.binary_default, form=self,
        )  # fmt: skip


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: Any = msgspec.UNSET


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Head(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


class _InputShape(msgspec.Struct):
    shape: list[int] = []


class _Shapes(msgspec.Struct):
    inputs: list[_InputShape] = []


_decode = msgspec.json.Decoder(_Head).decode
_decode_shapes = msgspec.json.Decoder(_Shapes).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_forms: dict[bytes, Form] = {}


def parse(body: bytes, json_bytes: int) -> InferRequest:
    """Read a request. `json_bytes`: the length of its JSON where raw bytes follow it, 0 where all of it is JSON.

    Raises:
        InvalidRequest: the message names the field, what was expected and what came; `param` is the tensor or field.
    """
    if 0 < json_bytes <= min(_MAX_FORM_BYTES, len(body)):
        form = _forms.get(body[:json_bytes])
        if form is not None and (request := form.request(memoryview(body)[json_bytes:])) is not None:
            return request
    request = _read(body, json_bytes)
    if 0 < json_bytes <= _MAX_FORM_BYTES and _is_common(request):
        if len(_forms) >= _MAX_FORMS:
            _forms.clear()
        _forms[body[:json_bytes]] = Form(request)
    return request


def _is_common(request: InferRequest) -> bool:
    """Whether others may come with the same head: one with an id, or with values in it, comes once."""
    return (
        not request.id
        and request.parameters.keys() <= {_ALL_BINARY}
        and all(tensor.raw is not None for tensor in request.inputs)
    )


def _read(body: bytes, json_bytes: int) -> InferRequest:
    head = _head_of(body, json_bytes)
    if not head.inputs:
        raise InvalidRequest("inputs: expected at least one tensor, got none", param="inputs")
    _check_names("inputs", [tensor.name for tensor in head.inputs])
    _check_names("outputs", [output.name for output in head.outputs])
    rest = memoryview(body)[json_bytes:] if json_bytes else memoryview(b"")
    inputs, at = [], 0
    for given in head.inputs:
        tensor, at = _tensor(given, rest, at)
        inputs.append(tensor)
    if at != len(rest):
        raise InvalidRequest(
            f"{_SIZE}: the inputs name {at} bytes of binary data, {len(rest)} follow the JSON", param=_SIZE
        )
    return InferRequest(
        id=head.id,
        inputs=inputs,
        outputs=[_requested(output) for output in head.outputs],
        parameters=head.parameters,
        binary_default=_truth("parameters", head.parameters, _ALL_BINARY) or False,
    )


def rows_of(body: bytes, json_bytes: int) -> int:
    """Count a request's rows as far as a door can: the first dimension of the first input, at least 1."""
    try:
        shapes = _decode_shapes(memoryview(body)[:json_bytes] if json_bytes else body)
    except _UNREADABLE:
        return 1  # whoever reads it whole refuses it
    first = shapes.inputs[0].shape if shapes.inputs else []
    return max(1, first[0]) if first else 1


def check_framing(body: bytes, json_bytes: int) -> None:
    """Refuse a length of the JSON that cannot be.

    Raises:
        InvalidRequest: it has both numbers.
    """
    if not 0 <= json_bytes <= len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: the JSON has {json_bytes} bytes, the whole body {len(body)}",
            param="Inference-Header-Content-Length",
        )


def _head_of(body: bytes, json_bytes: int) -> _Head:
    check_framing(body, json_bytes)
    try:
        return _decode(memoryview(body)[:json_bytes] if json_bytes else body)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(str(exc), param=field_of(exc)) from exc
    except _UNREADABLE as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from exc


def _tensor(given: _Input, rest: memoryview, at: int) -> tuple[Tensor, int]:
    """Make a tensor; gives also where the next one's raw bytes begin."""
    name, datatype, shape = given.name, given.datatype, given.shape
    if datatype not in DATATYPES:
        raise InvalidRequest(
            f"tensor `{name}`: expected a datatype of {', '.join(DATATYPES)}, got {datatype[:40]!r}", param=name
        )
    if len(shape) > MAX_RANK or any(size < 0 or size >= 2**63 for size in shape):
        raise InvalidRequest(
            f"tensor `{name}`: expected a shape of at most {MAX_RANK} sizes, each 0 or more, got {shape[:MAX_RANK]}",
            param=name,
        )
    if _SHARED in given.parameters:
        raise InvalidRequest(f"tensor `{name}`: shared memory cannot be used from here, send the data", param=name)
    size = given.parameters.get(_SIZE)
    if (size is None) == (given.data is msgspec.UNSET):
        both = "both" if size is not None else "none of them"
        raise InvalidRequest(f"tensor `{name}`: expected either data or {_SIZE}, got {both}", param=name)
    if size is None:
        if type(given.data) is not list:
            raise InvalidRequest(f"tensor `{name}`: expected data to be a list", param=name)
        values = flat(name, datatype, shape, given.data)
        return Tensor(name=name, datatype=datatype, shape=shape, parameters=given.parameters, data=values), at
    if type(size) is not int or size < 0:
        raise InvalidRequest(f"tensor `{name}`: expected {_SIZE} to be a number of bytes, got {size!r}", param=name)
    if at + size > len(rest):
        raise InvalidRequest(f"tensor `{name}`: {_SIZE} is {size}, {len(rest) - at} bytes are left", param=name)
    raw = rest[at : at + size]
    check_raw(name, datatype, shape, raw)
    return Tensor(name=name, datatype=datatype, shape=shape, parameters=given.parameters, raw=raw), at + size


def _requested(output: _Output) -> RequestedOutput:
    classes = output.parameters.get(_CLASSES, 0)
    if type(classes) is not int or classes < 0:
        raise InvalidRequest(
            f"output `{output.name}`: expected {_CLASSES} to be a number of classes", param=output.name
        )
    if _SHARED in output.parameters:
        raise InvalidRequest(f"output `{output.name}`: shared memory cannot be used from here", param=output.name)
    binary = _truth(f"output `{output.name}`", output.parameters, _BINARY)
    return RequestedOutput(name=output.name, binary=binary, classification=classes, parameters=output.parameters)


def _truth(where: str, parameters: dict[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidRequest(f"{where}: expected {name} to be true or false, got {value!r}", param=name)
    return value


def _check_names(field: str, names: Sequence[str]) -> None:
    if len(names) > MAX_TENSORS:
        raise InvalidRequest(f"{field}: expected at most {MAX_TENSORS}, got {len(names)}", param=field)
    if not all(names):
        raise InvalidRequest(f"{field}: expected every tensor to have a name", param=field)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"{field}: expected `{twice}` once, got it {names.count(twice)} times", param=twice)
