"""The `files` bucket: what a tenant has uploaded, or a job has made. The body is in the storage under `body`."""

from __future__ import annotations

import msgspec

BATCH_INPUT, BATCH_OUTPUT = "batch", "batch_output"
ASSISTANTS, USER_DATA = "assistants", "user_data"
"""Purposes, in the OpenAI API's words; files of the last two are for vector stores."""


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, tag="files.record.v1"):
    """One file, under `<tenant>.<id>`. Written once; deleting is forgetting it.

    `body` is its name in the storage. Times are Unix seconds: from `expires_at` on (0: never) it is not there any more.
    `sha256` is hex; `rows` is 0 where nobody counted. `job` made it, or it was uploaded with the key `key_id`.
    """

    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    body: str
    created_at: int
    expires_at: int = 0
    rows: int = 0
    key_id: str = ""
    job: str = ""
