"""Run the ledger: `python -m inferbus.ledger`."""

from inferbus.ledger.main import main
from inferbus.process import runtime

if __name__ == "__main__":
    runtime.run(main)
