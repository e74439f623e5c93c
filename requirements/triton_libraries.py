"""Say whether the shared libraries are there that Triton's model processes load and pip cannot bring.

Run by `make install` with the environment's own Python. Exits 1, and says what to install, if one is missing. Without
Python's library the server would wait for its models for ever.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from pathlib import Path


def main() -> int:
    version = "{}.{}".format(*sys.version_info[:2])
    python = f"libpython{version}.so.1.0"
    beside = Path(sysconfig.get_config_var("LIBDIR") or "") / python
    wanted = {
        f"libpython{version}": str(beside) if beside.exists() else python,
        "libgomp1": "libgomp.so.1",  # of LightGBM
        "libexpat1": "libexpat.so.1",
    }
    missing = 0
    for package, library in wanted.items():
        try:
            ctypes.CDLL(library)
        except OSError as exc:
            missing = 1
            print(f"==> .venv-triton: {exc} (Debian: apt-get install {package})", file=sys.stderr)
    return missing


if __name__ == "__main__":
    sys.exit(main())
