"""The platform with workers that write no events of usage: what the ledger's cost is measured against, and nothing else.

python -m inferbus_bench.unbilled up --simulator ...       as `inferbus up`
python -m inferbus_bench.unbilled worker                   one of its workers, as the supervisor starts it
"""

from __future__ import annotations

import sys

import msgspec

from inferbus.cli import main as command_line
from inferbus.local import supervisor
from inferbus.local.processes import Platform, ProcessSpec, worker_specs
from inferbus.local.serving import Served
from inferbus.process import runtime
from inferbus.worker import service
from inferbus_llm_worker.main import main as llm_worker

_MODULE, _WORKER = "inferbus_bench.unbilled", "worker"


def unbilled_specs(platform: Platform, served: Served, *, bus_url: str) -> list[ProcessSpec]:
    argv = [sys.executable, "-m", _MODULE, _WORKER]
    return [msgspec.structs.replace(spec, argv=argv) for spec in worker_specs(platform, served, bus_url=bus_url)]


def main() -> None:
    if sys.argv[1:] == [_WORKER]:
        vars(service)["Billing"] = lambda *_, **__: None  # serving can do without, and no setting lets it
        runtime.run(llm_worker)
    else:
        vars(supervisor)["worker_specs"] = unbilled_specs
        command_line.main()


if __name__ == "__main__":
    main()
