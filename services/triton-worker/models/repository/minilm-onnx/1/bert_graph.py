"""all-MiniLM-L6-v2 as an ONNX graph, written node by node from its weights: no torch, and no 90 MB file to keep.

BERT encoder (Devlin et al. 2018), then the mean over the tokens and a length of one, as sentence-transformers does it.
Attention, skip-and-normalise and GELU are ONNX Runtime's own fused operators (domain com.microsoft).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

_FUSED = "com.microsoft"


class _Writer:
    """Collects nodes and weights; every method gives the name of what its node makes."""

    def __init__(self, weights: dict[str, np.ndarray], epsilon: float) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._weights, self._epsilon = weights, epsilon

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def transposed(self, name: str) -> str:
        return self.constant(name, self._weights[name].T)

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def dense(self, x: str, name: str, output: str) -> str:
        """Multiply with a layer's matrix; its bias is added by what comes next."""
        return self.node("MatMul", [x, self.transposed(f"{name}.weight")], output)

    def skip(self, x: str, before: str, norm: str, bias: str, output: str) -> str:
        """Add bias and what was before, and normalise."""
        scale = [self.weight(f"{norm}.weight"), self.weight(f"{norm}.bias"), self.weight(bias)]
        return self.node("SkipLayerNormalization", [x, before, *scale], output, domain=_FUSED, epsilon=self._epsilon)

    def embed(self) -> str:
        """Add the embeddings of words, places and the one kind of segment there is, and normalise."""
        prefix = "embeddings"
        words = self.node("Gather", [self.weight(f"{prefix}.word_embeddings.weight"), "input_ids"], "words")
        kind = self._weights[f"{prefix}.token_type_embeddings.weight"][0]
        places = self.constant("places", self._weights[f"{prefix}.position_embeddings.weight"] + kind)
        shape = self.node("Shape", ["input_ids"], "shape", start=1, end=2)
        zero = self.constant("zero", np.array([0], np.int64))
        here = self.node("Slice", [places, zero, shape, zero], "here")
        both = self.node("Add", [words, here], "embedded")
        norm = [self.weight(f"{prefix}.LayerNorm.weight"), self.weight(f"{prefix}.LayerNorm.bias")]
        return self.node("LayerNormalization", [both, *norm], "layer_0", axis=-1, epsilon=self._epsilon)

    def layer(self, x: str, number: int, heads: int) -> str:
        prefix = f"encoder.layer.{number}"
        attention = f"{prefix}.attention"
        three = [f"{attention}.self.{one}" for one in ("query", "key", "value")]
        matrix = self.constant(
            f"qkv_{number}", np.concatenate([self._weights[f"{one}.weight"].T for one in three], axis=1)
        )
        bias = self.constant(f"qkv_bias_{number}", np.concatenate([self._weights[f"{one}.bias"] for one in three]))
        seen = self.node("Attention", [x, matrix, bias, "mask"], f"seen_{number}", domain=_FUSED, num_heads=heads)
        y = self.dense(seen, f"{attention}.output.dense", f"attended_{number}")
        y = self.skip(y, x, f"{attention}.output.LayerNorm", f"{attention}.output.dense.bias", f"middle_{number}")
        wide = self.dense(y, f"{prefix}.intermediate.dense", f"wide_{number}")
        wide = self.node(
            "BiasGelu", [wide, self.weight(f"{prefix}.intermediate.dense.bias")], f"gelu_{number}", domain=_FUSED
        )
        narrow = self.dense(wide, f"{prefix}.output.dense", f"narrow_{number}")
        return self.skip(narrow, y, f"{prefix}.output.LayerNorm", f"{prefix}.output.dense.bias", f"layer_{number + 1}")

    def pool(self, x: str) -> None:
        """Mean over the tokens that are there, then a length of one."""
        tokens, width = (
            self.constant("axis_tokens", np.array([1], np.int64)),
            self.constant("axis_width", np.array([2], np.int64)),
        )
        there = self.node("Cast", ["attention_mask"], "there", to=TensorProto.FLOAT)
        there3 = self.node("Unsqueeze", [there, width], "there3")
        total = self.node("ReduceSum", [self.node("Mul", [x, there3], "kept"), tokens], "total", keepdims=0)
        count = self.node("ReduceSum", [there, tokens], "count", keepdims=1)
        mean = self.node("Div", [total, count], "mean")
        self.node("LpNormalization", [mean], "embedding", axis=-1, p=2)


def sentence_encoder(folder: Path) -> ModelProto:
    """Read config and weights from a model folder; inputs input_ids and attention_mask INT64 [rows, tokens], output
    embedding FP32 [rows, width]. About a second."""
    config = json.loads((folder / "config.json").read_text())
    writer = _Writer(load_file(str(folder / "model.safetensors")), config["layer_norm_eps"])
    writer.node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
    x = writer.embed()
    for number in range(config["num_hidden_layers"]):
        x = writer.layer(x, number, config["num_attention_heads"])
    writer.pool(x)
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", config["hidden_size"]])
    constants = [numpy_helper.from_array(value, name) for name, value in writer.constants.items()]
    graph = helper.make_graph(writer.nodes, "sentence-encoder", ids, [out], constants)
    operators = [helper.make_opsetid("", 17), helper.make_opsetid(_FUSED, 1)]
    return helper.make_model(graph, opset_imports=operators, ir_version=8)
