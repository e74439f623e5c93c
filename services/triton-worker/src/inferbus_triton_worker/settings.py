"""This worker's settings: section TRITON_WORKER."""

from __future__ import annotations

import msgspec

from inferbus.worker.settings import PoolSettings


class TritonSettings(PoolSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`address` is host:port of a Triton's gRPC, `http_address` of the same one's HTTP, over which inference is quicker (empty:
    all goes over gRPC). Without an `address` the worker starts one itself, from `environment`, with the `models` of
    `repository` (`*`: all), and keeps its links and log in a folder of its name in `state` (empty: a temporary one). `repository` beside an
    address says where that Triton's models lie, if this process can write there: a dead model is then healed by touching
    its files, which changes nothing in its configuration.

    `slots` bounds what runs at once: twice the largest batch times the instances keeps a server busy. `micro_batch`: rows of
    several requests of one model go to Triton as one, where its configuration allows. Times in seconds: `probe_every_s`
    between two looks at a model that has nothing to do, `probe_timeout_s` after which one that answers nobody is loaded anew.
    """

    process: str = "triton-0"
    pool: str = "triton"
    runtime: str = "triton"
    address: str = ""
    http_address: str = ""
    repository: str = ""
    environment: str = ".venv-triton"
    state: str = ""
    models: list[str] = msgspec.field(default_factory=lambda: ["*"])
    slots: int = 64
    micro_batch: bool = True
    probe_every_s: float = 5.0
    probe_timeout_s: float = 30.0
    start_timeout_s: float = 120.0
