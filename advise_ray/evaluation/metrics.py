"""What predictions are worth: accuracies, the confusion matrix, nearest neighbours, retrieval. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

QUERIES_AT_ONCE = 1024
"""Rows of a similarity matrix that are held at a time."""


def softmax(logits: Floats) -> NDArray[np.float64]:
    """float[…, C] → probabilities of the same shape."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def top_k(scores: Floats, targets: Ints, k: int) -> float:
    """Share of rows of float[n, C] whose target is among the k highest scores."""
    return float((best_k(scores, k) == targets[:, None]).any(axis=1).mean())


def best_k(scores: Floats, k: int) -> Ints:
    """int64[n, min(k, C)]: the columns with the highest scores, the highest first, of equals the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)


def confusion_matrix(targets: Ints, predictions: Ints, num_classes: int) -> Ints:
    """int64[C, C]: how often a target (row) was taken for a class (column)."""
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (targets, predictions), 1)
    return confusion


def class_accuracies(confusion: Ints, totals: Ints | None = None) -> Floats:
    """float64[C]: the share of each class that was recognised, nan where there is nothing of it.

    Args:
        totals: int64[C], where there is more of the classes than the matrix knows: videos that could not be decoded.
    """
    totals = confusion.sum(axis=1) if totals is None else totals
    with np.errstate(invalid="ignore"):
        return np.where(totals > 0, confusion.diagonal() / totals, np.nan)


def mean_class_accuracy(confusion: Ints, totals: Ints | None = None) -> float:
    """Every class counts the same, however many videos it has; classes without a video do not count."""
    return float(np.nanmean(class_accuracies(confusion, totals)))


def knn_scores(
    bank: Floats, bank_labels: Ints, queries: Floats, num_classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    """Weighted votes of the k nearest by cosine similarity, each exp(similarity / temperature).

    As in arXiv 1805.01978, section 3.4, and every self-supervised method since.

    Args:
        bank, queries: float[n, E], float[m, E].

    Returns:
        float64[m, num_classes], each row summing to 1.
    """
    scores = np.zeros((len(queries), num_classes))
    nearest, similarities = neighbours(bank, queries, k)
    # The nearest has weight 1: whatever the temperature, nothing overflows.
    votes = np.exp((similarities - similarities[:, :1]) / temperature)
    np.add.at(scores, (np.arange(len(queries))[:, None], bank_labels[nearest]), votes)
    shares: NDArray[np.float64] = scores / scores.sum(axis=1, keepdims=True)
    return shares


def neighbours(bank: Floats, queries: Floats, k: int) -> tuple[Ints, Floats]:
    """The k nearest of the bank for each query, by cosine similarity: int64[m, k], float64[m, k], the nearest first."""
    bank = _unit(bank)
    nearest, similarities = [], []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        similarity = _unit(queries[start : start + QUERIES_AT_ONCE]) @ bank.T
        best = best_k(similarity, k)
        nearest.append(best)
        similarities.append(np.take_along_axis(similarity, best, axis=1))
    return np.concatenate(nearest), np.concatenate(similarities)


def retrieval(nearest: Ints, bank_labels: Ints, query_labels: Ints, ks: Sequence[int]) -> dict[int, float]:
    """R@k: the share of queries with one of their class among the k nearest (PRP, arXiv 2006.11476, section 4.4)."""
    hits = bank_labels[nearest] == query_labels[:, None]
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in ks}


def _unit(rows: Floats) -> Floats:
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
