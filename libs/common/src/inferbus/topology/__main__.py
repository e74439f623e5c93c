"""Run the topology: `python -m inferbus.topology`."""

from inferbus.process import runtime
from inferbus.topology.main import main

if __name__ == "__main__":
    runtime.run(main)
