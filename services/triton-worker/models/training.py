"""Gradient descent with numpy: what the training of `click` and of `topics` have in common."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class Adam:
    """Adam over a list of arrays, which are changed in place."""

    def __init__(self, weights: list[np.ndarray], rate: float) -> None:
        self._weights, self._rate, self._step = weights, rate, 0
        self._mean = [np.zeros_like(one) for one in weights]
        self._square = [np.zeros_like(one) for one in weights]

    def update(self, gradients: list[np.ndarray]) -> None:
        self._step += 1
        for n, gradient in enumerate(gradients):
            self._mean[n] += 0.1 * (gradient - self._mean[n])
            self._square[n] += 0.001 * (gradient**2 - self._square[n])
            corrected = self._mean[n] / (1 - 0.9**self._step)
            self._weights[n] -= self._rate * corrected / (np.sqrt(self._square[n] / (1 - 0.999**self._step)) + 1e-8)


def batches(rows: int, size: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Give the indices of one pass over the data, shuffled."""
    order = draw.permutation(rows)
    for start in range(0, rows, size):
        yield order[start : start + size]
