"""Run coordinator and chunk workers: `python -m inferbus_batch`."""

from inferbus.process import runtime
from inferbus_batch.main import main

if __name__ == "__main__":
    runtime.run(main)
