"""The page with a map of embedded clips: what it holds, and how it answers in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advise_ray.deploy import atlas
from advise_ray.deploy.clip_index import read_index
from advise_ray.deploy.clip_search import Search
from advise_ray.video.synth import synthesize
from tests.embeddings import write_embeddings

CHROMIUM = shutil.which("chromium")
MARKUP = "</script><img src=x onerror=alert(1)>.mp4"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    synthesize(root, 8, seed=0, layout="folder")
    return root


def embeddings_of(films: Path, path: Path, clips_each: int = 2) -> Path:
    """Random embeddings, in which the clips of a video are alike; and of two videos that are not there."""
    rng = np.random.default_rng(0)
    names = [*sorted(film.relative_to(films).as_posix() for film in films.rglob("*.mp4")), MARKUP, "gone.mp4"]
    videos = {name: rng.normal(size=8) + 0.1 * rng.normal(size=(clips_each, 8)) for name in names}
    return write_embeddings(path, videos, sources={"run": "/gone", "videos": str(films)})


def data_of(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def test_a_page_holds_pictures_neighbours_and_classes(
    films: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, page = embeddings_of(films, tmp_path / "e.parquet"), tmp_path / "new" / "page.html"
    result = atlas.write_page(read_index(file), page)
    assert (result["page_clips"], result["page_pictures"]) == (20, 16)
    shown = data_of(page)
    assert "because UMAP needs 32 clips" in caplog.messages[0]
    assert "2 videos have no pictures" in caplog.messages[1]
    assert shown["notes"] == [message.removeprefix("note: page.html: ") for message in caplog.messages]
    assert set(shown["colours"]) == {"class", "predicted", "cluster"}
    nearest = np.reshape(shown["neighbours"], (20, -1))[:, 0]
    assert [shown["video"][clip] for clip in nearest] == shown["video"]
    assert shown["colours"]["class"]["names"][shown["colours"]["class"]["of"][0]] == shown["videos"][0].split("/")[0]


def test_names_cannot_become_markup_and_nothing_is_loaded(films: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    answer = Search(embeddings_of(films, tmp_path / "<b>.parquet")).like(MARKUP, 3)
    atlas.write_page(read_index(tmp_path / "<b>.parquet"), page, answer)
    text = page.read_text()
    assert "<img" not in text
    assert "<b>" not in text
    assert not re.search(r"https?://", text)
    assert data_of(page)["found"]["title"].startswith(f"Most like {MARKUP}")
    assert len(data_of(page)["found"]["items"]) == 3


def test_a_large_file_is_sampled_and_what_was_found_stays(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "MOST_CLIPS", 10)
    file, page = embeddings_of(films, tmp_path / "e.parquet"), tmp_path / "page.html"
    searching = Search(file)
    answer = searching.odd(3)
    shutil.copytree(films, tmp_path / "moved")
    assert atlas.write_page(searching.index, page, answer, videos=str(tmp_path / "moved"))["page_clips"] == 10
    shown = data_of(page)
    assert shown["notes"][1] == "A random sample of 10 of 20 clips."
    listed = [shown["videos"][shown["video"][clip]] for clip, _ in shown["found"]["items"]]
    assert listed == [match["video_id"] for match in answer.result["matches"]]


def test_without_videos_the_page_says_why_it_has_no_pictures(tmp_path: Path) -> None:
    file = write_embeddings(tmp_path / "e.parquet", {"a": [[1, 0]] * 3}, sources={"run": "", "videos": "/not/there"})
    assert atlas.write_page(read_index(file), tmp_path / "page.html")["page_pictures"] == 0
    note = data_of(tmp_path / "page.html")["notes"][1]
    assert note == (
        "No pictures: the videos are not there any more (--videos: /not/there does not exist); give --videos."
    )


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install -y chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.full
def test_a_click_on_a_clip_shows_its_neighbours(films: Path, tmp_path: Path, browser: Any) -> None:
    pytest.importorskip("umap")
    file, page_file = embeddings_of(films, tmp_path / "e.parquet", clips_each=4), tmp_path / "page.html"
    atlas.write_page(read_index(file), page_file)
    shown = data_of(page_file)
    page = browser.new_page(viewport={"width": 1300, "height": 850})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto(page_file.as_uri())
    x, y = page.evaluate("screen(5)")
    page.mouse.move(x, y)
    page.locator("#hover .picture").wait_for()
    page.mouse.click(x, y)
    chosen = page.evaluate("selected")
    assert np.allclose(page.evaluate(f"screen({chosen})"), (x, y), atol=12)
    entries = page.locator("#selected .clip")
    nearest = shown["neighbours"][chosen * 8]
    assert entries.count() == 8
    assert shown["videos"][shown["video"][nearest]] in entries.first.inner_text()
    assert shown["video"][nearest] == shown["video"][chosen]
    entries.first.click()
    assert page.evaluate("selected") == nearest
    page.get_by_placeholder("Find a video by its id").fill("onerror")
    page.locator("#hits .clip").click()
    page.locator("#selected").get_by_text(MARKUP).first.wait_for()
    assert page.locator("#panel img").count() == 0
    assert problems == []
