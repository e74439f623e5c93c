"""The vector service's settings (section VECTORS: `INFERBUS_VECTORS_FOLDER` and so on)."""

from __future__ import annotations

import msgspec


class VectorsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where vectors lie, and how much is done at once. Times in seconds."""

    process: str = "vectors-0"
    """Stable name of this process on the bus."""

    folder: str = ".inferbus/vectors"
    """Of the embedded engine. One process has it at a time; another waits for it."""
    qdrant_url: str = ""
    """A Qdrant server's address (gRPC); empty: the embedded engine."""
    qdrant_api_key: str = ""
    qdrant_prefix: str = "inferbus-"
    """Begins the names of our collections at that server."""

    messages: int = 64
    """Index messages this process works on at once."""
    write_documents: int = 256
    """Documents are written in batches of at most so many chunks..."""
    write_wait_s: float = 0.02
    """...or whatever came within this time."""
    embed_texts: int = 32
    """Texts in one request for embeddings."""
    embed_wait_s: float = 0.01
    embed_in_flight: int = 16
    """Requests for embeddings this process waits for at once, when it indexes."""
    embed_deadline_s: float = 600.0
    max_text_chars: int = 1_000_000
    """A longer document is refused."""
    max_payload_bytes: int = 64 * 1024
    max_attempts: int = 5
    """How often a message is tried that meets a bug."""
    max_retries: int = 200
    """How often one is tried that meets failures of the moment."""

    optimise_points: int = 100_000
    """From that size on the embedded engine makes graphs, of what has come since."""
    sweep_every_s: float = 600.0
    gravestones_s: float = 86_400.0
    """How long it is remembered that a document was taken out: longer than a message may wait in the queue to be retried."""

    drain_s: float = 10.0

    searches: int = 64
    """Searches this process works on at once; one more is refused."""
    searches_per_tenant: int = 48
    search_deadline_s: float = 10.0
    """For searches that name none, and the most one may take."""
    settle_s: float = 2.0
    """How long after a change of a collection a document may still be on its way by what it was."""
    engine_silence_s: float = 20.0
    """An embedded engine that says nothing for so long though it was asked something is taken to hang: it is killed, and
    another one started. What may take longer, such as opening its folder, it announces."""
