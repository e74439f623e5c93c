"""Run the ledger: `python -m inferbus.ledger`."""

from inferbus import runtime
from inferbus.ledger.main import main

if __name__ == "__main__":
    runtime.run(main)
