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


SLOW = """import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.02)
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2)]))
        return answers
"""

DEADLY = """import os

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            if (x < 0).any():
                os._exit(1)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2)]))
        return answers
"""

RAISES = """class TritonPythonModel:
    def execute(self, requests):
        raise ValueError("a bug of the model's")
"""

COUNT_CONFIG = """backend: "python"
max_batch_size: 0
input [ { name: "N" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "TOK" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
model_transaction_policy { decoupled: true }
"""

COUNT = """import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            n = int(pb_utils.get_input_tensor_by_name(request, "N").as_numpy()[0])
            threading.Thread(target=self.count, args=(request.get_response_sender(), n), daemon=True).start()

    def count(self, sender, n):
        for i in range(n):
            if sender.is_cancelled():
                break
            word = np.array([f"tok{i}".encode()], dtype=object)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("TOK", word)]))
            time.sleep(0.01)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

VECTORS_CONFIG = """backend: "python"
max_batch_size: 4
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "VECTOR" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { }
"""

VECTORS = """import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()[:, 0]
            vectors = np.array([[len(text), text.count(b" "), 1] for text in texts], np.float32)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("VECTOR", vectors)]))
        return answers
"""

WAITS = """import os
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        with open({runs!r}, "a") as file:
            file.write("x")
        while not os.path.exists({go!r}):
            time.sleep(0.01)
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2)]))
        return answers
"""
"""Begins a run with a mark in the file `runs`, and ends it when there is a file `go`."""
