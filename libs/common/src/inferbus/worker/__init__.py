"""What every worker does between its pool's queue and its engine; the engine itself is the service's (`ports.py`)."""
