"""Gives the probability of a click with ONNX Runtime, for all requests of one execution at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        graph = str(Path(__file__).with_name("click.onnx"))
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        parts = [pb_utils.get_input_tensor_by_name(request, "FEATURES").as_numpy() for request in requests]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        likely = self.session.run(["CLICK"], {"FEATURES": rows})[0]
        answers, start = [], 0
        for part in parts:
            tensor = pb_utils.Tensor("CLICK", likely[start : start + len(part)])
            answers.append(pb_utils.InferenceResponse([tensor]))
            start += len(part)
        return answers
