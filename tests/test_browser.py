"""The MLflow UI, with a real server and a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advise_ray import tracking
from advise_ray.config import Config, load
from advise_ray.evaluation.evaluate_run import evaluate
from advise_ray.sweep.tuner import tune
from advise_ray.training.trainer import train
from tests.cluster.heads import free_port
from tests.runs import answers, eventually

pytestmark = pytest.mark.full
CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[str, ...], manifest: Path, features: Path) -> Config:
    """A store with a run, what an evaluation found of it, and a sweep of two trials."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install -y chromium")
    storage = tmp_path_factory.mktemp("store")
    own = (*tiny, f"data.manifest={manifest}", f"data.features={features}", f"storage.path={storage}")
    config = load(None, [*own, "tracking.run_name=alone"])
    train(config)
    evaluate(str(storage / "alone"), "pretext")
    tune(load(None, [*own, "tracking.run_name=both", "search.model.tmm.num_blocks={grid: [1, 2]}"]))
    return config


@pytest.fixture(scope="module")
def ui(config: Config) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", *tracking.ui_command(config).replace("--port 5000", f"--port {port}").split()]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/health"), alive=server)
        yield f"http://127.0.0.1:{port}/#"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def run_id(config: Config, name: str) -> tuple[str, str]:
    """Of the experiment, and of the run of this name."""
    client, experiment = tracking.connect(config)
    (run,) = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    return experiment, run.info.run_id


def test_the_experiment_lists_runs_and_unfolds_a_sweep(config: Config, ui: str, page: Any) -> None:
    page.goto(f"{ui}/experiments/{run_id(config, 'alone')[0]}/runs")
    page.get_by_text("alone", exact=True).first.wait_for()
    page.get_by_role("row").filter(has_text="both").get_by_role("button").first.click()
    for blocks in (1, 2):
        page.get_by_text(f"000{blocks - 1} num_blocks={blocks}").first.wait_for()


def test_a_run_shows_its_losses_and_what_an_evaluation_found(config: Config, ui: str, page: Any) -> None:
    experiment, run = run_id(config, "alone")
    page.goto(f"{ui}/experiments/{experiment}/runs/{run}")
    page.get_by_text("playback rates of manifest.parquet: timm:test_efficientnet").wait_for()
    page.goto(f"{ui}/experiments/{experiment}/runs/{run}/model-metrics")
    page.get_by_text("train", exact=True).first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    page.goto(f"{ui}/experiments/{experiment}/runs/{run}/artifacts")
    for name in ("evaluation", "pretext", "confusion.png"):
        page.get_by_text(name, exact=True).first.click()
    picture = page.locator("img[src^='blob:']").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 200


def test_a_model_has_its_versions_and_the_best_is_marked(ui: str, page: Any) -> None:
    page.goto(f"{ui}/models/advise-ray-prp")
    page.get_by_text("Version 1", exact=True).wait_for()
    page.get_by_text("@ best").wait_for()
