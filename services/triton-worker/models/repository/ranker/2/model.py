"""Scores candidates with LightGBM. All requests of one execution are one matrix: a call costs more than its rows."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.booster = lightgbm.Booster(model_file=str(Path(__file__).with_name("ranker.txt")))

    def execute(self, requests):
        parts = [pb_utils.get_input_tensor_by_name(request, "FEATURES").as_numpy() for request in requests]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        scores = self.booster.predict(rows, num_threads=1).astype(np.float32).reshape(-1, 1)
        answers, start = [], 0
        for part in parts:
            tensor = pb_utils.Tensor("SCORE", scores[start : start + len(part)])
            answers.append(pb_utils.InferenceResponse([tensor]))
            start += len(part)
        return answers
