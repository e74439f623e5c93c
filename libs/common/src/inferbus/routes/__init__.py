"""Every subject, stream, bucket and durable name of the platform, built and parsed, and nothing else.

No subject is written anywhere else (a contract test looks) but in `route_table`, which says who sends what to whom.
The grammar is DESIGN.md section 2's. Others `from inferbus import routes`; what a module here gives is in its `__all__`.
"""

from __future__ import annotations

# ruff: noqa: F403 - each module says what it gives
from inferbus.routes.accounts import *
from inferbus.routes.answering import *
from inferbus.routes.batch import *
from inferbus.routes.features import *
from inferbus.routes.names import *
from inferbus.routes.storage import *
from inferbus.routes.vectors import *
from inferbus.routes.work import *
