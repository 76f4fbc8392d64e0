"""The page about a data set."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from advise_ray import dataset
from advise_ray.config import load
from advise_ray.video.manifest import read_manifest, write_manifest


class Page(HTMLParser):
    """Its headings, its images, and all that it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.images: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            self.images.append(str(dict(attrs)["src"]))

    def handle_data(self, data: str) -> None:
        if self.inside in ("h1", "h2") and data.strip():
            self.headings.append(data)


def test_one_page_shows_a_data_set_and_loads_nothing(manifest: Path, tmp_path: Path) -> None:
    config = load(None, ["data.clip={num_frames: 4, frame_stride: 2, rates: [1, 8, 16]}"])
    facts = dataset.write_report(manifest, tmp_path / "report.html", config)
    assert (facts["videos"], facts["classes"], facts["splits"]) == (24, 8, {"test": 8, "train": 16})
    # 120 frames hold 3 steps of 2 × 8 × 1.2, but not of 2 × 16 × 1.2 … 116 do: 115.2 + 1.
    assert facts["rate_fits_fraction"] == {"1": 1.0, "8": 1.0, "16": 1.0}
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert {"manifest.parquet", "Durations", "Classes", "Playback rates that fit"} <= set(page.headings)
    assert all(image.startswith("data:image/") for image in page.images)
    assert len(page.images) == 5 + 4 * 3  # charts, and four videos at three rates
    assert not re.search(r"https?://", text)


def test_a_rate_that_does_not_fit_and_names_that_are_markup(manifest: Path, tmp_path: Path) -> None:
    rows = [dict(row, class_name="<b>&") for row in read_manifest(manifest).to_pylist()[:2]]
    rows[0]["path"] = "/gone.mp4"
    write_manifest(rows, tmp_path / "<i>.parquet")
    config = load(None, ["data.clip={num_frames: 8, frame_stride: 2, rates: [1, 8]}"])
    facts = dataset.write_report(tmp_path / "<i>.parquet", tmp_path / "report.html", config)
    assert facts["rate_fits_fraction"] == {"1": 1.0, "8": 0.0}
    text = (tmp_path / "report.html").read_text()
    assert "<i>" not in text
    assert "no such file" in text
