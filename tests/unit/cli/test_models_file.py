from __future__ import annotations

from pathlib import Path

import pytest

from inferbus.cli.models import read_models
from inferbus.errors import InvalidRequest


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_one_model_in_json(tmp_path: Path) -> None:
    (entry,) = read_models(write(tmp_path, "m.json", '{"name": "a", "pool": "a", "limits": {"max_pending": 9}}'))
    assert (entry.name, entry.limits.max_pending) == ("a", 9)


def test_several_models_in_toml(tmp_path: Path) -> None:
    text = '[[models]]\nname = "a"\npool = "a"\n[[models]]\nname = "b"\npool = "p"\naliases = ["c"]\n'
    assert [entry.name for entry in read_models(write(tmp_path, "m.toml", text))] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.json", "{", "m.json"),
        ("m.toml", "= 1", "m.toml"),
        ("m.json", '{"pool": "a"}', "name"),
        ("m.json", '{"name": "a", "pool": "a", "pol": "b"}', "pol"),
        ("m.json", '{"models": [{"name": "a", "pool": 1}]}', "pool"),
        ("m.json", '{"name": "a", "pool": "not safe"}', "pool"),
    ],
)
def test_mistakes_name_the_field(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read_models(write(tmp_path, name, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nothing"):
        read_models(tmp_path / "nothing.json")
