from __future__ import annotations

import numpy as np
import pytest
import torch

from advise_ray.evaluation import probes
from advise_ray.evaluation.probes import fold_of, probe

CPU = torch.device("cpu")


def separable(num_videos: int, seed: int, shape: tuple[int, ...] = (3, 6)) -> tuple[np.ndarray, np.ndarray]:
    """Clips whose second channel tells the class, beside channels a thousand times as strong that do not."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_videos) % 2
    clips = rng.normal(size=(num_videos, *shape)).astype(np.float32)
    clips[:, :, 0] *= 1000
    clips[:, :, 1] += 6 * labels.reshape(-1, *[1] * (len(shape) - 1)) - 3
    return clips, labels


def run(train, labels, queries, **settings):
    groups = np.arange(len(labels))
    return probe(train, labels, groups, queries, 2, **{"attentive": False, "seed": 0, "device": CPU, **settings})


def test_a_linear_probe_finds_what_a_line_can_tell(monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 200)
    (train, labels), (queries, expected) = separable(60, 0), separable(40, 1)
    probed = run(train, labels, queries)
    assert (probed.scores.argmax(axis=1) == expected).mean() > 0.95
    np.testing.assert_allclose(probed.scores.sum(axis=1), 1, rtol=1e-5)
    assert probed.validation_top1[probed.setting] == max(probed.validation_top1.values()) > 0.9
    assert len(probed.validation_top1) == len(probes.LEARNING_RATES) * len(probes.WEIGHT_DECAYS)


def test_the_same_seed_gives_the_same_probe(monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 20)
    train, labels = separable(20, 0)
    first, again = (run(train, labels, train) for _ in range(2))
    np.testing.assert_array_equal(first.scores, again.scores)


def test_an_attentive_probe_finds_a_cell_that_the_mean_hides(monkeypatch):
    """The class is which of two patterns one cell of sixteen shows; the others show noise of both."""
    monkeypatch.setattr(probes, "ATTENTIVE_STEPS", 200)
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    clips = rng.normal(size=(80, 1, 8, 4, 2, 2)).astype(np.float32)
    clips[:, 0, 0, 2, 1, 1] = 8  # marks the cell
    clips[:, 0, 1, 2, 1, 1] = 8 * labels - 4
    probed = run(clips[:60], labels[:60], clips[60:], attentive=True)
    assert (probed.scores.argmax(axis=1) == labels[60:]).mean() > 0.9


def test_labels_that_mean_nothing_are_not_learnt(monkeypatch):
    """Held-out videos decide, not those that the probe has fitted."""
    monkeypatch.setattr(probes, "STEPS", 100)
    rng = np.random.default_rng(0)
    train, labels = rng.normal(size=(40, 2, 50)).astype(np.float32), rng.permutation(np.arange(40) % 2)
    probed = run(train, labels, train)
    assert max(probed.validation_top1.values()) < 0.75


@pytest.mark.parametrize("num_groups", [1, 3, 40])
def test_clips_of_one_recording_are_held_out_together(num_groups):
    groups = np.arange(40) % num_groups
    folds = fold_of(groups, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(num_groups))
    assert folds.max() <= 4
    if num_groups == 40:
        assert np.bincount(folds).tolist() == [8] * 5


def test_a_single_recording_leaves_nothing_to_choose_by(monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 50)
    train, labels = separable(20, 0)
    zeros = np.zeros(20, dtype=np.int64)
    probed = probe(train, labels, zeros, train, 2, attentive=False, seed=0, device=CPU)
    assert np.isnan(list(probed.validation_top1.values())).all()
    assert (probed.scores.argmax(axis=1) == labels).mean() > 0.9
