"""Train `click`: how likely a click is, from 32 features; a small network as ONNX. Run in .venv-triton:

    .venv-triton/bin/python services/triton-worker/models/train_click.py

Version 1 is linear, version 2 has two hidden layers. Prints the log loss on rows neither has seen.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from training import Adam, batches

REPOSITORY = Path(__file__).parent / "repository" / "click"
FEATURES, ROWS, HELD_OUT = 32, 20_000, 5_000
HIDDEN = {1: (), 2: (48, 24)}
"""Version -> widths of the hidden layers."""
PASSES, BATCH, RATE = 12, 64, 2e-3


def examples(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make rows: features [rows, 32], clicks 0 or 1 [rows, 1]."""
    draw = np.random.default_rng(seed)
    x = (draw.normal(size=(rows, FEATURES)) * np.linspace(0.5, 4, FEATURES) + 1).astype(np.float32)
    z = (x - 1) / np.linspace(0.5, 4, FEATURES)
    wish = 1.5 * z[:, 0] - z[:, 1] + 1.5 * z[:, 2] * z[:, 3] + np.abs(z[:, 4]) - 1.5
    return x, (draw.random(rows) < 1 / (1 + np.exp(-wish))).astype(np.float32)[:, None]


def forward(layers: list[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """Give the input of every layer, and the probability last."""
    values = [x]
    for number in range(0, len(layers), 2):
        z = values[-1] @ layers[number] + layers[number + 1]
        values.append(np.maximum(z, 0) if number + 2 < len(layers) else 1 / (1 + np.exp(-z)))
    return values


def backward(layers: list[np.ndarray], values: list[np.ndarray], y: np.ndarray) -> list[np.ndarray]:
    """Give the gradients of the log loss, in the order of `layers`."""
    slope = (values[-1] - y) / len(y)
    gradients: list[np.ndarray] = []
    for number in range(len(layers) - 2, -1, -2):
        x = values[number // 2]
        gradients = [x.T @ slope, slope.sum(axis=0), *gradients]
        slope = (slope @ layers[number].T) * (x > 0)
    return gradients


def train(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    draw = np.random.default_rng(5)
    sizes = [FEATURES, *widths, 1]
    layers: list[np.ndarray] = []
    for before, after in itertools.pairwise(sizes):
        layers += [
            draw.normal(size=(before, after)).astype(np.float32) * np.sqrt(2 / before),
            np.zeros(after, np.float32),
        ]
    adam = Adam(layers, RATE)
    for _ in range(PASSES):
        for chosen in batches(len(x), BATCH, draw):
            adam.update(backward(layers, forward(layers, x[chosen]), y[chosen]))
    return layers


def graph(layers: list[np.ndarray], mean: np.ndarray, spread: np.ndarray) -> onnx.ModelProto:
    """Write the network, standardisation included, so that whoever serves it gives raw features."""
    constants = {"mean": mean, "spread": spread} | {f"w{n}": layer for n, layer in enumerate(layers)}
    nodes = [
        helper.make_node("Sub", ["FEATURES", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["h0"]),
    ]
    for number in range(0, len(layers), 2):
        last = number + 2 >= len(layers)
        nodes.append(helper.make_node("Gemm", [f"h{number}", f"w{number}", f"w{number + 1}"], [f"z{number}"]))
        nodes.append(
            helper.make_node("Sigmoid" if last else "Relu", [f"z{number}"], ["CLICK" if last else f"h{number + 2}"])
        )
    made = helper.make_graph(
        nodes,
        "click",
        [helper.make_tensor_value_info("FEATURES", TensorProto.FLOAT, ["rows", FEATURES])],
        [helper.make_tensor_value_info("CLICK", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main() -> None:
    x, y = examples(ROWS, seed=1)
    unseen, clicks = examples(HELD_OUT, seed=2)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    for version, widths in HIDDEN.items():
        layers = train(widths, (x - mean) / spread, y)
        likely = forward(layers, (unseen - mean) / spread)[-1]
        loss = -np.mean(clicks * np.log(likely + 1e-9) + (1 - clicks) * np.log(1 - likely + 1e-9))
        onnx.save(graph(layers, mean, spread), REPOSITORY / str(version) / "click.onnx")
        print(f"click version {version}: log loss {loss:.4f}")


if __name__ == "__main__":
    main()
