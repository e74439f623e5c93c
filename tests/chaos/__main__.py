"""`make chaos`: random faults under a stream of requests. `--engine vllm` takes real engines; `--seed` repeats a run.

Ends with 1 if anything was lost, doubled or wrong, or if fewer faults counted than were asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign import Outcome, play
from tests.chaos.faults import REAL, SIMULATED
from tests.chaos.load import Load
from tests.chaos.oracle import Question, simulated_question
from tests.chaos.platform import SIMULATOR, VLLM, ChaosPlatform, Setting
from tests.chaos.real_questions import unbroken_questions
from tests.chaos.report import render
from tests.main_path import MODEL

SIMULATED_CLIENTS, DURABLE_CLIENTS, REAL_CLIENTS = 16, 5, 4
TOKENS = (40, 220)


def simulated(name: str, draw: random.Random) -> Question:
    """Ask the simulator for one to three seconds of words."""
    return simulated_question(MODEL, name, draw.randint(*TOKENS))


async def run(engine: str, *, faults: int, requests: int, seed: int, only: str, folder: Path) -> Outcome:
    draw = random.Random(seed)
    setting = Setting(engine=engine, gateways=1 if engine == VLLM else 2)
    async with ChaosPlatform(folder, setting) as platform:
        ask, clients, kinds = simulated, SIMULATED_CLIENTS, SIMULATED
        if engine == VLLM:
            questions = await unbroken_questions(platform)
            ask, clients, kinds = lambda _name, by: by.choice(questions), REAL_CLIENTS, REAL
        load = Load(platform, ask, clients=clients, draw=draw, durable=0 if engine == VLLM else DURABLE_CLIENTS)
        kinds = [kind for kind in kinds if only in kind.name]
        return await play(platform, load, kinds, faults=faults, requests=requests, seed=seed, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=(SIMULATOR, VLLM), default=SIMULATOR)
    parser.add_argument("--faults", type=int, help="faults that must count (200 with the simulator, 20 with vLLM)")
    parser.add_argument("--requests", type=int, help="requests at least (2000 with the simulator, 0 with vLLM)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--only", default="", help="kinds of faults with this in their names")
    parser.add_argument("--keep", type=Path, help="folder for logs and the queue; a temporary one otherwise")
    options = parser.parse_args()
    faults, requests = (20, 0) if options.engine == VLLM else (200, 2000)
    faults = faults if options.faults is None else options.faults
    requests = requests if options.requests is None else options.requests
    _say(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="inferbus-chaos-") as temporary:
        folder = options.keep or Path(temporary)
        outcome = asyncio.run(
            run(options.engine, faults=faults, requests=requests, seed=options.seed, only=options.only, folder=folder)
        )
    _say(render(outcome, engine=options.engine))
    passed = outcome.passed(faults)
    _say("passed" if passed else f"FAILED ({outcome.counted} of {faults} faults counted)")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
