"""Consumers of a work queue that come and go with what they are for; and one message of one of them, asked for at once.

`queue.intake` is for consumers that stay. Those here may vanish at any time and be made again: the queue has the messages.
"""

from __future__ import annotations

import asyncio

import msgspec
from nats.aio.msg import Msg

from inferbus.bus import Bus
from inferbus.errors import DependencyDown

_PULL_S = 3.0
_ACK_KINDS = "$JS.ACK"
_NO_CONSUMER = {"503", "409"}


class NoConsumer(Exception):
    """There is no consumer of this name, or it is just going."""


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer of a stream; times in seconds. Nobody asking it for `inactive_s`, it goes by itself."""

    stream: str
    name: str
    filter_subject: str
    ack_wait_s: float
    inactive_s: float


class _Created(msgspec.Struct):
    error: dict[str, object] | None = None


async def ensure_consumer(bus: Bus, spec: ConsumerSpec) -> None:
    """Make a consumer; one that is there stays as it is.

    Raises:
        DependencyDown: it cannot be made now.
    """
    config = {
        "durable_name": spec.name, "name": spec.name, "filter_subject": spec.filter_subject, "ack_policy": "explicit",
        "deliver_policy": "all", "replay_policy": "instant", "ack_wait": int(spec.ack_wait_s * 1e9), "max_deliver": -1,
        "max_ack_pending": 1000, "inactive_threshold": int(spec.inactive_s * 1e9),
    }  # fmt: skip
    body = msgspec.json.encode({"stream_name": spec.stream, "config": config})
    subject = f"$JS.API.CONSUMER.CREATE.{spec.stream}.{spec.name}.{spec.filter_subject}"
    answer = msgspec.json.decode((await bus.request(subject, body)).data, type=_Created)
    if answer.error is not None:
        raise DependencyDown(f"no consumer {spec.name}: {answer.error.get('description')}")


async def delete_consumer(bus: Bus, stream: str, name: str) -> None:
    """Remove a consumer; one that is not there stays so."""
    await bus.request(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")


async def purge(bus: Bus, stream: str, subject: str) -> None:
    """Take all messages of a subject out of a stream."""
    await bus.request(f"$JS.API.STREAM.PURGE.{stream}", msgspec.json.encode({"filter": subject}))


async def pull_one(bus: Bus, stream: str, consumer: str) -> Msg | None:
    """Take a message that is there; None where none is.

    Raises:
        NoConsumer: nobody answers under this name. DependencyDown: the bus is away.
    """
    answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    def on_message(message: Msg) -> None:
        if not answer.done():
            answer.set_result(message)

    inbox = bus.nc.new_inbox()  # of its own: what is delivered keeps its subject, so that answers cannot be told apart
    subscription = await bus.listen(inbox, on_message)
    try:
        await bus.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", b'{"batch":1,"no_wait":true}', reply=inbox)
        async with asyncio.timeout(_PULL_S):
            message = await answer
    except TimeoutError:
        raise DependencyDown(f"{stream} does not answer") from None
    finally:
        await bus.unsubscribe(subscription)
    if message.reply.startswith(_ACK_KINDS):
        return message
    if (message.headers or {}).get("Status") in _NO_CONSUMER:
        raise NoConsumer(consumer)
    return None
