"""Metrics of predictions: accuracies, confusion matrix, nearest neighbours, retrieval. Uses NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

QUERIES_AT_ONCE = 1024
"""Number of similarity matrix rows in memory at a time."""


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Convert logits float[…, C] to probabilities of the same shape."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def top_k(scores: Floats, targets: Ints, k: int) -> float:
    """Top-k accuracy: the fraction of rows of float[n, C] whose target is among the k highest scores."""
    return float((best_k(scores, k) == targets[:, None]).any(axis=1).mean())


def best_k(scores: Floats, k: int) -> Ints:
    """int64[n, min(k, C)]: columns with the highest scores, highest first. The lower column wins a tie."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)


def confusion_matrix(targets: Ints, predictions: Ints, num_classes: int) -> Ints:
    """int64[C, C]: how often a target class (row) was predicted as a class (column)."""
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (targets, predictions), 1)
    return confusion


def class_accuracies(confusion: Ints, totals: Ints | None = None) -> Floats:
    """Accuracy of each class, float64[C]; nan for a class without videos.

    Args:
        totals: number of videos of each class, int64[C]. Needed if the matrix lacks videos that cannot be decoded.
    """
    totals = confusion.sum(axis=1) if totals is None else totals
    with np.errstate(invalid="ignore"):
        return np.where(totals > 0, confusion.diagonal() / totals, np.nan)


def mean_class_accuracy(confusion: Ints, totals: Ints | None = None) -> float:
    """Mean of the class accuracies. Every class has the same weight; classes without videos are ignored."""
    return float(np.nanmean(class_accuracies(confusion, totals)))


def knn_scores(
    bank: Floats, bank_labels: Ints, queries: Floats, num_classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    """Class scores from weighted votes of the k nearest neighbours by cosine similarity.

    Each vote has the weight exp(similarity / temperature), as in arXiv 1805.01978, section 3.4.

    Args:
        bank, queries: float[n, E], float[m, E].

    Returns:
        float64[m, num_classes]; each row sums to 1.
    """
    scores = np.zeros((len(queries), num_classes))
    nearest, similarities = neighbours(bank, queries, k)
    # Subtracting the largest similarity gives the nearest neighbour weight 1, so exp cannot overflow.
    votes = np.exp((similarities - similarities[:, :1]) / temperature)
    np.add.at(scores, (np.arange(len(queries))[:, None], bank_labels[nearest]), votes)
    shares: NDArray[np.float64] = scores / scores.sum(axis=1, keepdims=True)
    return shares


def neighbours(bank: Floats, queries: Floats, k: int) -> tuple[Ints, Floats]:
    """The k nearest rows of the bank for each query by cosine similarity, nearest first: int64[m, k], float64[m, k]."""
    bank = _unit(bank)
    nearest, similarities = [], []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        similarity = _unit(queries[start : start + QUERIES_AT_ONCE]) @ bank.T
        best = best_k(similarity, k)
        nearest.append(best)
        similarities.append(np.take_along_axis(similarity, best, axis=1))
    return np.concatenate(nearest), np.concatenate(similarities)


def retrieval(nearest: Ints, bank_labels: Ints, query_labels: Ints, ks: Sequence[int]) -> dict[int, float]:
    """R@k: fraction of queries with their class among the k nearest (PRP, arXiv 2006.11476, section 4.4)."""
    hits = bank_labels[nearest] == query_labels[:, None]
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in ks}


def _unit(rows: Floats) -> Floats:
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
