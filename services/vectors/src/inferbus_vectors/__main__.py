"""Run the vector service: `python -m inferbus_vectors`."""

from inferbus.process import runtime
from inferbus_vectors.main import main

if __name__ == "__main__":
    runtime.run(main)
