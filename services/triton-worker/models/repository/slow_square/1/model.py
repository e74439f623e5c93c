"""Takes 20 ms to square numbers, and says how often it really did: what a response cache and a warm-up save can be seen."""

from __future__ import annotations

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.executed = 0

    def execute(self, requests):
        answers = []
        for request in requests:
            time.sleep(0.02)
            self.executed += 1
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            executed = np.full((len(x), 1), self.executed, np.int64)
            tensors = [pb_utils.Tensor("SQUARE", x * x), pb_utils.Tensor("EXECUTED", executed)]
            answers.append(pb_utils.InferenceResponse(tensors))
        return answers
