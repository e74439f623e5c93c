"""The LLM worker: an engine behind the bus."""
