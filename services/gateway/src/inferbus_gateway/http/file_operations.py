"""How the operations of files are described in the OpenAPI document: what they read themselves, no argument says."""

from __future__ import annotations

from dataclasses import dataclass

from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)

from inferbus_gateway.http.file_shapes import FileObject
from inferbus_gateway.http.openapi import error_responses, json_media

_TEXT = Schema(type=OpenAPIType.STRING)
_BYTES = Schema(type=OpenAPIType.STRING, format="binary")  # type: ignore[arg-type]  # OpenAPI's, not one of the enum
_FORM = Schema(
    type=OpenAPIType.OBJECT,
    required=["file", "purpose"],
    properties={
        "file": _BYTES,
        "purpose": Schema(type=OpenAPIType.STRING, enum=["batch"]),
        "expires_after[anchor]": Schema(type=OpenAPIType.STRING, enum=["created_at"]),
        "expires_after[seconds]": Schema(type=OpenAPIType.INTEGER, minimum=3600, maximum=2_592_000),
    },
)


@dataclass
class FilesOperation(Operation):
    """An operation on files that takes no body."""

    def __post_init__(self) -> None:
        self.responses = {"200": (self.responses or {})["200"]} | error_responses(400, 401, 404, 503)


@dataclass
class UploadOperation(Operation):
    """An upload: a form, the file in it of any size up to the limit."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(required=True, content={"multipart/form-data": OpenAPIMediaType(schema=_FORM)})
        self.responses = {"200": OpenAPIResponse(description="The file.", content=json_media(FileObject))}
        self.responses |= error_responses(400, 401, 403, 413, 503)


@dataclass
class ContentOperation(Operation):
    """A download, of all or of one range."""

    def __post_init__(self) -> None:
        content = {"application/octet-stream": OpenAPIMediaType(schema=_BYTES)}
        self.responses = {
            "200": OpenAPIResponse(description="The whole content.", content=content),
            "206": OpenAPIResponse(description="The range asked for.", content=content),
            "416": OpenAPIResponse(description="The file has no such bytes.", content=None),
        }
        self.responses |= error_responses(401, 404, 503)
        self.parameters = [
            *(self.parameters or []),
            Parameter(
                name="Range", param_in="header", required=False, description="One range: `bytes=0-99`.", schema=_TEXT
            ),
        ]
