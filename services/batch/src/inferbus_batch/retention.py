"""Retention: now and then files that have expired are removed, and bodies that no record names. Records of jobs go by
themselves: the server removes them when their time is over."""

from __future__ import annotations

import asyncio
import random

import structlog

from inferbus.bus import Bus
from inferbus.errors import InferbusError
from inferbus.files.book import FileBook
from inferbus.files.ports import Storage
from inferbus.files.purging import purge

log = structlog.get_logger()


async def keep_purging(bus: Bus, storage: Storage, *, every_s: float) -> None:
    """Purge every so many seconds, for ever; several processes that do it do no harm to each other."""
    book = FileBook(bus, storage)
    while True:
        await asyncio.sleep(every_s * random.uniform(0.5, 1.0))  # noqa: S311 - so that processes do not come together
        try:
            purged = await purge(bus, book)
        except InferbusError as error:
            log.info("purging_put_off", error=error.message)
        except Exception:  # the next pass is as good
            log.exception("purging_failed")
        else:
            if purged.expired or purged.orphans:
                log.info("files_purged", expired=purged.expired, orphans=purged.orphans)
