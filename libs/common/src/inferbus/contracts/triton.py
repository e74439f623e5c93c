"""What is asked of a Triton worker about its server (JSON, request and reply): on `control.<process>.triton`, which is for
administrators, everything, and on `control.<process>.model`, which is for gateways, what clients may know of a model.

Operations, and what `data` of the reply has, which is as the server says it (KServe v2 and its extensions, as JSON):

    metadata   model, version        the model's metadata: name, versions, platform, inputs, outputs
    ready      model, version        {"ready": true or false}
    config     model, version        the model's configuration
    stats      model, version        {"model_stats": [...]}; of all models where none is named
    index                            [{"name", "version", "state", "reason"}]: the server's repository
    server     -                     {"name", "version", "extensions"}
    load       model, config         {}; with `config`, JSON that stands in place of the repository's configuration
    unload     model                 {}; `dependents`: what it is an ensemble of as well

`model` is the name inside the server (`ModelEntry.server_name` where there is one). The first four are a gateway's too; `load`
and `unload` are done by every worker of the pool that is asked.
"""

from __future__ import annotations

import msgspec

METADATA, READY, CONFIG, STATS, INDEX, SERVER = "metadata", "ready", "config", "stats", "index", "server"
LOAD, UNLOAD = "load", "unload"
LOOKS = (METADATA, READY, CONFIG, STATS, INDEX, SERVER)
CHANGES = (LOAD, UNLOAD)
OF_MODELS = (METADATA, READY, CONFIG, STATS)


class TritonAsk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="triton.ask.v1"):
    """One operation. `timeout_s` bounds what the worker does for it; the asker waits a little longer. `operation` names a load or
    unload that several workers are asked for: those that share a server carry it out once."""

    op: str
    model: str = ""
    version: str = ""
    config: str = ""
    dependents: bool = False
    timeout_s: float = 10.0
    operation: str = ""


class TritonReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="triton.reply.v1"):
    """`status` is the HTTP status KServe v2 has for it; with 400 and more `error` says why, else `data` has the JSON."""

    status: int = 200
    data: msgspec.Raw = msgspec.Raw(b"{}")
    error: str = ""
