"""A CA of one's own and a server's certificate signed by it, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec


class Certificates(msgspec.Struct, frozen=True):
    """Files: the CA, and certificate and key of somebody it vouches for."""

    ca: str
    cert: str
    key: str


def make_certificates(folder: Path, name: str, *, host: str = "IP:127.0.0.1") -> Certificates:
    """Make a CA called `name` and a certificate for `host`."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key, cert, key, request, extra = (
        str(folder / f"{name}.{kind}") for kind in ("ca.pem", "ca.key", "pem", "key", "csr", "ext")
    )
    Path(extra).write_text(f"subjectAltName={host}\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for arguments in (
        ["req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", f"/CN={name}",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=bus"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert, "-days", "2",
         "-extfile", extra],
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    return Certificates(ca=ca, cert=cert, key=key)
