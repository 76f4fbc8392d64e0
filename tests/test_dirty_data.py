"""Whole runs on bad data: damaged files among good ones, a decoder that hangs, and videos at a URL."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from advise_ray import dataset
from advise_ray.config import load
from advise_ray.training.trainer import train
from advise_ray.video.annotations import read_folder
from advise_ray.video.manifest import read_manifest, write_manifest
from advise_ray.video.rejects import read_rejects
from tests.runs import PATIENCE_S, command, set_options

pytestmark = pytest.mark.full

HANGS = """
import time
from advise_ray.video import decode as decoding
real = decoding.decode
def decode(source, *request, **how):
    if "sleeps" in str(source):
        time.sleep(1000)
    return real(source, *request, **how)
decoding.decode = decode
"""


def run(*arguments: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        command(*arguments, "--json"),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_odd_files_among_real_clips_cost_themselves_only(
    local_ray: None, shared_data: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """120 real clips and 68 odd files; the sounds among them are in the manifest, as if they had been videos once."""
    root = tmp_path / "videos"
    for folder in ("survfight/videos", "robustness"):
        for path in sorted((shared_data / folder).rglob("*.*")):
            if path.is_file():
                link = root / path.relative_to(shared_data)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
    out = tmp_path / "manifest.parquet"
    summary = dataset.index(read_folder(root), root, out)
    bad = read_rejects(Path(summary["rejects"]))
    sounds = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in (".mp3", ".wav")]
    assert set(bad) == {"robustness/decord/corrupted.mp4", *sounds}
    assert summary["videos"] + len(bad) == 120 + 68
    rows = [dict(row, split="train") for row in read_manifest(out).to_pylist()]
    good = {str(row["video_id"]) for row in rows}
    rows += [dict(rows[0], video_id=name, path=str(root / name)) for name in sounds]
    write_manifest(rows, out)
    config = load(
        None,
        [
            *tiny,
            f"data.manifest={out}",
            "data.val_fraction=0",
            "data.log_clips=true",
            "data.max_failed_fraction=0.2",
            f"storage.path={tmp_path}",
        ],
    )
    result = train(config)
    assert result["status"] == "FINISHED"
    assert set(read_rejects(Path(result["run_dir"]) / "rejects.parquet")) == set(sounds)
    assert result["clips_seen"] == 2 * len(good)


def test_a_decoder_that_hangs_costs_its_video_and_the_deadline(
    synthesized: Path, manifest: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    rows = read_manifest(manifest).to_pylist()
    hanging = next(row for row in rows if row["split"] == "train")
    hanging["path"] = str(tmp_path / "sleeps.mp4")
    (tmp_path / "sleeps.mp4").symlink_to(next(synthesized.rglob("*.mp4")))
    write_manifest(rows, tmp_path / "manifest.parquet")
    where = [f"data.manifest={tmp_path / 'manifest.parquet'}", f"storage.path={tmp_path}", "data.decode_timeout_s=3"]
    result = run("train", *set_options([*tiny, *where]), PYTHONPATH=str(tmp_path))
    assert result["status"] == "FINISHED"
    assert read_rejects(Path(result["run_dir"]) / "rejects.parquet") == {
        hanging["video_id"]: "decoding took longer than 3 s"
    }
    assert result["clips_seen"] == 15 * 2


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """What a process needs to know of an S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


def test_videos_in_a_bucket_are_indexed_and_trained_on(
    s3: dict[str, str], synthesized: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"], aws_access_key_id="key", aws_secret_access_key="s")
    client.create_bucket(Bucket="clips")
    videos = synthesized / "videos"
    for path in sorted(videos.rglob("*.mp4")):
        client.upload_file(str(path), "clips", f"ucf/{path.relative_to(videos).as_posix()}")
    out = str(tmp_path / "manifest.parquet")
    lists = str(synthesized / "ucfTrainTestlist")
    index = ["data", "index", "--format", "ucf101", "--videos", "s3://clips/ucf", "--annotations", lists, "--out", out]
    summary = run(*index, **s3)
    assert (summary["videos"], summary["missing"], summary["probed"]) == (24, 0, 24)
    result = run("train", *set_options([*tiny, f"data.manifest={out}", f"storage.path={tmp_path}"]), **s3)
    assert (result["status"], result["failed_videos"], result["clips_seen"]) == ("FINISHED", 0, 32)
