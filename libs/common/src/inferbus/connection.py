"""Connection: nats-py's client, changed where what somebody else sends could end it.

Both changes were found by running them: a subject that is not UTF-8 ended nats-py's read loop (any tenant could make a
gateway deaf for ten seconds with one `cancel` message), and any `-ERR` but two closed the client for ever.
"""

from __future__ import annotations

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

_PERMISSIONS = "permissions violation"


class Connection(Client):
    """A client that reads any subject and reconnects after any error the server names."""

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Make the message; bytes of a subject that are not UTF-8 become U+FFFD, which no subject of ours contains."""
        return Msg(
            _client=self,
            _sid=sid,
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
        )

    async def _process_err(self, err_msg: str) -> None:
        """Report a refused subject; after anything else the server hangs up, so connect again."""
        if _PERMISSIONS in err_msg:
            await super()._process_err(err_msg)
            return
        error = Error(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)
