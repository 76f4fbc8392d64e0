"""Each metric is compared with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.neighbors import KNeighborsClassifier

from advise_ray.evaluation import metrics

NUM_CLASSES = 7


def drawn(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, NUM_CLASSES)), rng.integers(NUM_CLASSES, size=rows)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, NUM_CLASSES - 1))
def test_top_k(seed, rows, k):
    scores, targets = drawn(seed, rows)
    expected = sk.top_k_accuracy_score(targets, scores, k=k, labels=np.arange(NUM_CLASSES))
    assert metrics.top_k(scores, targets, k) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_confusion_and_mean_class_accuracy(seed, rows):
    scores, targets = drawn(seed, rows)
    predictions = scores.argmax(axis=1)
    confusion = metrics.confusion_matrix(targets, predictions, NUM_CLASSES)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(targets, predictions, labels=np.arange(NUM_CLASSES)))
    recall = sk.recall_score(targets, predictions, average="macro", labels=np.unique(targets))
    assert metrics.mean_class_accuracy(confusion) == pytest.approx(recall)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_knn(k, temperature):
    rng = np.random.default_rng(k)
    bank, queries = rng.normal(size=(60, 9)).astype(np.float32), rng.normal(size=(40, 9)).astype(np.float32)
    labels = rng.permutation(np.arange(60) % NUM_CLASSES)
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    expected = theirs.fit(bank, labels).predict_proba(queries)
    np.testing.assert_allclose(
        metrics.knn_scores(bank, labels, queries, NUM_CLASSES, k, temperature), expected, atol=1e-5
    )


def test_knn_with_a_temperature_that_would_overflow():
    bank = np.eye(3, dtype=np.float32)
    scores = metrics.knn_scores(bank, np.arange(3), bank, 3, 3, 1e-4)
    np.testing.assert_allclose(scores, np.eye(3))


def test_retrieval():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(50, 9)), rng.normal(size=(30, 9))
    bank_labels, query_labels = rng.integers(NUM_CLASSES, size=50), rng.integers(NUM_CLASSES, size=30)
    nearest, _ = metrics.neighbours(bank, queries, 20)
    order = np.argsort(sk.pairwise.cosine_distances(queries, bank), axis=1)
    np.testing.assert_array_equal(nearest, order[:, :20])
    for k, recall in metrics.retrieval(nearest, bank_labels, query_labels, (1, 5, 20)).items():
        found = [query_labels[row] in bank_labels[order[row, :k]] for row in range(30)]
        assert recall == pytest.approx(np.mean(found))


def test_more_queries_than_are_held_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(9, 4)), rng.normal(size=(25, 4))
    whole = metrics.neighbours(bank, queries, 3)
    monkeypatch.setattr(metrics, "QUERIES_AT_ONCE", 10)
    for ours, expected in zip(metrics.neighbours(bank, queries, 3), whole, strict=True):
        np.testing.assert_allclose(ours, expected)
