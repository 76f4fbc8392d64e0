"""A cache in an object store: a job writes it, Ray Data streams it, and training uses it like a local one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from advise_ray.cache.cache_plan import plan_cache
from advise_ray.cache.writer import write_cache
from advise_ray.config import Config, load
from advise_ray.training.local import train_here
from tests.runs import set_options

pytestmark = pytest.mark.full


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """What the environment has to say of a server with an empty bucket, `features`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    own = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    session = boto3.session.Session("key", "secret", region_name="us-east-1")
    session.client("s3", endpoint_url=endpoint).create_bucket(Bucket="features")
    yield own | {"AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
    server.stop()


def test_a_cache_in_s3_is_streamed(
    bucket: dict[str, str], manifest: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}")
    own = (*tiny, f"data.manifest={manifest}", f"storage.path={tmp_path / 'runs'}")

    def configure(*overrides: str) -> Config:
        return load(None, [*own, *overrides])

    def command(*words: str, **settings: str) -> dict[str, object]:
        given = [*own, *(f"{name.replace('__', '.')}={value}" for name, value in settings.items())]
        line = [sys.executable, "-m", "advise_ray", words[0], "--config", str(recipe), *words[1:], "--json"]
        line += set_options(given)
        done = subprocess.run(
            line, env=os.environ | bucket, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, object] = json.loads(done.stdout)
        return result

    location, local = "s3://features/of/synthesized", tmp_path / "cache"
    assert command("cache", "--out", location)["encoded"] == 24
    assert command("cache", "--out", location)["encoded"] == 0
    streamed = command("train", data__features=location, tracking__run_name="streamed")
    assert write_cache(plan_cache(configure(), str(local)))["encoded"] == 24
    mapped = train_here(configure(f"data.features={local}", "tracking.run_name=mapped"))
    assert streamed["failed_videos"] == 0
    assert streamed["metrics"]["train/loss"] == pytest.approx(mapped["metrics"]["train/loss"], rel=1e-4)
