"""Neighbours, odd and near-identical clips against a plain comparison of all with all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advise_ray.deploy import neighbours
from advise_ray.deploy.clip_index import Clips, read_index
from advise_ray.deploy.neighbours import duplicates, most_alike, nearest, odd
from tests.embeddings import write_embeddings

NUM_VIDEOS, CLIPS_EACH = 150, 3


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    """Clips of 12 kinds; the last video is like no other one, and videos 3 and 77 are copies but for a rounding."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(12, 16))
    vectors = kinds[np.arange(NUM_VIDEOS) % 12][:, None] + 0.3 * rng.normal(size=(NUM_VIDEOS, CLIPS_EACH, 16))
    vectors[77] = vectors[3] * 2 + 1e-4
    vectors[-1] = -vectors.mean((0, 1)) * 5 + rng.normal(size=(CLIPS_EACH, 16))
    return read_index(write_embeddings(tmp_path / "e.parquet", {f"{i}.mp4": v for i, v in enumerate(vectors)})).read()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", 64)
    monkeypatch.setattr(neighbours, "BLOCK", 100)


def plain(clips: Clips) -> np.ndarray:
    """Cosines of all with all; -inf for a clip with itself. No other clips of these videos overlap."""
    cosines = clips.vectors @ clips.vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines


@pytest.mark.usefixtures("small_blocks")
def test_neighbours_in_blocks_are_those_of_a_plain_comparison(clips: Clips) -> None:
    everything = np.arange(len(clips))
    places, cosines = nearest(clips, everything, everything, 8)
    truth = plain(clips)
    assert np.allclose(cosines, -np.sort(-truth, axis=1)[:, :8], atol=1e-5)
    assert np.allclose(np.take_along_axis(truth, places, 1), cosines, atol=1e-5)


def test_few_clips_have_few_neighbours(clips: Clips) -> None:
    places, cosines = nearest(clips, np.arange(3), np.arange(3), 8)
    assert (places >= 0).sum(1).tolist() == [2, 2, 2]
    assert np.isneginf(cosines[:, 2:]).all()


def test_the_most_alike_are_read_from_the_file_in_order(clips: Clips) -> None:
    left_out = np.arange(len(clips)) == 9
    rows, cosines = most_alike(clips.index, clips.vectors[9:10], left_out, 5)
    assert rows[0] == 77 * CLIPS_EACH
    assert cosines.tolist() == pytest.approx(np.sort(plain(clips)[9])[::-1][:5].tolist(), abs=1e-5)


@pytest.mark.usefixtures("small_blocks")
def test_odd_clips_are_the_same_by_a_sample_and_by_all(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = odd(clips, 3)
    assert {int(place) // CLIPS_EACH for place in exact.places} == {NUM_VIDEOS - 1}
    monkeypatch.setattr(neighbours, "MOST_PAIRS", len(clips) * 60)
    monkeypatch.setattr(neighbours, "FEWEST_CANDIDATES", 100)
    sampled = odd(clips, 3)
    assert exact.is_exact
    assert sampled.is_exact
    assert sampled.places.tolist() == exact.places.tolist()
    monkeypatch.setattr(neighbours, "FEWEST_CANDIDATES", 1)
    monkeypatch.setattr(neighbours, "MOST_PAIRS", len(clips) * 10)
    assert not odd(clips, 1).is_exact


@pytest.mark.usefixtures("small_blocks")
def test_near_identical_clips_are_found_by_all_and_near_landmarks(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [[9 + clip, 77 * CLIPS_EACH + clip] for clip in range(CLIPS_EACH)]
    exact = duplicates(clips, 0.9999)
    assert sorted(exact.places.tolist()) == copies
    assert exact.is_exact
    for name, value in (("MOST_PAIRS", 1000), ("WINDOW", 40), ("CELL_CLIPS", 40)):
        monkeypatch.setattr(neighbours, name, value)
    near = duplicates(clips, 0.9999)
    assert sorted(near.places.tolist()) == copies
    assert not near.is_exact
