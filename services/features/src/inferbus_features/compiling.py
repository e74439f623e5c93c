"""Make a feature repository into what is stored of it: `python -m inferbus_features.compiling FOLDER FILE`.

It runs the repository's code, in a process of its own. The file gets a `Compiled` (JSON); what is wrong goes to stderr.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from inferbus.codec import to_json
from inferbus.contracts.features import Compiled
from inferbus.errors import InvalidRequest


def main(arguments: list[str]) -> int:
    """Compile; gives the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m inferbus_features.compiling FOLDER FILE\n")
        return 2
    warnings.simplefilter("ignore")  # Feast's, about itself
    from inferbus_features.adapters.feast.repository import FeastRepositories  # noqa: PLC0415 - takes seconds

    folder, file = arguments
    try:
        registry, catalogue = FeastRepositories().compile_repository(folder)
    except InvalidRequest as exc:
        sys.stderr.write(f"{exc.message}\n")
        return 1
    Path(file).write_bytes(to_json(Compiled(registry=registry, catalogue=catalogue)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
