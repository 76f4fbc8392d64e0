"""The MLflow UI, with a real server and a real browser."""

from __future__ import annotations

import csv
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
NAME = "attributes.`Run Name`"


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
    search = ("search.model.tmm.num_blocks={grid: [1, 2]}", "tune={metric: train/loss, mode: min}")
    tune(load(None, [*own, *search, "tracking.run_name=both", "train.val_every_epochs=1"]))
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
        page = browser.new_page(viewport={"width": 2000, "height": 950})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def opened(link: str | None, ui: str) -> str:
    """A link as it is printed, at the port of the tests."""
    assert link is not None
    assert link.startswith("http://127.0.0.1:5000/#/")
    return link.replace("http://127.0.0.1:5000/#", ui)


def cells(page: Any, column: str) -> list[str]:
    """The text of a column of the table of runs, from the top; of names the last line, after their colour."""
    rows = page.locator(f'.ag-row .ag-cell[col-id="{column}"]')
    rows.nth(1).wait_for()
    shown = [(rows.nth(place).bounding_box()["y"], rows.nth(place).inner_text()) for place in range(rows.count())]
    return [text.splitlines()[-1] if column == NAME else text for _, text in sorted(shown)]


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


def test_the_link_of_a_sweep_opens_its_trials_best_first_with_the_columns_that_matter(
    config: Config, ui: str, page: Any
) -> None:
    sweep_dir = Path(config.storage.path) / "both"
    page.goto(opened(tracking.link(load(sweep_dir / "config.yaml"), sweep_dir), ui))
    page.get_by_text("trials of both, best first").first.wait_for()
    page.get_by_role("link", name="Models", exact=True).wait_for()  # the side menu of model training
    assert page.get_by_role("link", name="Prompts").count() == 0  # that of language models
    names = cells(page, NAME)
    losses = [float(text) for text in cells(page, "metrics.`train/epoch_loss`")]
    assert losses == sorted(losses)
    trials = list(csv.DictReader((sweep_dir / "trials.csv").read_text().splitlines()))
    best_first = sorted(trials, key=lambda trial: float(trial["train/loss"]))
    assert [name.split()[0] for name in names] == [f"{int(trial['number']):04d}" for trial in best_first]
    assert cells(page, "params.`model.tmm.num_blocks`") == [trial["model.tmm.num_blocks"] for trial in best_first]
    for metric in ("val/top1", "rate/clips_per_s"):
        assert all(float(text) >= 0 for text in cells(page, f"metrics.`{metric}`"))
    assert all("manifest training" in text for text in cells(page, "attributes.`Dataset`"))


def test_the_link_of_a_run_opens_its_curves_and_its_table_all_runs(config: Config, ui: str, page: Any) -> None:
    run_dir = Path(config.storage.path) / "alone"
    page.goto(opened(tracking.link(config, run_dir), ui))
    page.locator(".js-plotly-plot").first.wait_for()
    page.get_by_text("Model metrics", exact=True).first.wait_for()
    page.goto(opened(tracking.table_link(config, run_dir), ui))
    page.get_by_text("runs, best first").first.wait_for()
    assert sorted(cells(page, NAME)) == ["alone", "both"]  # a sweep's trials have their own table
    assert any(cells(page, "metrics.`eval/pretext/top1`"))


def test_models_are_compared_by_their_metrics_and_data(config: Config, ui: str, page: Any) -> None:
    """That of the run alone, and that of the winner of the sweep."""
    experiment, run = run_id(config, "alone")
    page.goto(f"{ui}/experiments/{experiment}/models?workflowType=machine_learning")
    page.get_by_text("alone", exact=True).first.wait_for()
    assert page.locator(".ag-center-cols-container .ag-row").count() == 2
    page.locator(".ag-row").filter(has=page.get_by_text("model", exact=True)).first.wait_for()
    client, _ = tracking.connect(config)
    (model,) = client.search_logged_models([experiment], f"source_run_id = '{run}'")
    page.goto(f"{ui}/experiments/{experiment}/models/{model.model_id}?workflowType=machine_learning")
    for text in ("val/top1", "eval/pretext/top1", "advise-ray-prp"):
        page.get_by_text(text).first.wait_for()
    page.get_by_text("manifest validation").first.wait_for()


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
