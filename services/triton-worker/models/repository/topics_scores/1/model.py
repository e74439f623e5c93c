"""The second step of `topics`: token numbers to probabilities, and the name of the likeliest topic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        here = Path(__file__).parent
        self.session = onnxruntime.InferenceSession(
            str(here / "topics.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.names = np.array([line.encode() for line in (here.parent / "labels.txt").read_text().split()], np.object_)

    def execute(self, requests):
        parts = [pb_utils.get_input_tensor_by_name(request, "TOKENS").as_numpy() for request in requests]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        likely = self.session.run(["PROBABILITIES"], {"TOKENS": rows})[0]
        answers, start = [], 0
        for part in parts:
            mine = likely[start : start + len(part)]
            topic = self.names[mine.argmax(axis=1)].reshape(-1, 1)
            tensors = [pb_utils.Tensor("PROBABILITIES", mine), pb_utils.Tensor("TOPIC", topic)]
            answers.append(pb_utils.InferenceResponse(tensors))
            start += len(part)
        return answers
