from __future__ import annotations

import msgspec
import pytest

from inferbus.admission.admin_keys import AdminKeys
from inferbus.local.layout import Layout
from inferbus.local.secrets import Secrets, load_secrets, provide_admin_key
from inferbus.private_files import write_private


def test_made_once_and_kept(layout: Layout) -> None:
    first = load_secrets(layout)
    assert load_secrets(layout) == first
    assert layout.secrets.stat().st_mode & 0o777 == 0o600
    assert len(first.key_pepper) == 64


def test_the_pepper_of_a_platform_that_had_passwords_is_kept_and_they_are_not(layout: Layout) -> None:
    write_private(layout.secrets, b'{"passwords": {"operator": "pabc"}, "key_pepper": "old"}')
    assert load_secrets(layout).key_pepper == "old"
    assert load_secrets(layout) == Secrets(key_pepper="old")
    assert b"pabc" not in layout.secrets.read_bytes()


def test_a_damaged_file_is_not_replaced(layout: Layout) -> None:
    write_private(layout.secrets, b"{")
    with pytest.raises(msgspec.DecodeError):
        load_secrets(layout)
    assert layout.secrets.read_bytes() == b"{"


def test_the_admin_key_is_made_once_and_given_once(layout: Layout) -> None:
    key = provide_admin_key(layout)
    assert key is not None
    assert layout.admin_key.read_text() == f"{key}\n"
    assert layout.admin_key.stat().st_mode & 0o777 == 0o600
    layout.admin_key.unlink()  # moved to where it is safe
    assert provide_admin_key(layout) is None
    secrets = load_secrets(layout)
    keys = AdminKeys([f"local:{secrets.admin_mac}"], secrets.key_pepper.encode())
    assert keys.authenticate(f"Bearer {key}").name == "local"
    assert key.rsplit("-", 1)[1].encode() not in layout.secrets.read_bytes()
