"""One request through vLLM's own application, called as ASGI in this process.

(httpx's ASGITransport keeps the body back until its end, so it cannot stream.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from inferbus.errors import DependencyDown, EngineDead, Overloaded, ResumeImpossible
from inferbus.worker.open_calls import OpenCall
from inferbus.worker.ports import Work
from inferbus_llm_worker.adapters.vllm.resume_plan import ResumePlan
from inferbus_llm_worker.adapters.vllm.stats import StepStats
from inferbus_llm_worker.adapters.vllm.tap import CURRENT, Tap
from inferbus_llm_worker.domain.created import restamp

Message = MutableMapping[str, Any]

_DISCONNECT_GRACE_S = 10.0


class AsgiCall:
    """Runs `work` with `body` through `app` and tells `call`.

    A response that is an event stream becomes deltas, one per engine output; any other becomes one body at the end.
    With a `plan` the stream goes on where another engine stopped: bytes of outputs that were delivered are dropped.
    `cancels`: the application listens for no disconnect, and is cancelled when the request is to stop.
    """

    def __init__(
        self,
        app: Any,
        work: Work,
        body: bytes,
        call: OpenCall,
        stats: StepStats,
        engine_dead: Callable[[], bool],
        plan: ResumePlan | None = None,
        *,
        cancels: bool = False,
    ) -> None:
        self._app = app
        self._cancels = cancels
        self._work = work
        self._body = body
        self._call = call
        self._engine_dead = engine_dead
        self._resumes = plan is not None
        self.tap = self._tap = Tap(stats, self._flush, plan)
        self._gone = asyncio.Event()
        self._body_taken = False
        self._status = 0
        self._content_type = ""
        self._streams = False
        self._data: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run(), name=f"asgi-{self._work.request_id}")
        self._call.on_stop(self._disconnect)
        return self._task

    async def _run(self) -> None:
        CURRENT.set(self._tap)  # of this task and the tasks it starts
        error: Exception | None = None
        try:
            await self._app(self._scope(), self._receive, self._send)
        except Exception as exc:  # vLLM's last handler answers 500 and raises again
            error = exc
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._call.ended:
            return
        if self._engine_dead():
            reached = self._tap.reached_engine
            self._call.fail(EngineDead("the engine died") if reached else DependencyDown("the engine is not running"))
        elif not self._status:
            self._call.fail(error or RuntimeError("vLLM's application gave no response"))
        elif self._status == 503:  # --max-num-queued-reqs: another worker, or this one later
            self._call.fail(Overloaded("the engine's own queue is full"))
        elif self._resumes and (not self._streams or self._tap.fell_short or self._tap.refused):
            self._call.fail(ResumeImpossible("the engine did not take up what was delivered"))
        elif self._streams:
            self._flush()
            self._call.finish(self._status, self._tap.usage(), b"", self._content_type)
        else:
            self._call.finish(self._status, self._tap.usage(), b"".join(self._data), self._content_type)
        if error is not None:
            structlog.get_logger().error("vllm_app_raised", request_id=self._work.request_id, exc_info=error)

    def _flush(self) -> None:
        """Give what was sent since the last time, with the token ids it was made of."""
        if not self._streams:
            return
        (ids, done, cached), data = self._tap.take(), b"".join(self._data)
        self._data.clear()
        if (ids or data) and not self._tap.replaying and not self._engine_dead():
            self._call.delta(ids, data, done, cached)

    def _disconnect(self) -> None:
        """Be the client that hangs up: vLLM then stops the generation, streamed or not."""
        self._gone.set()
        task = self._task
        if task is None or task.done():
            return
        if self._cancels:
            task.cancel()
        else:
            asyncio.get_running_loop().call_later(_DISCONNECT_GRACE_S, task.cancel)

    async def _receive(self) -> Message:
        if not self._body_taken:
            self._body_taken = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            self._status = int(message["status"])  # vLLM gives an enum here and there
            self._content_type = headers.get(b"content-type", b"").decode("latin-1")
            self._streams = self._content_type.startswith("text/event-stream")
        elif data := message.get("body"):
            self._data.append(restamp(data, self._work.created) if self._streams or not self._data else data)

    def _scope(self) -> dict[str, Any]:
        work = self._work
        headers = [
            (b"host", b"inferbus"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._body)),
            (b"x-request-id", work.request_id.encode()),
        ]
        if work.priority:
            headers.append((b"x-vllm-priority", b"%d" % work.priority))
        if work.traceparent:
            headers.append((b"traceparent", work.traceparent.encode()))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # 2.4 would stop listening for the disconnect
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": work.path,
            "raw_path": work.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("inferbus", 80),
            "state": {},
        }
