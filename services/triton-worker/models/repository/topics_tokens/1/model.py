"""The first step of `topics`: text to token numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))
from tokens import token_ids  # beside this file


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()[:, 0]
            ids = np.array([token_ids(text.decode(errors="replace")) for text in texts], np.int32)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("TOKENS", ids)]))
        return answers
