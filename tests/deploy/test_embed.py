"""Embeddings of footage that changes. Videos are decoded and encoded in this process, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import advise_ray
from advise_ray.config import load
from advise_ray.dataset.probing import PROBED, _probe_block
from advise_ray.deploy.clip_search import Search
from advise_ray.deploy.embed import embed
from advise_ray.errors import InterruptedRunError, UsageError
from advise_ray.evaluation.evaluate_run import evaluate
from advise_ray.training.local import train_here
from advise_ray.video.frames import DecodeFrames
from advise_ray.video.manifest import read_manifest, write_manifest
from advise_ray.video.probe import LIMITS, probe
from advise_ray.video.synth import synthesize

pytestmark = pytest.mark.usefixtures("one_thread")
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("films")
    synthesize(root, 8, seed=0, layout="folder")
    return sorted(root.rglob("*.mp4"))


def manifest_of(videos: list[Path], path: Path) -> Path:
    rows = []
    for video in videos:
        status = video.stat()
        file = {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        rows.append({"video_id": video.name, "path": str(video), **file, **vars(probe(video))})
    write_manifest(rows, path)
    return path


@pytest.fixture(scope="module")
def run_dir(films: list[Path], tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    manifest = manifest_of(films, folder / "manifest.parquet")
    own = (f"data.manifest={manifest}", f"storage.path={folder}", "tracking.run_name=run")
    return Path(train_here(load(None, [*tiny, *own]))["run_dir"])


@pytest.fixture(scope="module")
def decoder(run_dir: Path) -> DecodeFrames:
    return DecodeFrames(load(run_dir / "config.yaml"))


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch, decoder: DecodeFrames) -> None:
    def encode(
        groups: Callable[[], Iterator[pa.Table]], function: Callable, _config, model, *_: Any, **__: Any
    ) -> Iterator[Any]:
        for group in groups():
            yield function(model.eval(), torch.device("cpu"), decoder(group))

    def read(files: list[dict], timeout_s: float, limits=LIMITS) -> list[dict]:
        return _probe_block(pa.Table.from_pylist(files, schema=PROBED), timeout_s, limits).to_pylist()

    monkeypatch.setattr("advise_ray.deploy.embed.encode_groups", encode)
    monkeypatch.setattr("advise_ray.dataset.indexing.probe_all", read)
    monkeypatch.setattr("advise_ray.deploy.embed_groups.GROUP_FRAMES", 256)


@pytest.fixture
def footage(films: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "footage"
    folder.mkdir()
    for number, film in enumerate(films[:3]):
        shutil.copy(film, folder / f"{number}.mp4")
    (folder / "text.mp4").write_text("not a film")
    return folder


def rows_of(out: Path) -> Rows:
    rows: Rows = {}
    for row in pq.read_table(out).to_pylist():
        rows.setdefault(row["video_id"], []).append(row)
    return rows


def assert_same(ours: Rows, theirs: Rows) -> None:
    """Embeddings differ by rounding if other clips were in the batch."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        for mine, other in zip(ours[name], theirs[name], strict=True):
            for column in ("clip_start_s", "clip_end_s", "error", "version"):
                assert mine[column] == other[column]
            assert mine["embedding"] == (other["embedding"] and pytest.approx(other["embedding"], abs=1e-4))


def test_new_and_changed_videos_are_added_and_the_rest_is_kept(
    run_dir: Path, films: list[Path], footage: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.parquet"
    first = embed(run_dir, str(footage), out)
    assert (first["videos"], first["added_videos"], first["failed_videos"]) == (4, 4, 1)
    before = rows_of(out)
    shutil.copy(films[3], footage / "00_new.mp4")
    shutil.copy(films[4], footage / "1.mp4")
    (footage / "2.mp4").unlink()
    second = embed(run_dir, str(footage), out)
    assert {name: second[name] for name in second if name.endswith("_videos")} == {
        "failed_videos": 1,
        "added_videos": 1,
        "changed_videos": 1,
        "kept_videos": 2,
        "missing_videos": 1,
    }
    assert caplog.messages[-2].endswith("not in --videos any more, such as 2.mp4; their rows are kept")
    assert "with the reason, such as text.mp4: not a video file" in caplog.messages[-1]
    after, fresh = rows_of(out), tmp_path / "fresh.parquet"
    embed(run_dir, str(footage), fresh)
    assert_same({name: after[name] for name in after if name != "2.mp4"}, rows_of(fresh))
    assert after["2.mp4"] == before["2.mp4"]
    assert after["1.mp4"] != before["1.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["footage", "fresh.parquet", "out.parquet"]


def test_a_video_file_is_embedded_to_find_clips_like_it(
    run_dir: Path, films: list[Path], footage: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    embed(run_dir, str(footage), out)
    copy = Path(shutil.copy(footage / "1.mp4", tmp_path / "copy.mp4"))  # with another time, so not known as the same
    found = Search(out).like(str(copy), 3).result
    best = found["matches"][0]
    assert (best["video_id"], best["similarity"]) == ("1.mp4", pytest.approx(1, abs=1e-3))
    assert found["query"]["clips"] == len(rows_of(out)["1.mp4"])
    own = Search(out).like(str(footage / "1.mp4"), 500)
    assert {match["video_id"] for match in own.result["matches"]} == {"0.mp4", "2.mp4"}
    short = Search(out).like(f"{copy}@1-1.05", 1).result["query"]
    assert short["end_s"] - short["start_s"] == pytest.approx(4 / 30, abs=0.01)  # a clip has four frames
    shutil.copytree(run_dir, tmp_path / "other_run")
    state = next((tmp_path / "other_run").rglob("state.json"))
    state.write_text(state.read_text().replace('"classes": ["', '"classes": ["another '))
    for clip, run, problem in (
        (f"{copy}@3-9", None, "ends at 4 s, before the end of 3–9 s"),
        (str(footage / "text.mp4"), None, "not a video file"),
        (str(copy), str(tmp_path / "other_run"), "is another model than the one that made"),
    ):
        with pytest.raises(UsageError, match=problem):
            Search(out).like(clip, 1, run)


def test_with_nothing_new_no_model_is_built(
    run_dir: Path, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    first = embed(run_dir, str(footage), out)
    content = out.read_bytes()
    monkeypatch.setattr("advise_ray.deploy.embed.load", None)
    second = embed(run_dir, str(footage), out)
    assert (second["kept_videos"], second["added_videos"], second["clips"]) == (4, 0, first["clips"])
    assert out.read_bytes() == content


def test_a_file_of_something_else_is_refused_and_stays(
    run_dir: Path, films: list[Path], footage: Path, tmp_path: Path
) -> None:
    out, others = tmp_path / "out.parquet", tmp_path / "others"
    embed(run_dir, str(footage), out)
    shutil.copytree(run_dir, tmp_path / "other_run")
    state = next((tmp_path / "other_run").rglob("state.json"))
    state.write_text(state.read_text().replace('"classes": ["', '"classes": ["another '))
    others.mkdir()
    shutil.copy(films[7], others / "0.mp4")
    (tmp_path / "text.parquet").write_text("a text")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    for problem, arguments in {
        "was made with another step_s; choose another file name": (run_dir, footage, out, {"step_s": 0.5}),
        "was made with another top_k": (run_dir, footage, out, {"top_k": 2}),
        "was made with another model": (tmp_path / "other_run", footage, out, {}),
        "has none of the videos of": (run_dir, others, out, {}),
        "is not a file that this `advise-ray embed` adds to": (run_dir, footage, tmp_path / "text.parquet", {}),
        "cannot write .*: Is a directory": (run_dir, footage, others, {}),
    }.items():
        source, videos, path, settings = arguments
        with pytest.raises(UsageError, match=f"^--out: .*{problem}"):
            embed(source, str(videos), path, **settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
    assert not list(tmp_path.glob("*.parts"))


def test_an_interrupted_update_leaves_the_file_and_goes_on(
    run_dir: Path, films: list[Path], footage: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    embed(run_dir, str(footage), out)
    content = out.read_bytes()
    for number in (4, 5):
        shutil.copy(films[number], footage / f"{number}.mp4")

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        embed(run_dir, str(footage), out, on_progress=stop)
    assert out.read_bytes() == content
    out.rename(tmp_path / "aside")
    with pytest.raises(UsageError, match="parts was made with another step_s"):
        embed(run_dir, str(footage), out, step_s=0.5)
    (tmp_path / "aside").rename(out)
    shutil.copy(films[6], footage / "6.mp4")  # added before the job goes on
    progress: list[int] = []
    result = embed(run_dir, str(footage), out, on_progress=lambda done, total: progress.append(done))
    assert progress[0] == 1
    assert (result["added_videos"], result["kept_videos"]) == (3, 4)
    embed(run_dir, str(footage), tmp_path / "fresh.parquet")
    assert_same(rows_of(out), rows_of(tmp_path / "fresh.parquet"))


def test_a_video_that_failed_is_tried_again(run_dir: Path, films: list[Path], tmp_path: Path) -> None:
    manifest, out = manifest_of(films[:2], tmp_path / "manifest.parquet"), tmp_path / "out.parquet"
    rows = read_manifest(manifest).to_pylist()
    rows[1]["path"] = str(tmp_path / "not_mounted.mp4")
    write_manifest(rows, manifest)
    assert embed(run_dir, str(manifest), out)["failed_videos"] == 1
    shutil.copy(films[1], tmp_path / "not_mounted.mp4")
    result = embed(run_dir, str(manifest), out)
    assert (result["failed_videos"], result["changed_videos"], result["kept_videos"]) == (0, 1, 1)
    assert all(row["embedding"] for row in rows_of(out)[films[1].name])


@pytest.mark.parametrize("missing", ["none.parquet", "none", "none.mp4"])
def test_missing_footage_is_named_before_anything_is_written(run_dir: Path, tmp_path: Path, missing: str) -> None:
    with pytest.raises(UsageError, match=f"^--videos: {tmp_path}/{missing} does not exist$"):
        embed(run_dir, str(tmp_path / missing), tmp_path / "new" / "out.parquet")
    assert not list(tmp_path.iterdir())


def test_a_run_of_an_unknown_user_is_named() -> None:
    with pytest.raises(UsageError, match="~nobody_here/run is neither a checkpoint nor a run that has one"):
        advise_ray.load("~nobody_here/run")
    with pytest.raises(UsageError, match=r"^~nobody_here/run is not a run"):
        evaluate("~nobody_here/run", "knn")


def test_one_video_is_embedded_by_its_name(run_dir: Path, films: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "größe mit Leerzeichen"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    shutil.copy(films[0], folder / "clip ä.mp4")
    assert embed(run_dir, str(tmp_path / "link" / "clip ä.mp4"), folder / "aus ü.parquet")["videos"] == 1
    assert list(rows_of(folder / "aus ü.parquet")) == ["clip ä.mp4"]
