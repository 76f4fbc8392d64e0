"""`advise-ray search` in this process: results, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from advise_ray.cli.main import main
from tests.embeddings import write_embeddings

DIRECTIONS = {
    "walk/a.mp4": [[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.2, 0]],
    "walk/b.mp4": [[1, 0.01, 0]],
    "run/c@2-4.mp4": [[0, 1, 0], [0, 1, 0.1]],
    "run/d.mp4": [[0, 0, 1]],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_embeddings(tmp_path / "e.parquet", DIRECTIONS, failed={"bad.mp4": "no video stream"})


def search(file: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["search", str(file), *options])


def found(file: Path, *options: str) -> dict:
    result = search(file, *options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_video_of_the_file_is_compared_with_all_others(file: Path) -> None:
    result = found(file, "--like", "walk/b.mp4")
    assert result["query"] == {"video": "walk/b.mp4", "start_s": 0.0, "end_s": 2.0, "clips": 1}
    assert [(each["rank"], each["video_id"], each["start_s"]) for each in result["matches"][:3]] == [
        (1, "walk/a.mp4", 0.0),
        (2, "walk/a.mp4", 2.0),
        (3, "walk/a.mp4", 4.0),
    ]
    assert result["matches"][0]["similarity"] == pytest.approx(0.99995, abs=1e-4)
    assert (result["clips"], result["videos"], result["total"]) == (7, 4, 6)


def test_seconds_choose_a_clip_and_only_overlapping_ones_are_left_out(file: Path) -> None:
    result = found(file, "--like", "walk/a.mp4@2-4", "--top", "2")
    assert (result["query"]["start_s"], result["query"]["end_s"]) == (2.0, 4.0)
    assert [(each["video_id"], each["start_s"]) for each in result["matches"]] == [
        ("walk/b.mp4", 0.0),
        ("walk/a.mp4", 0.0),
    ]
    assert found(file, "--like", "run/c@2-4.mp4")["query"]["clips"] == 2
    assert found(file, "--like", "run/c@2-4.mp4@0-2")["query"]["clips"] == 1


def test_people_get_a_table(file: Path) -> None:
    lines = search(file, "--like", "walk/b.mp4", "--top", "1").stdout.splitlines()
    assert lines == [
        "1 of 6 clips, most like walk/b.mp4 (0.00–2.00 s, 1 clip) first; cosine",
        "    1   1.0000  walk/a.mp4  0.00–2.00 s",
    ]


def test_odd_clips_and_near_identical_ones(file: Path, tmp_path: Path) -> None:
    odd = found(file, "--odd", "--top", "1")
    assert [each["video_id"] for each in odd["matches"]] == ["run/d.mp4"]
    assert 0 < odd["matches"][0]["distance"] < 1.1
    pairs = found(file, "--duplicates")["matches"]
    assert {(each["video_id"], each["other_video_id"]) for each in pairs} == {
        ("walk/a.mp4", "walk/b.mp4"),
        ("run/c@2-4.mp4", "run/c@2-4.mp4"),
    } - ({("run/c@2-4.mp4", "run/c@2-4.mp4")} if len(pairs) == 1 else set())
    assert pairs[0]["pairs"] >= 1
    apart = write_embeddings(tmp_path / "apart.parquet", {"a": [[1, 0]], "b": [[0, 1]]})
    assert search(apart, "--duplicates").stdout == "0 of 0 pairs of videos with near-identical clips; cosine\n"
    alone = write_embeddings(tmp_path / "alone.parquet", {"a": [[1, 0]]})
    assert search(alone, "--odd").stdout == "0 of 1 clips, farthest from their neighbours first; mean cosine distance\n"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "give one of --like, --odd and --duplicates"),
        (["--odd", "--duplicates"], "give one of --like, --odd and --duplicates"),
        (["--odd", "--top", "0"], "0 is not in the range x>=1"),
        (["--like", "walk/aa.mp4"], "neither a video of {file} nor a file; did you mean walk/a.mp4?"),
        (["--like", "b.mp4"], "did you mean walk/b.mp4?"),
        (["--like", ""], "such as walk/a.mp4"),
        (["--like", "walk/a.mp4@4-2"], "the span ends at 2 s, not after its start at 4 s"),
        (["--like", "walk/a.mp4@x"], "'x' is no span of seconds; write it as in clip.mp4@3-5.5"),
        (["--like", "walk/a.mp4@6-7"], "walk/a.mp4 has no clip at 6–7 s; its clips are from 0 to 6 s"),
        (["--like", "walk/a.mp4@2-60"], "walk/a.mp4 ends before 60 s; its clips are from 0 to 6 s"),
        (["--like", "bad.mp4"], "bad.mp4 has no embeddings: no video stream"),
        (["--like", __file__], "does not say which run made it; add --run"),
        (["--like", __file__, "--run", "gone"], "must embed it; add --run ("),
    ],
)
def test_what_cannot_be_searched_is_one_line(file: Path, options: list[str], problem: str) -> None:
    result = search(file, *options)
    assert result.exit_code == 2
    assert problem.format(file=file) in result.stderr
    assert result.stdout == ""
    assert len([line for line in result.stderr.splitlines() if "rror:" in line]) == 1


def test_files_that_are_no_embeddings(file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("a text")
    pq.write_table(pq.read_table(file).select(["video_id"]), tmp_path / "other.parquet")
    write_embeddings(tmp_path / "empty.parquet", {}, failed={"a.mp4": "empty file"})
    write_embeddings(tmp_path / "short.parquet", {"a.mp4": [[1, 0]], "b.mp4": [[1, 0], [1]]})
    write_embeddings(tmp_path / "nan.parquet", {"a.mp4": [[1, 0], [1, np.nan]]})
    content = bytearray(file.read_bytes())
    content[4:300] = bytes(296)
    (tmp_path / "damaged.parquet").write_bytes(content)
    for name, problem in {
        "gone": "gone.parquet does not exist; `advise-ray embed` writes such a file",
        "text": "text.parquet is not a Parquet file, or a damaged one",
        "other": "other.parquet is not a file of `advise-ray embed`",
        "empty": "empty.parquet has no clips; 1 videos failed, such as a.mp4: empty file",
        "short": "short.parquet is damaged: the embedding of b.mp4, 2–4 s, does not have 2 numbers; write",
        "nan": "nan.parquet is damaged: the embedding of a.mp4, 2–4 s, has numbers that are not finite",
        "damaged": "damaged.parquet is damaged (",
    }.items():
        result = search(tmp_path / f"{name}.parquet", "--odd")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"error: EMBEDDINGS: {tmp_path}/{problem}" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_page_needs_its_library_and_a_place_before_any_work(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advise_ray.deploy.clip_search.read_index", lambda path: pytest.fail("worked"))
    for page, problem in {str(file): "this file is the embeddings file", str(tmp_path): "Is a directory"}.items():
        result = search(file, "--odd", "--html", page)
        assert result.exit_code == 2
        assert problem in result.stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = search(file, "--odd", "--html", str(tmp_path / "page.html"))
    assert result.stderr.splitlines() == [
        "error: --html needs umap-learn, which places the clips on the map; pip install umap-learn"
    ]
