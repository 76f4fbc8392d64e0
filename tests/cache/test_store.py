"""Clips from a cache have the features that were written (frames, views, pieces), and damage is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advise_ray.cache import store
from advise_ray.cache.identity import PIECE_FRAMES, Identity
from advise_ray.cache.part_file import Part, Piece, write_part
from advise_ray.cache.piece_index import Index, read_index, rows_of, write_index
from advise_ray.cache.sizes import cache_bytes, smaller
from advise_ray.cache.store import FeatureStore
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.video.manifest import SCHEMA, Video, Videos

FRAME_SHAPE = (1, 2, 3)


def video(video_id: str = "a", num_frames: int = 1300, **facts: object) -> Video:
    defaults = {"start_frame": None, "end_frame": None, "bytes": 77} | facts
    return Video(video_id, f"/{video_id}.mp4", 4, num_frames, 320, 240, 25.0, "decord", 0, 0, **defaults)  # type: ignore[arg-type]


def columns(videos: list[Video]) -> Videos:
    return Videos(pa.Table.from_pylist([vars(each) for each in videos], schema=SCHEMA))


def make(folder: Path, videos: list[Video], *, frame_step: int = 2, views: int = 3) -> FeatureStore:
    """Each number of a frame's features under a view is the frame's index + 0.25 × the view."""
    identity = Identity({}, 3, (1, 2), frame_step, views)
    folder.mkdir(exist_ok=True)
    store.write_identity(str(folder), identity)
    index = Index()
    for each in videos:
        frames = np.asarray(identity.frames(each))
        pieces = [
            Piece(each, piece, np.tile(piece[None, :, None, None, None], (views, 1, *FRAME_SHAPE)).astype(np.float16))
            for piece in np.split(frames, range(PIECE_FRAMES, len(frames), PIECE_FRAMES))
        ]
        for piece in pieces:
            piece.features[...] += 0.25 * np.arange(views)[:, None, None, None, None]
        index.add(rows_of(Part(str(folder), write_part(str(folder), pieces))))
    write_index(str(folder), index.table())
    return FeatureStore(str(folder))


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make(tmp_path_factory.mktemp("cache"), [video("a"), video("b", 40, start_frame=5, end_frame=31)])


@given(data=st.data())
@settings(deadline=None)
def test_every_clip_shows_its_frames_under_its_view(cached: FeatureStore, data: st.DataObject) -> None:
    """Also where it begins in one piece of a long video and ends in another."""
    whole = data.draw(st.sampled_from([video("a"), video("b", 40, start_frame=5, end_frame=31)]))
    frames = st.integers(whole.frames.start, whole.frames.stop - 1)
    wanted = np.asarray(data.draw(st.lists(st.lists(frames, min_size=4, max_size=4), min_size=1, max_size=3)))
    views = data.draw(st.lists(st.integers(0, 2), min_size=len(wanted), max_size=len(wanted)))
    snapped = cached.snap(whole, wanted)
    assert ((wanted - snapped >= 0) & (wanted - snapped < 2)).all()
    assert ((snapped - whole.frames.start) % 2 == 0).all()
    out = np.empty((*wanted.shape, *FRAME_SHAPE), dtype=np.float16)
    cached.read_into(out, whole, wanted, views)
    expected = snapped + 0.25 * np.asarray(views)[:, None]
    assert (out == expected[..., None, None, None].astype(np.float16)).all()


def test_a_video_that_has_changed_is_not_the_one_that_was_cached(cached: FeatureStore) -> None:
    videos = [video("a"), video("a", bytes=78), video("a", start_frame=2), video("c")]
    assert cached.has(columns(videos)).tolist() == [True, False, False, False]


def test_damage_is_named_and_never_read(tmp_path: Path) -> None:
    make(tmp_path, [video("a", 20), video("b", 20)])
    first, second = sorted(tmp_path.glob("part-*"))
    flipped = bytearray(first.read_bytes())
    flipped[flipped.find(np.arange(0, 20, 2, dtype=np.float16).repeat(6).tobytes())] ^= 1
    first.write_bytes(flipped)
    second.write_bytes(second.read_bytes()[:-1])
    reasons = []
    for name in "ab":
        with pytest.raises(VideoDecodeError) as caught:
            FeatureStore(str(tmp_path)).read_into(
                np.empty((1, 2, *FRAME_SHAPE), dtype=np.float16), video(name, 20), np.zeros((1, 2), dtype=np.int64), [0]
            )
        reasons.append(caught.value.reason)
    assert any(first.name in reason and "check sum" in reason for reason in reasons)
    assert any(second.name in reason for reason in reasons)


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a feature cache"):
        FeatureStore(str(tmp_path))
    store.write_identity(str(tmp_path), Identity({}, 3, (1, 2), 1, 1))
    with pytest.raises(UsageError, match="was not finished"):
        FeatureStore(str(tmp_path)).has(columns([video("a")]))
    store.write_identity(str(tmp_path), Identity({}, 3, (1, 2), 1, 1, format=99))
    with pytest.raises(UsageError, match="format 99"):
        FeatureStore(str(tmp_path))
    (tmp_path / "cache.json").write_text("[1]")
    with pytest.raises(UsageError, match=r"cache\.json is damaged"):
        FeatureStore(str(tmp_path))


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    broken = Piece(video("a", 2), np.arange(2), np.zeros((1, 2, *FRAME_SHAPE), dtype=np.float16))
    object.__setattr__(broken, "frame_indices", None)
    with pytest.raises(AttributeError):
        write_part(str(tmp_path), [broken])
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_made_smaller_by_what_fits() -> None:
    identity, videos = Identity({}, 768, (7, 7), 1, 4), np.full(100, 300)
    whole = cache_bytes(identity, videos)
    assert whole == pytest.approx(100 * 300 * 4 * 7 * 7 * 768 * 2, rel=0.01)
    fitting = smaller(identity, videos, whole // 3, 4)
    assert list(fitting) == [
        "model.sfu.spatial_size=4",
        "model.sfu.channels=192",
        "cache.frame_step=4",
        "cache.views=1",
        "model.sfu.spatial_size=5 with cache.frame_step=2",
    ]
    assert all(size <= whole // 3 for size in fitting.values())
    assert not any("frame_step" in setting for setting in smaller(identity, videos, whole // 3, 1))
    assert smaller(identity, videos, 1000, 4) == {}


def test_what_was_cached_before_a_change_or_a_kill_is_never_shown(tmp_path: Path) -> None:
    """Its parts stay: of a video before it changed, and the first piece of one that was done again as a whole."""
    now, before = video("a"), video("a", bytes=5)
    make(tmp_path, [before, now], frame_step=1, views=1)
    index = read_index(str(tmp_path)).to_pylist()
    twice = [row for row in index if row["bytes"] == now.bytes and row["first_frame"] == 0]
    unfinished = [row for row in index if row["bytes"] == before.bytes][1:]  # its first piece failed
    again = [*unfinished, *twice, *(row for row in index if row["bytes"] == now.bytes)]
    write_index(str(tmp_path), Index(again).table())
    cached = FeatureStore(str(tmp_path))
    assert cached.has(columns([now, before])).tolist() == [True, False]
    located = cached.pieces.located(columns([now, before]))  # as the videos of a run
    for now_too, before_too in ((now, before), located):
        out = np.empty((1, 2, *FRAME_SHAPE), dtype=np.float16)
        cached.read_into(out, now_too, np.array([[3, 1200]]), [0])
        assert out[0, :, 0, 0, 0].tolist() == [3, 1200]
        with pytest.raises(VideoDecodeError, match="not in the feature cache"):
            cached.read_into(out, before_too, np.array([[3, 1200]]), [0])
