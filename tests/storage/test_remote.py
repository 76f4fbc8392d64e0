"""Local folders, a real S3 server and a real web server, both on loopback."""

from __future__ import annotations

import functools
import http.server
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from advise_ray.errors import UsageError
from advise_ray.storage import remote, transports
from advise_ray.storage.transports import StorageError

CONTENT = {"jump/a b.mp4": b"aa", "run/ü.mp4": b"bbb", "100%41#?.txt": b"c"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "RETRY_AFTER_S", (0.01, 0.01))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket that holds CONTENT, and nothing about it in the URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="videos")
    for path, content in CONTENT.items():
        client.put_object(Bucket="videos", Key=f"ucf/{path}", Body=content)
    transports._arrow_files.cache_clear()
    yield "s3://videos/ucf"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST"), timeout=5)
    server.stop()
    transports._arrow_files.cache_clear()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    for path, content in CONTENT.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("kind", ["s3", "web"])
def test_what_is_listed_can_be_read(request: pytest.FixtureRequest, kind: str) -> None:
    root = request.getfixturevalue(kind)
    files = {file.path: file for file in remote.list_files(root)}
    assert files.keys() == CONTENT.keys()
    assert {path: remote.read(remote.join(root, path)) for path in files} == CONTENT
    if kind == "s3":
        assert {path: file.bytes for path, file in files.items()} == {path: len(text) for path, text in CONTENT.items()}
        assert all(file.modified_ns for file in files.values())


def test_a_bucket_that_is_not_there_is_told_from_one_that_is_closed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^--videos: s3://elsewhere/ucf: .*no such bucket"):
        list(remote.list_files("s3://elsewhere/ucf"))
    with pytest.raises(UsageError, match=r"^--videos: s3://videos/gone: no such"):
        list(remote.list_files("s3://videos/gone"))
    with pytest.raises(StorageError, match="no such"):
        remote.read(f"{s3}/gone.mp4")


def test_a_server_that_refuses_says_so(s3: str) -> None:
    """From here on the server asks who is there; nobody is."""

    def ask_from(count: str) -> None:
        url = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, count.encode(), plain, method="POST"), timeout=5)

    ask_from("0")
    try:
        with pytest.raises(UsageError, match=r"^--videos: s3://videos/ucf: access denied; check the credentials"):
            list(remote.list_files(s3))
        with pytest.raises(StorageError, match=r"^access denied"):
            remote.read(f"{s3}/list.txt")
    finally:
        ask_from("inf")


def test_what_no_retry_can_change_is_said_at_once() -> None:
    attempts = []

    def denied() -> None:
        attempts.append(1)
        raise OSError("When listing objects: AWS Error ACCESS_DENIED during ListObjectsV2 operation: no identity")

    with pytest.raises(StorageError, match=r"^access denied; check the credentials"):
        transports._retrying(denied)
    assert len(attempts) == 1


def test_what_may_pass_is_tried_again() -> None:
    attempts = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation")
        return "here"

    assert transports._retrying(flaky) == "here"
    with pytest.raises(StorageError, match=r"^cannot be reached \(Cannot connect"):
        remote.read("http://127.0.0.1:9/a.mp4")


def test_the_query_of_a_url_stays_at_its_end() -> None:
    assert remote.join("s3://b/x?region=eu&scheme=http", "c/d.mp4") == "s3://b/x/c/d.mp4?region=eu&scheme=http"
    assert remote.join("s3://b", "c.mp4") == "s3://b/c.mp4"
    assert remote.join("s3://b", "c#%.mp4") == "s3://b/c%23%25.mp4"
    assert remote.join("/videos", "c.mp4") == "/videos/c.mp4"


def test_secrets_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match=r"^s3://…@bucket: a URL must not contain credentials") as caught:
        remote.read("s3://KEY:VERYSECRET@bucket/a.mp4")
    assert "VERYSECRET" not in str(caught.value)


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(UsageError, match=r"^floppy://a: "):
        list(remote.list_files("floppy://a/b"))


def test_a_server_that_does_not_list_is_an_error_not_an_empty_folder(web: str) -> None:
    with pytest.raises(UsageError, match=r"^--videos: http://127.0.0.1:9/x: cannot be reached"):
        list(remote.list_files("http://127.0.0.1:9/x"))
    with pytest.raises(UsageError, match=r"/gone: no such file or folder$"):
        list(remote.list_files(f"{web}/gone"))


@pytest.mark.parametrize(
    ("location", "expected"),
    [("file:///data/my%20videos", "/data/my videos"), ("/data", "/data"), ("s3://bucket/a", "s3://bucket/a")],
)
def test_a_file_url_is_a_local_path(location: str, expected: str) -> None:
    assert remote.local_or_url(location) == expected


def test_a_url_without_a_bucket() -> None:
    with pytest.raises(UsageError, match=r"^--videos: s3:// has no bucket or server$"):
        remote.local_or_url("s3://")
