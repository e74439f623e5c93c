"""Owner: the process that owns a folder of shards. It answers one call at a time, questions before changes.

    python -m inferbus_vectors.adapters.qdrant_edge.owner FOLDER FD

Its parent, the service, is at the other end of the socket FD; with the parent it ends. Every call holds the interpreter, so
nothing else happens here. What has changed is flushed before it is answered, once for all that waited.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from inferbus.errors import InferbusError
from inferbus_vectors.adapters.qdrant_edge import wire
from inferbus_vectors.adapters.qdrant_edge.folder import Folder, FolderLock
from inferbus_vectors.adapters.qdrant_edge.operations import Operations
from inferbus_vectors.adapters.qdrant_edge.tied import tie_to_parent

_TAKE_AGAIN_S = 0.1
_TOGETHER = 32
_READ_BYTES = 1 << 20
_INTERNAL = ("os error", "No space left", "Service internal error", "IO Error", "I/O")
"""What the engine, whose errors have no types, says of troubles that are not the caller's."""


class Owner:
    """Reads calls from a socket, does them, and answers."""

    def __init__(self, connection: socket.socket, operations: Operations) -> None:
        self._connection = connection
        self._operations = operations
        self._frames = wire.Frames()
        self._calls = msgspec.msgpack.Decoder(wire.Call)
        self._questions: deque[wire.Call] = deque()
        self._changes: deque[wire.Call] = deque()
        self._in_a_row = 0

    def run(self) -> None:
        """Serve until the parent hangs up."""
        while self._receive(wait=not (self._questions or self._changes or self._operations.busy)):
            batch = self._next()
            if batch:
                if batch[0].op in wire.LONG_WORK:
                    self.say(wire.LONG)
                self._do(batch)
            self._operations.advance(lambda: self.say(wire.LONG))

    def _receive(self, *, wait: bool) -> bool:
        handles: list[Any] = [self._connection, *self._operations.handles]
        ready, _, _ = select.select(handles, [], [], None if wait else 0)
        while self._connection in ready:
            data = self._connection.recv(_READ_BYTES)
            if not data:
                return False
            for frame in self._frames.feed(data):
                call = self._calls.decode(frame)
                (self._questions if call.op in wire.QUESTIONS else self._changes).append(call)
            ready, _, _ = select.select([self._connection], [], [], 0)
        return True

    def _next(self) -> list[wire.Call]:
        """Take what is to be done next: calls that can be done together. Changes are never kept waiting for long."""
        if self._questions and (not self._changes or self._in_a_row < _TOGETHER):
            queue = self._questions
        else:
            queue = self._changes
        if not queue:
            return []
        first = queue.popleft()
        batch = [first]
        while queue and len(batch) < _TOGETHER and (queue[0].op, queue[0].shard) == (first.op, first.shard):
            batch.append(queue.popleft())
        self._in_a_row = self._in_a_row + len(batch) if queue is self._questions else 0
        return batch

    def _do(self, batch: list[wire.Call]) -> None:
        try:
            answers = self._operations.do(batch[0].op, batch[0].shard, [call.body for call in batch])
        except Exception as error:
            if len(batch) > 1:  # one of them is to blame
                for call in batch:
                    self._do([call])
                return
            code, message = told(error)
            self._send(wire.Result(batch[0].id, wire.raw(None), code, message))
            return
        except BaseException:  # the engine panicked: what it has in memory cannot be trusted
            os._exit(70)
        for call, answer in zip(batch, answers, strict=True):
            self._send(wire.Result(call.id, wire.raw(answer)))

    def say(self, state: str) -> None:
        """Tell the parent how things stand here."""
        self._send(wire.Result(0, wire.raw(state)))

    def _send(self, result: wire.Result) -> None:
        self._connection.sendall(wire.frame(result))


def told(error: Exception) -> tuple[str, str]:
    """Say what an error is to the service: a code of the error table, and a message."""
    if isinstance(error, InferbusError):
        return error.code, error.message
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) or any(mark in text for mark in _INTERNAL):
        return "storage_down", text
    return "invalid_request", text


def main(folder: str, fd: str) -> None:
    tie_to_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent says when
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(fd))
    lock = FolderLock(Path(folder))
    waited = False
    while not lock.take():
        if not waited:
            connection.sendall(wire.frame(wire.Result(0, wire.raw(wire.WAITING))))
            waited = True
        time.sleep(_TAKE_AGAIN_S)
    connection.sendall(wire.frame(wire.Result(0, wire.raw(wire.OPENING))))
    shards = Folder(Path(folder))
    connection.sendall(wire.frame(wire.Result(0, wire.raw(wire.OWNED))))
    operations = Operations(shards)
    try:
        Owner(connection, operations).run()
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        operations.stop()
        shards.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
