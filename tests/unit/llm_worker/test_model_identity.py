from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from inferbus_llm_worker.domain.model_identity import arguments_digest, model_digest


def model(place: Path, **changes: bytes) -> Path:
    place.mkdir(parents=True)
    files = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": b"weights"} | changes
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


def test_equal_files_elsewhere_are_the_same_model(tmp_path: Path) -> None:
    here, there = model(tmp_path / "here"), model(tmp_path / "a/b/there")
    (there / "README.md").write_text("notes of this machine")
    assert model_digest(here) == model_digest(there)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_any_other_file_is_another_model(tmp_path: Path, name: str) -> None:
    changed = model(tmp_path / "b", **{name: b"other"})
    assert model_digest(model(tmp_path / "a")) != model_digest(changed)


def test_large_weights_are_told_apart_by_samples(tmp_path: Path) -> None:
    size = 40 << 20
    digests = set()
    for number, at in enumerate((None, 0, size - 1)):
        place = model(tmp_path / str(number))
        with (place / "model.safetensors").open("wb") as file:
            os.truncate(file.fileno(), size)
            if at is not None:
                file.seek(at)
                file.write(b"x")
        digests.add(model_digest(place))
    assert len(digests) == 3


def test_arguments_that_only_say_how_it_runs_do_not_count(tmp_path: Path) -> None:
    here, there = tmp_path / "here.jinja", tmp_path / "there.jinja"
    here.write_text("template")
    there.write_text("template")
    base: dict[str, Any] = {"dtype": "bfloat16", "chat_template": str(here), "model": "/models/x", "max_num_seqs": 32}
    same = base | {"chat_template": str(there), "model": "/elsewhere/x", "max_num_seqs": 64, "port": 9}
    assert arguments_digest(base) == arguments_digest(same)
    assert arguments_digest(base) != arguments_digest(base | {"dtype": "float32"})
    assert arguments_digest(base) != arguments_digest(base | {"tool_call_parser": "hermes"})
    here.write_text("another template")
    assert arguments_digest(base) != arguments_digest(same)


@dataclasses.dataclass
class Adapter:
    name: str
    path: str


def test_what_a_path_leads_to_counts_and_not_the_path(tmp_path: Path) -> None:
    here, there, other = model(tmp_path / "a"), model(tmp_path / "b"), model(tmp_path / "c", **{"config.json": b"[]"})
    digests = [arguments_digest({"lora_modules": [Adapter("x", str(place))]}) for place in (here, there, other)]
    assert digests[0] == digests[1] != digests[2]
    assert arguments_digest({"served_model_name": ["org/x"]}) != arguments_digest({"served_model_name": ["org/y"]})


def test_objects_count_without_their_address() -> None:
    assert arguments_digest({"hook": object()}) == arguments_digest({"hook": object()})
