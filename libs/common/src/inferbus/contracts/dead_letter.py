"""Headers added to a message copied to `dlq.<original subject>`; the body and the other headers stay as they were."""

from __future__ import annotations

PREFIX = "Ib-Dead-"
REASON = "Ib-Dead-Reason"
CODE = "Ib-Dead-Code"
DELIVERIES = "Ib-Dead-Deliveries"
SOURCE_SUBJECT = "Ib-Dead-Subject"
SOURCE_SEQUENCE = "Ib-Dead-Sequence"
TRUNCATED = "Ib-Dead-Truncated"
"""Bytes of the original body, where body and other headers had to be left out: with ours it was over the bus's limit."""
FAULTS = "Ib-Dead-Faults"
"""Of pushed rows: which of them are wrong, and where (JSON, `contracts.features.RowFault`)."""
