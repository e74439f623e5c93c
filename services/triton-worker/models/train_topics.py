"""Train `topics`: what a sentence of documentation is about. Run in .venv-triton:

    .venv-triton/bin/python services/triton-worker/models/train_topics.py

The data is on every machine: docstrings of Python's standard library, read, not imported. A sentence is words and pairs of
words, hashed (`repository/topics_tokens`); the model is their mean embedding and one layer (`repository/topics_scores`);
an ensemble puts one behind the other, inside the server. Prints the accuracy on docstrings it has not seen.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from training import Adam, batches

REPOSITORY = Path(__file__).parent / "repository"
TOPICS = {
    "concurrency": ["asyncio", "threading.py", "multiprocessing", "concurrent", "queue.py", "sched.py", "subprocess.py"],
    "files": ["pathlib.py", "shutil.py", "zipfile.py", "tarfile.py", "tempfile.py", "os.py", "glob.py", "gzip.py", "fileinput.py"],
    "interface": ["tkinter", "turtle.py", "idlelib", "curses", "cmd.py"],
    "language": ["ast.py", "inspect.py", "dis.py", "importlib", "pickle.py", "typing.py", "dataclasses.py", "enum.py", "abc.py"],
    "network": ["http", "urllib", "socket.py", "ssl.py", "smtplib.py", "ftplib.py", "imaplib.py", "xmlrpc", "socketserver.py", "ipaddress.py"],
    "numbers": ["statistics.py", "fractions.py", "_pydecimal.py", "random.py", "numbers.py", "_pydatetime.py", "datetime.py", "calendar.py"],
    "testing": ["unittest", "doctest.py", "pdb.py", "bdb.py", "trace.py", "timeit.py", "cProfile.py"],
    "text": ["re", "string.py", "textwrap.py", "difflib.py", "json", "csv.py", "html", "xml", "email", "codecs.py", "configparser.py"],
}  # fmt: skip
WIDTH, PASSES, BATCH, RATE = 16, 30, 32, 3e-3
HELD_OUT_EVERY = 8


def docstrings(entry: str) -> Iterator[str]:
    """Give the first paragraphs of the docstrings of a module or package, tests left out."""
    root = Path(sysconfig.get_path("stdlib")) / entry
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root] if root.exists() else []
    for file in files:
        if "test" in file.relative_to(root.parent).parts[1:-1] or file.name.startswith("test"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if len(text.split()) >= 4:
                    yield text


def tokens_module():
    """Load the very tokenizer that serves."""
    spec = importlib.util.spec_from_file_location("tokens", REPOSITORY / "topics_tokens/1/tokens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forward(weights: list[np.ndarray], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the share of each token in its sentence, the mean embedding, and the probabilities."""
    table, matrix, bias = weights
    share = (ids > 0) / np.maximum((ids > 0).sum(axis=1, keepdims=True), 1)
    mean = (table[ids] * share[..., None]).sum(axis=1)
    z = mean @ matrix + bias
    likely = np.exp(z - z.max(axis=1, keepdims=True))
    return share, mean, likely / likely.sum(axis=1, keepdims=True)


def train(ids: np.ndarray, labels: np.ndarray, buckets: int, weight_of: np.ndarray) -> list[np.ndarray]:
    draw = np.random.default_rng(3)
    weights = [
        draw.normal(size=(buckets, WIDTH)) * 0.1,
        draw.normal(size=(WIDTH, len(TOPICS))) * 0.1,
        np.zeros(len(TOPICS)),
    ]
    adam = Adam(weights, RATE)
    for _ in range(PASSES):
        for chosen in batches(len(ids), BATCH, draw):
            share, mean, likely = forward(weights, ids[chosen])
            slope = likely.copy()
            slope[np.arange(len(chosen)), labels[chosen]] -= 1
            slope *= weight_of[labels[chosen]][:, None] / len(chosen)
            table = np.zeros_like(weights[0])
            np.add.at(table, ids[chosen], share[..., None] * (slope @ weights[1].T)[:, None, :])
            adam.update([table, mean.T @ slope, slope.sum(axis=0)])
    return weights


def graph(weights: list[np.ndarray], tokens: int) -> onnx.ModelProto:
    constants = {
        "table": weights[0].astype(np.float32),
        "matrix": weights[1].astype(np.float32),
        "bias": weights[2].astype(np.float32),
        "zero": np.array(0, np.int32),
        "one": np.array(1, np.float32),
        "axis_tokens": np.array([1], np.int64),
        "axis_width": np.array([2], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "TOKENS"], ["embedded"]),
        node("Greater", ["TOKENS", "zero"], ["there"]),
        node("Cast", ["there"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "axis_width"], ["mask3"]),
        node("Mul", ["embedded", "mask3"], ["kept"]),
        node("ReduceSum", ["kept", "axis_tokens"], ["sum"], keepdims=0),
        node("ReduceSum", ["mask", "axis_tokens"], ["many"], keepdims=1),
        node("Max", ["many", "one"], ["count"]),
        node("Div", ["sum", "count"], ["mean"]),
        node("Gemm", ["mean", "matrix", "bias"], ["z"]),
        node("Softmax", ["z"], ["PROBABILITIES"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "topics",
        [helper.make_tensor_value_info("TOKENS", TensorProto.INT32, ["rows", tokens])],
        [helper.make_tensor_value_info("PROBABILITIES", TensorProto.FLOAT, ["rows", len(TOPICS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main() -> None:
    tokens = tokens_module()
    texts = [(text, topic) for topic, entries in enumerate(TOPICS.values()) for e in entries for text in docstrings(e)]
    texts = sorted(set(texts))
    ids = np.array([tokens.token_ids(text) for text, _ in texts], np.int32)
    labels = np.array([topic for _, topic in texts])
    unseen = np.arange(len(texts)) % HELD_OUT_EVERY == 0
    weight_of = len(labels) / len(TOPICS) / np.maximum(np.bincount(labels, minlength=len(TOPICS)), 1)
    weights = train(ids[~unseen], labels[~unseen], tokens.BUCKETS, weight_of)
    right = forward(weights, ids[unseen])[2].argmax(axis=1) == labels[unseen]
    folder = REPOSITORY / "topics_scores"
    onnx.save(graph(weights, tokens.LENGTH), folder / "1" / "topics.onnx")
    (folder / "labels.txt").write_text("".join(f"{topic}\n" for topic in TOPICS))
    print(f"topics: {len(texts)} docstrings, accuracy {right.mean():.3f} on {unseen.sum()} unseen ones")


if __name__ == "__main__":
    main()
