"""What the worker decides. No NATS, no vLLM, no clock, no environment."""
