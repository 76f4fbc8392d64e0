"""What is said about servers and addresses that do not take a run: one line, within seconds, before it starts."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from advise_ray import tracking
from advise_ray.errors import AdviseRayError, TrackingError, UsageError
from advise_ray.tracking import RunTracker
from advise_ray.tracking.server_errors import kind_of
from tests.tracking.stores import config_of

LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
PAGE = "<html>\n<title>a page</title></html>"


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers every request to `/CODE` with this code, and with the text after it or a page."""

    def do_GET(self) -> None:
        code, _, said = self.path.removeprefix("/").partition("/")
        body = {"json": '{"detail": "Not Found"}', "login": '{"message": "Unauthorized"}'}.get(said.split("/")[0], PAGE)
        if said.startswith("host"):
            body = "Invalid Host header - possible DNS rebinding attack detected"
        self.send_response(int(code))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def refused(folder: Path, uri: str) -> AdviseRayError:
    started_s = time.monotonic()
    with pytest.raises(AdviseRayError) as caught:
        tracking.check(config_of(folder, f'tracking.uri="{uri}"'))
    assert time.monotonic() - started_s < 20
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert list(folder.iterdir()) == []
    return caught.value


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("401", LOGIN),
        ("401/login", LOGIN),
        ("403", "access is denied (403)"),
        ("403/host", "--allowed-hosts"),
        ("404", "this is not an MLflow server"),
        ("404/json", "if this is no MLflow server, correct the address"),
        ("200", "this is not an MLflow server"),
        ("407", "NO_PROXY"),
        ("429", "limits the rate of requests"),
        ("503", "look at its log"),
    ],
)
def test_what_a_server_answers(tmp_path: Path, server: str, path: str, said: str) -> None:
    error = refused(tmp_path, f"http://{server}/{path}")
    assert isinstance(error, TrackingError)
    assert said in str(error)


def test_a_server_without_tls(tmp_path: Path, server: str) -> None:
    assert str(refused(tmp_path, f"https://{server}")).endswith(
        "the server does not use TLS; write http:// instead of https://"
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://127.0.0.1:9", "Connection refused; start the server"),
        ("https://token@127.0.0.1:9", "cannot log to https://***@127.0.0.1:9"),
        ("http://no-such-host.invalid:5000", "correct the name of the host"),
        ("mysql+nodriver://127.0.0.1/db", "nodriver"),
        ("postgresql+psycopg2://127.0.0.1:9/db", "psycopg2"),
    ],
)
def test_a_server_that_does_not_answer(tmp_path: Path, uri: str, said: str) -> None:
    error = refused(tmp_path, uri)
    assert isinstance(error, TrackingError)
    assert said in str(error)


@pytest.mark.parametrize(
    "uri",
    ["./mlruns", "file:./mlruns", "127.0.0.1:5000", "localhost:5000", "htp://127.0.0.1", "http://a:b", "sqlite://a.db"],
)
def test_what_is_no_address(tmp_path: Path, uri: str) -> None:
    error = refused(tmp_path, uri)
    assert isinstance(error, UsageError)
    assert f"tracking.uri: cannot log to {uri}: " in str(error)
    assert "sqlite:///PATH/mlflow.db" in str(error)


def test_the_environment_is_named_where_the_address_comes_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"^MLFLOW_TRACKING_URI: cannot log to http://127\.0\.0\.1:9"):
        tracking.check(config_of(tmp_path))


def test_a_store_that_cannot_be_created(tmp_path: Path) -> None:
    config = config_of(tmp_path, "tracking.uri=sqlite:////proc/nowhere/mlflow.db")
    with pytest.raises(TrackingError, match="/proc/nowhere"):
        RunTracker(config, tmp_path).start(device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError("database or disk is full"), "free space"),
        (OSError("attempt to write a readonly database"), "make the file and its folder writable"),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), "MLFLOW_TRACKING_SERVER_CERT_PATH"),
        (OSError("password authentication failed for user 'me'"), "~/.pgpass"),
        (ValueError("something new"), None),
    ],
)
def test_advice_fits_the_cause(error: Exception, advice: str | None) -> None:
    wrapped = RuntimeError("a request failed")
    wrapped.__context__ = error
    kind = kind_of(wrapped)
    assert (kind is None) if advice is None else (kind is not None and advice in kind.advice)


@pytest.mark.full
def test_a_server_that_accepts_and_never_answers_is_known_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert "timed out" in str(refused(tmp_path, f"http://127.0.0.1:{mute.getsockname()[1]}"))
