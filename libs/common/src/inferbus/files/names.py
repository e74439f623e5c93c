"""Names of files and of bodies in the storage."""

from __future__ import annotations

import re
import secrets

from inferbus.errors import InvalidRequest

_BODY = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*)(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_FILE_ID = re.compile(r"file-[A-Za-z0-9]{8,64}")


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def is_file_id(name: str) -> bool:
    return _FILE_ID.fullmatch(name) is not None


def body_of_file(tenant: str, file_id: str) -> str:
    """Give the name of an uploaded file's body."""
    return f"files/{tenant}/{file_id}"


def is_name(name: str) -> bool:
    return _BODY.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Refuse a name that could lead out of the storage's folder.

    Raises:
        InvalidRequest: words of letters, digits, `_`, `-` and `.` (not in front), with `/` between, are what a name is.
    """
    if not is_name(name):
        raise InvalidRequest(f"{name[:80]!r} cannot be the name of a body")
    return name
