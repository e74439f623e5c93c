"""The template of the server's configuration: `deploy/nats/nats.conf`, which says what every role may do.

That file is complete as it is, with a password per role. From here it gets the same roles with NKeys, as many users of
each as there are: a role's permissions are written once, there. Read as text, entry by entry; whatever does not look as
expected is an error, never a user with other rights than written.
"""

from __future__ import annotations

import re

import msgspec

_BEGIN, _END = "\n        users: [\n", "\n        ]\n"
_ENTRY = re.compile(
    r"^ {12}\{ user: (?P<role>\w+), password: \$INFERBUS_NATS_\w+"
    r"(?: \}|, permissions: \{\n(?P<body>(?:(?: {13}[^\n]*)?\n)+) {12}\} \})$",
    re.MULTILINE,
)
TENANT = "dev"
"""The tenant whose entry in the template is that of a tenant's producers."""


class BadTemplate(Exception):
    """The configuration does not have the shape that users can be put into; the message says where."""


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """What stands before and after the users, and per role the inside of its `permissions` (empty: may do everything)."""

    before: str
    roles: dict[str, str]
    after: str


def read_template(text: str) -> Template:
    """Take the server's configuration apart.

    Raises:
        BadTemplate: it has no list of users, or an entry in it that is not understood.
    """
    before, begin, rest = text.partition(_BEGIN)
    users, end, after = rest.partition(_END)
    if not begin or not end:
        raise BadTemplate("the template has no `users: [ ... ]` of its own lines")
    roles = {found["role"]: (found["body"] or "").rstrip("\n") for found in _ENTRY.finditer(f"{users}\n")}
    left = [line for line in _ENTRY.sub("", users).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if left:
        raise BadTemplate(f"not understood among the users of the template: {left[0].strip()!r}")
    if TENANT not in roles:
        raise BadTemplate(f"the template has no user {TENANT}, from whom producers are made")
    return Template(before=before + begin, roles=roles, after=end + after)
