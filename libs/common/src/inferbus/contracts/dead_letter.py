"""Headers added to a message copied to `dlq.<original subject>`; the body and the other headers stay as they were."""

from __future__ import annotations

REASON = "Ib-Dead-Reason"
CODE = "Ib-Dead-Code"
DELIVERIES = "Ib-Dead-Deliveries"
SOURCE_SUBJECT = "Ib-Dead-Subject"
SOURCE_SEQUENCE = "Ib-Dead-Sequence"
