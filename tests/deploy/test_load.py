"""Uses of a trained model: loading, exporting, and embedding videos."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from packaging.requirements import Requirement

import advise_ray
from advise_ray import tracking
from advise_ray.backend import packages
from advise_ray.config import load
from advise_ray.deploy.embed import embed
from advise_ray.deploy.embed_groups import clips_of
from advise_ray.deploy.export import export
from advise_ray.deploy.load import VideoModel
from advise_ray.errors import ExportError, UsageError, VideoDecodeError
from advise_ray.evaluation.evaluate_run import evaluate
from advise_ray.evaluation.protocol import Settings
from advise_ray.training.local import train_here
from advise_ray.video.augment_draws import centre
from advise_ray.video.decode import decode
from advise_ray.video.manifest import Video, Videos, read_manifest
from tests.conftest import Configure, Run


@pytest.fixture(scope="module")
def run_dir(fine_tuned: Run) -> Path:
    return Path(fine_tuned["run_dir"])


@pytest.fixture(scope="module")
def model(run_dir: Path) -> VideoModel:
    return advise_ray.load(run_dir)


@pytest.fixture
def own_mlflow() -> Iterator[None]:
    """A test that sets MLflow's tracking URI, as a notebook does, leaves none behind."""
    import mlflow

    yield
    mlflow.set_tracking_uri(None)


def test_a_loaded_model_encodes_clips_and_tells_classes(model: VideoModel, manifest: Path) -> None:
    clips = torch.randint(0, 256, (3, 4, 96, 96, 3), dtype=torch.uint8)
    embedding = model.encode(clips)
    assert embedding.shape == (3, 32)
    assert embedding.dtype == torch.float32
    assert torch.equal(model.encode(clips.numpy()), embedding)
    path = Path(Videos(read_manifest(manifest))[0].path)
    found = model.predict(path, num_clips=2)
    assert list(found) == model.classes
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert model.predict(path.read_bytes(), num_clips=2) == found


def test_mlflow_has_the_model_and_serves_bytes_alone(pretrained: Run, manifest: Path, own_mlflow: None) -> None:
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException

    model = advise_ray.load(pretrained["run_dir"])
    store = tracking.tracking_uri(model.config)
    mlflow.set_tracking_uri(store)
    path = Path(Videos(read_manifest(manifest))[0].path)
    served = mlflow.pyfunc.load_model(f"models:/advise-ray-prp/{version_of(pretrained)}")
    assert advise_ray.load(f"models:/advise-ray-prp/{version_of(pretrained)}").predict(path) == model.predict(path)
    expected = model.predict(path)
    answers = served.predict(pd.DataFrame({"video": [path.read_bytes(), b"no video"]}))
    assert answers["class"].tolist() == [max(expected, key=lambda name: expected[name]), ""]
    assert answers["probability"][0] == pytest.approx(max(expected.values()))
    assert answers["error"][1]
    assert served.predict(served.input_example)["error"].tolist() == [""]
    with pytest.raises(MlflowException):
        served.predict(pd.DataFrame({"video": [str(path)]}))
    client, experiment_id = tracking.connect(model.config)
    logged = client.search_logged_models([experiment_id])  # the experiment's own, not "Default"
    (own,) = [each for each in logged if each.source_run_id == pretrained["mlflow_run_id"]]
    folder = Path(own.artifact_location.removeprefix("file://"))
    assert not list(folder.rglob("optimizer.pt"))
    required = {Requirement(line).name for line in (folder / "requirements.txt").read_text().splitlines()}
    assert {"mlflow", "torch", "timm"} <= required
    assert "advise-ray" not in required  # an index may have anything under that name
    assert (folder / "code" / "advise_ray" / "deploy" / "serve.py").is_file()
    best = client.get_model_version_by_alias("advise-ray-prp", "best")
    by_alias, by_version = (advise_ray.load(f"models:/advise-ray-prp{at}") for at in ("@best", f"/{best.version}"))
    assert by_alias.predict(path) == by_version.predict(path)
    alike = [each.tags for each in versions(client) if {**each.tags, "val/top1": ""} == {**best.tags, "val/top1": ""}]
    assert float(best.tags["val/top1"]) == max(float(tags["val/top1"]) for tags in alike)


@pytest.mark.full
def test_a_logged_model_brings_its_code_and_names_what_it_needs(
    pretrained: Run, manifest: Path, tmp_path: Path, own_mlflow: None
) -> None:
    """Loaded where there is nothing but that: an environment of links to what its requirements ask for."""
    import mlflow

    store = tracking.tracking_uri(load(Path(pretrained["run_dir"]) / "config.yaml"))
    mlflow.set_tracking_uri(store)
    uri = f"models:/advise-ray-prp/{version_of(pretrained)}"
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=tmp_path / "model"))
    python = environment(tmp_path / "venv", (folder / "requirements.txt").read_text().splitlines())
    asked = [*("--dry-run", "--no-index", "--quiet"), "--requirement", str(folder / "requirements.txt")]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *asked], check=True)
    path = Videos(read_manifest(manifest))[0].path
    script = f"""
from pathlib import Path
import importlib.util, mlflow, pandas
assert importlib.util.find_spec("ray") is None and importlib.util.find_spec("advise_ray") is None
model = mlflow.pyfunc.load_model({str(folder)!r})
print(model.predict(pandas.DataFrame({{"video": [Path({path!r}).read_bytes()]}})).to_dict("records")[0])
import advise_ray
print(advise_ray.__file__)
"""
    done = subprocess.run([python, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, code = done.stdout.splitlines()
    expected = advise_ray.load(pretrained["run_dir"]).predict(path)
    assert ast.literal_eval(found)["class"] == max(expected, key=lambda name: expected[name])
    assert code == str(folder / "code" / "advise_ray" / "__init__.py")


def environment(folder: Path, requirements: list[str]) -> Path:
    """The Python of a new environment that has what they ask for, and what that needs, as links to what is here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    waiting, seen = [Requirement(line) for line in requirements], set()
    while waiting:
        each = waiting.pop()
        if (key := (each.name, frozenset(each.extras))) in seen:
            continue
        seen.add(key)
        waiting += packages.requirements(each.name, frozenset(each.extras))
        found = metadata.distribution(each.name)
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(str(found.locate_file(name)))
    return folder / "bin" / "python"


def versions(client: Any) -> list[Any]:
    return list(client.search_model_versions("name='advise-ray-prp'"))


def version_of(run: Run) -> str:
    client, _ = tracking.connect(load(Path(run["run_dir"]) / "config.yaml"))
    (version,) = [each.version for each in versions(client) if each.run_id == run["mlflow_run_id"]]
    return str(version)


def test_a_file_that_is_no_video(model: VideoModel, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoDecodeError):
        model.predict(tmp_path / "no.mp4")


def test_a_run_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is neither a checkpoint nor a run that has one"):
        advise_ray.load(tmp_path)


def test_loading_needs_neither_ray_nor_mlflow(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    found = export(run_dir, out, "safetensors")
    assert found["max_difference"] == 0
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "model.safetensors", "state.json"]
    assert str(run_dir.parent) not in (out / "config.yaml").read_text()
    script = f"""
import sys
sys.modules['ray'] = sys.modules['mlflow'] = None
import torch, advise_ray
model = advise_ray.load({str(out)!r})
print(model.encode(torch.zeros(1, 4, 96, 96, 3, dtype=torch.uint8)).sum().item())
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    expected = advise_ray.load(run_dir).encode(torch.zeros(1, 4, 96, 96, 3, dtype=torch.uint8)).sum().item()
    assert float(printed) == pytest.approx(expected, rel=1e-5)


def test_onnx_computes_the_same(run_dir: Path, model: VideoModel, tmp_path: Path) -> None:
    import onnxruntime

    found = export(run_dir, tmp_path / "onnx", "onnx")
    assert found["max_difference"] < 1e-3
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    clips = torch.randint(0, 256, (5, 4, 96, 96, 3), dtype=torch.uint8)
    embedding, logits = session.run(["embedding", "logits"], {"clips": clips.numpy()})
    np.testing.assert_allclose(embedding, model.encode(clips), atol=5e-3)
    with torch.inference_mode():
        assert (logits.argmax(1) == model(clips).argmax(1).numpy()).all()


def test_an_embedding_of_motion_and_looks_goes_where_others_go(
    configure: Configure, features: Path, manifest: Path, tmp_path: Path
) -> None:
    head = "model.head={looks_weight: 0.5, normalise: true, pooling: mean_max, hidden_dim: 16}"
    run = train_here(configure("looks", head, "model.sfu.standardise=true", f"data.features={features}"))
    model = advise_ray.load(run["run_dir"])
    clips = torch.randint(0, 256, (3, 4, 96, 96, 3), dtype=torch.uint8)
    assert model.encode(clips).shape == (3, 2 * 32 + 64)
    assert model(clips).shape == (3, 3)
    for kind in ("safetensors", "onnx"):
        assert export(run["run_dir"], tmp_path / kind, kind)["max_difference"] < 1e-3
    out = tmp_path / "embeddings.parquet"
    embed(run["run_dir"], str(manifest), out)
    assert {len(row) for row in pq.read_table(out).column("embedding").to_pylist()} == {2 * 32 + 64}
    found = evaluate(run["run_dir"], "knn", settings=Settings(num_clips=2, k=3))
    assert found["videos"] == 8


def test_an_export_that_is_something_else_is_refused(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advise_ray.deploy.export.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="differ from the original by up to"):
        export(run_dir, tmp_path / "out", "safetensors")
    assert list(tmp_path.iterdir()) == []


def test_footage_becomes_rows_of_clips(run_dir: Path, model: VideoModel, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.parquet"
    progress: list[tuple[int, int]] = []
    found = embed(run_dir, str(manifest), out, top_k=2, on_progress=lambda done, total: progress.append((done, total)))
    assert progress[-1] == (progress[0][1],) * 2  # videos that share a portion stay together
    assert progress[-1][1] < found["videos"]
    rows = pq.read_table(out).to_pylist()
    every = {video.video_id: video for video in Videos(read_manifest(manifest))}
    assert found["videos"] == len(every) == len({row["video_id"] for row in rows})
    assert found["clips"] == len(rows) == sum(len(clips_of(video, model.config, None)) for video in every.values())
    first = min((row for row in rows), key=lambda row: (row["video_id"], row["clip_start_s"]))
    video = every[first["video_id"]]
    assert (first["clip_start_s"], first["clip_end_s"]) == (0.0, pytest.approx(4 / video.fps))
    frames = decode(Path(video.path), np.arange(4), height_px=120, width_px=160)
    clip = centre(frames, model.config.augment)[None]
    np.testing.assert_allclose(first["embedding"], model.encode(clip)[0], rtol=1e-3, atol=1e-5)
    likeliest = model(torch.from_numpy(clip)).softmax(1)[0].topk(2)
    assert first["top_classes"] == [model.classes[index] for index in likeliest.indices]
    np.testing.assert_allclose(first["top_probabilities"], likeliest.values.detach(), atol=1e-5)
    assert first["top_probabilities"] == sorted(first["top_probabilities"], reverse=True)
    assert list(tmp_path.iterdir()) == [out]
    again = embed(run_dir, str(manifest), out, top_k=2)
    assert (again["kept_videos"], again["added_videos"], again["clips"]) == (len(every), 0, found["clips"])


def test_a_file_in_a_folder_that_is_no_video_has_a_row_with_its_reason(
    run_dir: Path, synthesized: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "footage"
    folder.mkdir()
    video = next((synthesized / "videos").rglob("*.mp4"))
    (folder / "good.mp4").write_bytes(video.read_bytes())
    (folder / "text.mp4").write_text("not a film")
    found = embed(run_dir, str(folder), tmp_path / "out.parquet")
    assert (found["videos"], found["failed_videos"]) == (2, 1)
    (failed,) = [row for row in pq.read_table(tmp_path / "out.parquet").to_pylist() if row["error"] is not None]
    assert failed["video_id"] == "text.mp4"
    assert "not a video file" in failed["error"]


def test_a_video_that_fails_has_a_row_with_its_reason(run_dir: Path, synthesized: Path, tmp_path: Path) -> None:
    from advise_ray.video.manifest import write_manifest

    rows: list[dict[str, Any]] = read_manifest(synthesized / "manifest.parquet").to_pylist()[:3]
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"RIFF not a film")
    rows[1]["path"] = str(broken)
    write_manifest(rows, tmp_path / "manifest.parquet")
    found = embed(run_dir, str(tmp_path / "manifest.parquet"), tmp_path / "out.parquet")
    assert found["failed_videos"] == 1
    (failed,) = [row for row in pq.read_table(tmp_path / "out.parquet").to_pylist() if row["error"] is not None]
    assert failed["video_id"] == rows[1]["video_id"]
    assert failed["embedding"] is None


@pytest.mark.full
def test_an_interrupted_job_goes_on(
    run_dir: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advise_ray.errors import InterruptedRunError

    monkeypatch.setattr("advise_ray.deploy.embed_groups.GROUP_FRAMES", 64)
    out = tmp_path / "out.parquet"

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        embed(run_dir, str(manifest), out, on_progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.parquet.parts").glob("*.parquet")}
    assert len(kept) >= 3
    with pytest.raises(UsageError, match="another step_s"):
        embed(run_dir, str(manifest), out, step_s=0.5)
    begun: list[int] = []
    embed(run_dir, str(manifest), out, on_progress=lambda done, total: begun.append(done))
    assert begun[0] >= 3
    whole = tmp_path / "whole.parquet"
    embed(run_dir, str(manifest), whole)
    key = ["video_id", "clip_start_s"]
    ours, theirs = (pq.read_table(path).to_pandas().sort_values(key).drop(columns="error") for path in (out, whole))
    assert ours[key].values.tolist() == theirs[key].values.tolist()
    np.testing.assert_allclose(np.stack(ours["embedding"]), np.stack(theirs["embedding"]), atol=1e-4)


def test_clips_follow_each_other_to_the_end_of_a_video() -> None:
    config = load(None, ["data.clip={num_frames: 4, frame_stride: 2}"])
    video = Video(
        "a", "a.mp4", None, num_frames=20, width=8, height=8, fps=10.0, decoder="decord", stream_index=0, rotation_deg=0
    )
    assert clips_of(video, config, None).tolist() == [[0, 2, 4, 6], [7, 9, 11, 13]]
    assert clips_of(video, config, 1.0).tolist() == [[0, 2, 4, 6], [10, 12, 14, 16]]
    short = Video(
        "a", "a.mp4", None, num_frames=3, width=8, height=8, fps=10.0, decoder="decord", stream_index=0, rotation_deg=0
    )
    assert clips_of(short, config, None).tolist() == [[0, 2, 2, 2]]
