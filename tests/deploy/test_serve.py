"""The served model: what clients send is decoded in another process, in time, and cannot name the server's files."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import advise_ray
from advise_ray.deploy import serve
from advise_ray.deploy.serve import Classifier
from advise_ray.training import checkpoint
from tests.runs import answers, eventually

PLAYLIST = b"ffconcat version 1.0\nfile secret.mp4\n"
"""FFmpeg would read this file of the server's folder in the place of the playlist."""


@pytest.fixture(scope="module")
def classifier(untrained: dict[str, Path]) -> Classifier:
    classifier = Classifier()
    path = checkpoint.find(untrained["action"], "")
    classifier.load_context(SimpleNamespace(artifacts={"checkpoint": str(path)}))
    return classifier


@pytest.fixture
def in_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mlflow models serve` does."""
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")


def asked(classifier: Classifier, *videos: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = classifier.predict(None, pd.DataFrame({"video": list(videos)})).to_dict("records")
    return rows


def test_good_videos_are_answered_beside_bad_ones(
    classifier: Classifier, untrained: dict[str, Path], footage: Path, in_server: None
) -> None:
    video = (footage / "a.mp4").read_bytes()
    expected = advise_ray.load(untrained["action"]).predict(video)
    good, bad, encoded = asked(classifier, video, b"no video", base64.b64encode(video))
    assert good == encoded
    assert good["class"] == max(expected, key=lambda name: expected[name])
    assert good["probability"] == max(expected.values())
    assert (bad["class"], bad["probability"]) == ("", 0)
    assert "not a video file" in bad["error"]


def test_a_video_names_no_file_of_the_server(
    classifier: Classifier, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.mp4").write_bytes((footage / "a.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(classifier, "decoders", serve.queue.SimpleQueue())
    with serve.DecodeProcess(60) as decoder:  # it starts in this folder
        classifier.decoders.put(decoder)
        assert asked(classifier, PLAYLIST)[0]["error"]


def test_a_server_refuses_a_request_without_any_video(classifier: Classifier, in_server: None) -> None:
    with pytest.raises(serve.MlflowException, match="cannot be classified: not a video file") as refused:
        asked(classifier, b"no video", b"nor this")
    assert refused.value.get_http_status_code() == 400
    with pytest.raises(serve.MlflowException, match="send the bytes") as refused:
        asked(classifier, "/etc/passwd")
    assert refused.value.get_http_status_code() == 400


def test_a_program_gets_a_row_for_each_video(classifier: Classifier) -> None:
    assert [bool(row["error"]) for row in asked(classifier, b"no video", b"nor this")] == [True, True]
    assert list(classifier.predict(None, pd.DataFrame({"video": []})).columns) == ["class", "probability", "error"]


def test_a_video_that_takes_too_long_or_is_too_large_is_told(
    classifier: Classifier, footage: Path, in_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = (footage / "a.mp4").read_bytes()
    monkeypatch.setattr(serve, "MOST_BYTES", len(video) - 1)
    with pytest.raises(serve.MlflowException, match="bytes are more than"):
        asked(classifier, video)
    monkeypatch.setattr(serve, "MOST_BYTES", len(video))
    monkeypatch.setattr(serve, "USED_FRACTION", 1e-9)
    with pytest.raises(serve.MlflowException, match="the time of the request is over"):
        asked(classifier, video)


def test_a_server_whose_decoders_are_all_in_use_says_so(
    classifier: Classifier, footage: Path, in_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "decoders", serve.queue.SimpleQueue())
    monkeypatch.setattr(serve, "USED_FRACTION", 1e-3)
    with pytest.raises(serve.MlflowException, match="busy") as refused:
        asked(classifier, (footage / "a.mp4").read_bytes())
    assert refused.value.get_http_status_code() == 503


@pytest.mark.full
def test_mlflow_serves_a_model(untrained: dict[str, Path], footage: Path, tmp_path: Path) -> None:
    import mlflow

    from advise_ray.tracking import model_registry

    path = checkpoint.find(untrained["action"], "")
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=str(model_registry.PACKAGE / "deploy" / "serve.py"),
        code_paths=[str(model_registry.PACKAGE)],
        artifacts={"checkpoint": str(path)},
        pip_requirements=[],
        **model_registry._interface(),
    )
    video, folder = (footage / "a.mp4").read_bytes(), tmp_path / "server"
    folder.mkdir()
    (folder / "secret.mp4").write_bytes(video)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["mlflow", "models", "serve", "-m", str(tmp_path / "model"), "--env-manager", "local", "--port", port]
    server = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)

    def post(*videos: bytes) -> tuple[int, str]:
        records = {"dataframe_records": [{"video": base64.b64encode(video).decode()} for video in videos]}
        url, headers = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(records).encode(), headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/ping"), alive=server)
        expected = advise_ray.load(untrained["action"]).predict(video)
        status, text = post(video, b"no video")
        good, bad = json.loads(text)["predictions"]
        assert (status, good["class"]) == (200, max(expected, key=lambda name: expected[name]))
        assert "not a video file" in bad["error"]
        for odd in (b"no video", PLAYLIST, b"", video[: len(video) // 2]):
            status, text = post(odd)
            assert status == 400
            assert "cannot be classified" in text
        assert post(video)[0] == 200
    finally:
        os.killpg(server.pid, signal.SIGKILL)
