"""Run one features process: `python -m inferbus_features`."""

from inferbus.process import runtime
from inferbus_features.main import main

if __name__ == "__main__":
    runtime.run(main)
