"""Train `ranker`: LightGBM, lambdarank, 32 features of a candidate, one score each. Run in .venv-triton:

    .venv-triton/bin/python services/triton-worker/models/train_ranker.py

Made-up shoppers choose among 20 candidates; what they like depends on a few features and on pairs of them. Version 1 is a
quick first model, version 2 what came after: more trees, more sessions. Prints NDCG@10 on sessions neither has seen.
"""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np

REPOSITORY = Path(__file__).parent / "repository" / "ranker"
FEATURES, CANDIDATES = 32, 20
VERSIONS = {1: (400, 30, 7), 2: (2000, 80, 15)}
"""Version -> sessions, trees, leaves of a tree."""
HELD_OUT = 400


def sessions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make sessions: features [rows, 32] and relevance 0..4 [rows]."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count * CANDIDATES, FEATURES)).astype(np.float32)
    liking = 2 * rows[:, 0] + np.sin(3 * rows[:, 1]) + rows[:, 2] * rows[:, 3] + draw.normal(size=len(rows)) * 0.3
    return rows, np.digitize(liking, np.quantile(liking, [0.5, 0.75, 0.9, 0.97]))


def ndcg(scores: np.ndarray, relevance: np.ndarray, top: int = 10) -> float:
    """Give the mean NDCG@`top` of whole sessions."""
    gains = 2.0 ** relevance.reshape(-1, CANDIDATES) - 1
    order = np.argsort(-scores.reshape(-1, CANDIDATES), axis=1)[:, :top]
    discount = 1 / np.log2(np.arange(top) + 2)
    got = (np.take_along_axis(gains, order, axis=1) * discount).sum(axis=1)
    best = (-np.sort(-gains, axis=1)[:, :top] * discount).sum(axis=1)
    return float((got / np.maximum(best, 1e-9)).mean())


def main() -> None:
    unseen, relevance = sessions(HELD_OUT, seed=99)
    for version, (count, trees, leaves) in VERSIONS.items():
        rows, liked = sessions(count, seed=version)
        options = {
            "objective": "lambdarank", "num_leaves": leaves, "seed": 7, "deterministic": True, "num_threads": 1,
            "force_row_wise": True, "verbose": -1,
        }  # fmt: skip
        model = lightgbm.train(options, lightgbm.Dataset(rows, liked, group=[CANDIDATES] * count), trees)
        model.save_model(REPOSITORY / str(version) / "ranker.txt")
        print(f"ranker version {version}: NDCG@10 {ndcg(model.predict(unseen), relevance):.4f}")


if __name__ == "__main__":
    main()
