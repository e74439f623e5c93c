"""Logs, traces, metrics: one module each. Spans are made in middleware and adapters only."""
