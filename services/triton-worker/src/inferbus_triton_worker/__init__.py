"""The Triton worker: a Triton server behind the bus."""
