from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "check.py"
GOOD = "msgspec==0.22.0 \\\n    --hash=sha256:aa\n    # via -r requirements/x.in\n"


@pytest.fixture
def check() -> Callable[[Path], int]:
    spec = importlib.util.spec_from_file_location("requirements_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[Path], int] = module.main
    return main


def test_the_committed_pins_are_good(check: Callable[[Path], int]) -> None:
    assert check(SCRIPT.parent) == 0


@pytest.mark.parametrize(
    ("asked", "pins", "complaint"),
    [
        ("msgspec", GOOD, ""),
        ("msgspec==0.21", GOOD, "is not msgspec==0.21"),
        ("msgspec\nuvloop", GOOD, "uvloop of x.in is not pinned"),
        ("", GOOD, "no longer in x.in"),
        ("msgspec", "msgspec==0.22.0\n    # via -r requirements/x.in\n", "has no hash"),
        ("msgspec", GOOD + "--index-url https://example.org/simple\n", "names an address"),
        ("msgspec", GOOD + "x @ file:///x.whl\n", "names an address"),
        ("msgspec", None, "missing"),
    ],
)
def test_faults(
    check: Callable[[Path], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    pins: str | None,
    complaint: str,
) -> None:
    (tmp_path / "x.in").write_text(asked)
    if pins is not None:
        (tmp_path / "x.txt").write_text(pins)
    assert check(tmp_path) == (1 if complaint else 0)
    assert complaint in capsys.readouterr().out
