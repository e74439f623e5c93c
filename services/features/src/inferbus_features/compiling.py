"""`python -m inferbus_features.compiling FOLDER`: a feature repository as bytes on standard output, for `inferbus features apply`.

It runs the repository's code, in this process and nowhere else.
"""

from __future__ import annotations

import os
import sys

import msgspec

from inferbus.contracts.features import CompiledRepository
from inferbus.errors import InvalidRequest


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # what the repository or Feast print is no part of the answer
    from inferbus_features.adapters.feast.repository import FeastRepositories  # noqa: PLC0415 - takes seconds

    try:
        registry, catalogue = FeastRepositories().compile_repository(sys.argv[1])
        compiled = CompiledRepository(registry=registry, catalogue=catalogue)
    except InvalidRequest as exc:
        compiled = CompiledRepository(error=exc.message)
    with os.fdopen(out, "wb") as stream:
        stream.write(msgspec.msgpack.encode(compiled))


if __name__ == "__main__":
    main()
