"""Budget alerts: an event on the bus, and a webhook where one is set. Off the request path; retries are bounded."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import urllib.error
import urllib.request
from collections.abc import Callable

import msgspec
import structlog

from inferbus.admission.quota.settings import QuotaSettings
from inferbus.contracts.budgets import BudgetThreshold
from inferbus.errands import Errands
from inferbus.facts import Facts

SIGNATURE = "X-Inferbus-Signature"
_TRIES = 5
_FIRST_PAUSE_S = 1.0
_TIMEOUT_S = 5.0
log = structlog.get_logger()


def signature(secret: str, body: bytes) -> str:
    """Sign a webhook's body: `sha256=` and the HMAC-SHA256 in hex, compared by the receiver in constant time."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def budget_listeners(
    settings: QuotaSettings, facts: Facts, errands: Errands
) -> list[Callable[[BudgetThreshold], None]]:
    """Give whom to tell of a threshold."""
    listeners: list[Callable[[BudgetThreshold], None]] = [facts.budget_passed]
    if settings.webhook_url:
        listeners.append(Webhook(settings.webhook_url, settings.webhook_secret, errands).budget_passed)
    return listeners


class Webhook:
    """Posts events to one address (http or https). An answer of 2xx is the end; anything else is tried again, five times
    in all, after pauses that double from a second."""

    def __init__(self, url: str, secret: str, errands: Errands, *, first_pause_s: float = _FIRST_PAUSE_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("INFERBUS_QUOTA_WEBHOOK_URL: use http or https")
        self._url = url
        self._secret = secret
        self._errands = errands
        self._first_pause_s = first_pause_s

    def budget_passed(self, event: BudgetThreshold) -> None:
        body = msgspec.json.encode(event)

        async def post() -> None:
            pause_s = self._first_pause_s
            for attempt in range(_TRIES):
                if attempt:
                    await asyncio.sleep(pause_s)
                    pause_s *= 2
                problem = await asyncio.to_thread(self._post, body)
                if problem is None:
                    return
                log.warning("webhook_failed", attempt=attempt + 1, error=problem)
            log.error("webhook_given_up", scope=event.scope, percent=event.percent)

        self._errands.add("budget_webhook", post)

    def _post(self, body: bytes) -> str | None:
        """Post once; give what went wrong."""
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers[SIGNATURE] = signature(self._secret, body)
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - http(s), checked above
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
                return None if 200 <= answer.status < 300 else f"status {answer.status}"
        except (urllib.error.URLError, OSError) as exc:
            return repr(exc)
