"""Plans of caches: the missing videos, the caches that fit, and errors. Nothing is decoded or encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advise_ray.cache.cache_plan import CachePlan, plan_cache
from advise_ray.cache.part_file import Part, Piece, write_part
from advise_ray.cache.piece_index import Index, check_parts, rows_of, write_index
from advise_ray.cache.store import write_identity
from advise_ray.cache.writer import write_cache
from advise_ray.config import load
from advise_ray.errors import ConfigError, UsageError
from advise_ray.video.manifest import write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four videos that need not exist."""
    facts = {"fps": 25.0, "width": 320, "height": 240, "decoder": "decord", "bytes": 1, "num_frames": 60}
    facts |= {"stream_index": 0, "rotation_deg": 0, "label": None, "split": "train"}
    path = tmp_path / "manifest.parquet"
    write_manifest([{"video_id": str(number), "path": f"/{number}.mp4", **facts} for number in range(4)], path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def planned(tiny: tuple[str, ...], manifest: Path, folder: Path, *overrides: str) -> CachePlan:
    return plan_cache(load(None, [*tiny, f"data.manifest={manifest}", *overrides]), str(folder))


def write_parts(plan: CachePlan, rows: list[int]) -> list[str]:
    """Write a part for each of the videos, as a job does that is killed before it writes the index."""
    Path(plan.location).mkdir(exist_ok=True)
    write_identity(plan.location, plan.identity)
    names = []
    for row in rows:
        frames = np.asarray(plan.identity.frames(plan.videos[row]))
        shape = (plan.identity.views, len(frames), *plan.identity.frame_shape)
        names.append(write_part(plan.location, [Piece(plan.videos[row], frames, np.zeros(shape, np.float16))]))
    return names


def test_a_new_cache_lacks_everything_and_nothing_is_written(
    tiny: tuple[str, ...], manifest: Path, folder: Path
) -> None:
    plan = planned(tiny, manifest, folder)
    assert (plan.begun, plan.missing.tolist(), plan.fits) == (False, [0, 1, 2, 3], True)
    summary = plan.summary()
    assert (summary["videos_to_encode"], summary["frames_to_encode"]) == (4, 240)
    assert summary["bytes"] == pytest.approx(240 * summary["frame_bytes"], rel=0.1)
    assert not folder.exists()


def test_what_a_killed_job_has_finished_is_not_missing(tiny: tuple[str, ...], manifest: Path, folder: Path) -> None:
    first, second = write_parts(planned(tiny, manifest, folder), [0, 2])
    plan = planned(tiny, manifest, folder)
    assert (plan.begun, plan.missing.tolist()) == (True, [1, 3])
    write_index(plan.location, Index(rows_of(Part(plan.location, first))).table())
    assert planned(tiny, manifest, folder).missing.tolist() == [1, 2, 3]  # the index counts
    damaged = bytearray((folder / second).read_bytes())
    (folder / second).write_bytes(damaged[:-10])
    index, names = check_parts(plan.location, plan.identity)
    assert (names, plan.revised(index.table()).missing.tolist()) == ([second], [1, 2, 3])
    assert not (folder / second).exists()


def test_a_cache_that_does_not_fit_is_refused_with_those_that_would(
    tiny: tuple[str, ...], manifest: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed_bytes = planned(tiny, manifest, folder).needed_bytes
    monkeypatch.setattr("advise_ray.cache.cache_plan.free_bytes", lambda _location: needed_bytes // 2)
    plan = planned(tiny, manifest, folder)
    with pytest.raises(UsageError, match=r"what would fit: model\.sfu\.spatial_size=\d"):
        write_cache(plan)
    smaller = next(iter(plan.summary()["would_fit"]))
    assert planned(tiny, manifest, folder, smaller).fits


def test_for_a_cache_that_is_begun_no_other_settings_are_proposed(
    tiny: tuple[str, ...], manifest: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(planned(tiny, manifest, folder), [0])
    monkeypatch.setattr("advise_ray.cache.cache_plan.free_bytes", lambda _location: 1000)
    plan = planned(tiny, manifest, folder)
    assert plan.summary()["would_fit"] == {}
    with pytest.raises(UsageError, match=r"the 3 of 4 videos that it lacks take"):
        write_cache(plan)


def test_another_cache_is_refused_only_if_it_has_features(tiny: tuple[str, ...], manifest: Path, folder: Path) -> None:
    write_parts(planned(tiny, manifest, folder), [])
    assert not planned(tiny, manifest, folder, "cache.views=2").begun
    write_parts(planned(tiny, manifest, folder), [0])
    with pytest.raises(ConfigError, match=r"cache.views: the cache has 1, the recipe 2\n.*holds another cache"):
        planned(tiny, manifest, folder, "cache.views=2")
    with pytest.raises(UsageError, match="is not a feature cache; name a new folder"):
        planned(tiny, manifest, folder.parent)


def test_a_cache_that_its_recipe_cannot_use_is_said_before_it_is_made(
    tiny: tuple[str, ...], manifest: Path, folder: Path
) -> None:
    (note,) = [each for each in planned(tiny, manifest, folder, "cache.frame_step=2").notes() if "frame_step" in each]
    assert "a frame step of 1, but the cache has 2" in note
    assert not any("frame_step" in each for each in planned(tiny, manifest, folder).notes())
