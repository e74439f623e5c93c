from __future__ import annotations

import msgspec
import pytest

from inferbus.admission.admin_keys import AdminKeys
from inferbus.local.layout import Layout
from inferbus.local.secrets import ROLES, Secrets, load_secrets, provide_admin_key, write_private


def test_made_once_and_kept(layout: Layout) -> None:
    first = load_secrets(layout)
    assert load_secrets(layout) == first
    assert layout.secrets.stat().st_mode & 0o777 == 0o600
    assert len({*first.passwords.values(), first.key_pepper}) == len(ROLES) + 1


def test_passwords_cannot_be_read_as_numbers_by_the_server(layout: Layout) -> None:
    for password in load_secrets(layout).passwords.values():
        assert password[0].isalpha()
        assert password.isalnum()


def test_a_role_of_a_later_version_is_added_and_the_rest_kept(layout: Layout) -> None:
    write_private(layout.secrets, msgspec.json.encode(Secrets(passwords={"operator": "pabc"}, key_pepper="old")))
    secrets = load_secrets(layout)
    assert secrets.passwords["operator"] == "pabc"
    assert secrets.key_pepper == "old"
    assert set(secrets.passwords) == set(ROLES)


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
