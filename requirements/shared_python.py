"""Say whether this environment's Python is there as a shared library, which Triton's model processes load.

Run by `make install` with the environment's own Python. Exits 1, and says what to install, if it is not.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from pathlib import Path


def main() -> int:
    version = "{}.{}".format(*sys.version_info[:2])
    name = f"libpython{version}.so.1.0"
    beside = Path(sysconfig.get_config_var("LIBDIR") or "") / name
    try:
        ctypes.CDLL(str(beside) if beside.exists() else name)
    except OSError as exc:
        print(
            f"==> .venv-triton: Triton needs {name} (Debian: apt-get install libpython{version}): {exc}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
