from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from advise_ray.video.decode import decode
from advise_ray.video.probe import probe
from advise_ray.video.synth import synthesize

PINNED = [
    [[82, 90, 87, 109], [80, 86, 81, 89], [87, 86, 94, 101]],
    [[107, 90, 87, 83], [97, 86, 81, 86], [91, 86, 94, 87]],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    synthesize(root, 16, seed=0)
    return root


def test_writes_real_videos_of_balanced_classes(folder):
    videos = sorted(folder.rglob("*.mp4"))
    assert Counter(Counter(video.parent.name for video in videos).values()) == {2: 8}
    for video in videos[:2]:
        info = probe(video)
        assert (info.num_frames, info.fps, info.width, info.height) == (120, 30, 320, 240)
        assert (info.codec, info.decoder) == ("h264", "decord")


def test_the_seed_fixes_what_is_seen(folder):
    """Pinned, as mean greys of a 3×4 grid in two frames: a run can be compared with one of last year."""
    video = folder / "clockwise" / "00004.mp4"
    frames = decode(video, np.asarray([0, 40]), height_px=240, width_px=320, decoder="pyav")
    greys = frames.reshape(2, 3, 80, 4, 80, 3).mean((2, 4, 5))
    np.testing.assert_allclose(greys, PINNED, atol=1.5)


def test_a_video_depends_on_the_seed_and_its_number_alone(folder, tmp_path):
    synthesize(tmp_path / "few", 3, seed=0)
    synthesize(tmp_path / "other", 3, seed=1)
    first = Path("right") / "00000.mp4"
    assert (tmp_path / "few" / first).read_bytes() == (folder / first).read_bytes()
    assert (tmp_path / "other" / first).read_bytes() != (folder / first).read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_ucf101_layout(synthesized):
    lists = synthesized / "ucfTrainTestlist"
    classes = (lists / "classInd.txt").read_bytes().decode().split("\r\n")
    assert classes[0] == "1 right"
    assert len(classes) == 8 + 1
    train = dict(line.split() for line in (lists / "trainlist01.txt").read_text().splitlines())
    test = (lists / "testlist01.txt").read_text().splitlines()
    assert "right/v_right_g01_c01.mp4" in train
    assert Counter(train.values()) == {str(label): 2 for label in range(1, 9)}
    assert len(test) == 8
    written = {path.relative_to(synthesized / "videos").as_posix() for path in synthesized.rglob("*.mp4")}
    assert written == {*train, *test}


def test_list_layout(empty_videos, tmp_path):
    synthesize(tmp_path, 24, seed=0, layout="list")
    rows = {
        split: [line.rsplit(" ", 1) for line in (tmp_path / f"{split}.txt").read_text().splitlines()]
        for split in ("train", "test")
    }
    assert {split: len(lines) for split, lines in rows.items()} == {"train": 16, "test": 8}
    for lines in rows.values():
        assert Counter(label for _, label in lines) == {str(label): len(lines) // 8 for label in range(8)}
        assert all((tmp_path / "videos" / path).is_file() for path, _ in lines)
