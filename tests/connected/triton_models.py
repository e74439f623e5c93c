"""Small models for tests of the Triton worker: a repository of Python models, made from a few lines each."""

from __future__ import annotations

from pathlib import Path

DOUBLE_CONFIG = """backend: "python"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { }
"""

DOUBLE = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2)]))
        return answers
"""

HANGS = """import time


class TritonPythonModel:
    def initialize(self, args):
        time.sleep(600)
"""

BROKEN = "import a_module_that_nobody_has\n"


def add_model(repository: Path, name: str, source: str = DOUBLE, config: str = DOUBLE_CONFIG, version: int = 1) -> Path:
    """Write one version of a model; returns its folder."""
    folder = repository / name
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    (folder / str(version) / "model.py").write_text(source)
    return folder
