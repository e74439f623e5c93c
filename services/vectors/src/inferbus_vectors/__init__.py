"""The vector service: documents from the bus into Qdrant, and searches."""
