"""A Qdrant server, by its own client."""
