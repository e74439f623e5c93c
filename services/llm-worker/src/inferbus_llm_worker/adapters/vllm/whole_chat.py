"""A chat that is not streamed, by vLLM's own serving layer but without the web framework around it.

Routing, dependencies, the body's second parsing and two tasks that wait for a disconnect are FastAPI's and Starlette's part of
a request. What makes the answer is called directly, so its bytes are the same; whatever is refused before the engine was
asked goes the whole way once more, for exactly the refusal a client of `vllm serve` gets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse

from inferbus.worker.tasks import CHAT
from inferbus_llm_worker.adapters.vllm.boot import Booted
from inferbus_llm_worker.adapters.vllm.tap import CURRENT

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

_AROUND = ("middleware", "api_key", "enable_server_load_tracking")
"""Arguments of the server that do something around every request: with any of them the whole application answers."""


class WholeChat:
    """Answers unstreamed chats of one engine. `app` is vLLM's application, `serving` its chat layer."""

    def __init__(self, booted: Booted, app: Any, serving: Any) -> None:
        self._app = app
        self._serving = serving
        self._possible = not any(getattr(booted.args, name, None) for name in _AROUND)

    def takes(self, path: str, body: dict[str, Any]) -> bool:
        """Say whether `body` is a chat that is not streamed."""
        return self._possible and path == CHAT and not body.get("stream")

    def of(self, body: dict[str, Any]) -> AsgiApp:
        """Give the application that answers this very body; it is cancelled instead of told of a disconnect."""

        async def answer(scope: Message, receive: Receive, send: Send) -> None:
            scope["app"] = self._app
            response = await self._response(body, Request(scope, receive))
            if response is None:
                response = self._app
            await response(scope, receive, send)

        return answer

    async def _response(self, body: dict[str, Any], request: Request) -> Response | None:
        """Give the answer, or None where the whole application is to refuse it."""
        try:
            wanted = ChatCompletionRequest.model_validate(body)
            made = await self._serving.create_chat_completion(wanted, request)
        except Exception as exc:
            tap = CURRENT.get()
            if tap is None or not tap.reached_engine:
                return None
            return await self._failure(request, exc)
        if isinstance(made, ChatCompletionResponse):
            return JSONResponse(made.model_dump())
        return JSONResponse(made.model_dump(), status_code=made.error.code)

    async def _failure(self, request: Request, exc: Exception) -> Response:
        """Have the application's own handler make the body of an error.

        Raises:
            Exception: `exc`, where it has none.
        """
        handlers = self._app.exception_handlers
        handler = next((handlers[kind] for kind in type(exc).__mro__ if kind in handlers), None)
        if handler is None:
            raise exc
        response: Response = await handler(request, exc)
        return response
