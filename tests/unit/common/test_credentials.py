from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from nats.errors import Error

from inferbus.bus.credentials import BadCredentials, login_options, public_key, refusal_of, shown_url
from inferbus.bus_users.user import new_seed
from inferbus.settings import BusSettings


def test_a_seed_comes_from_the_setting_or_its_file(tmp_path: Path) -> None:
    seed = new_seed()
    (tmp_path / "seed").write_text(f"{seed}\n")
    for settings in (
        BusSettings(user="gateway", nkey_seed=seed),
        BusSettings(user="gateway", nkey_seed_file=str(tmp_path / "seed"), password="unused"),
    ):
        assert login_options(settings) == {"inbox_prefix": b"_INBOX_gateway", "nkeys_seed_str": seed}


def test_without_a_seed_it_is_user_and_password() -> None:
    assert login_options(BusSettings(user="u", password="p")) == {
        "inbox_prefix": b"_INBOX_u", "user": "u", "password": "p",
    }  # fmt: skip
    assert login_options(BusSettings()) == {"inbox_prefix": b"_INBOX"}


@pytest.mark.parametrize(
    "seed", ["SUABC", "UABC", "geheim", "SUAJL4K3CW2EYWO4INDNF64JX643FNA7CZFYOFGIJ5G5YGPGOI7G4G2HT5"]
)
def test_what_is_no_seed_is_named_and_not_shown(seed: str, tmp_path: Path) -> None:
    assert public_key(seed) is None
    (tmp_path / "seed").write_text(seed)
    for settings in (BusSettings(nkey_seed=seed), BusSettings(nkey_seed_file=str(tmp_path / "seed"))):
        with pytest.raises(BadCredentials, match="nkey_seed") as refused:
            login_options(settings)
        assert seed not in str(refused.value)
        assert seed not in repr(refused.value.__cause__)


@pytest.mark.parametrize("settings", [
    BusSettings(nkey_seed_file="/nowhere/seed"), BusSettings(tls_ca="/nowhere/ca"),
    BusSettings(tls_cert="/nowhere/cert", tls_key="/nowhere/key"),
])  # fmt: skip
def test_files_that_are_missing_are_named(settings: BusSettings) -> None:
    with pytest.raises(BadCredentials, match="/nowhere/"):
        login_options(settings)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (Error("nats: 'Authorization Violation'"), True),
        (Error("nats: 'Secure Connection - TLS Required'"), True),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), True),
        (Error("nats: 'Authentication Timeout'"), False),
        (Error("nats: 'User Authentication Expired'"), True),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), True),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), False),
        (ConnectionRefusedError(), False),
        (TimeoutError(), False),
        (Error("nats: empty response from server when expecting INFO message"), False),
        (None, False),
    ],
)
def test_what_trying_again_does_not_help_against(error: Exception | None, refused: bool) -> None:
    assert bool(refusal_of(error)) == refused


def test_addresses_are_shown_without_passwords() -> None:
    assert shown_url("nats://u:geheim@a:4222,nats://b:1") == "nats://a:4222,nats://b:1"
