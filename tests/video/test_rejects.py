from __future__ import annotations

from pathlib import Path

from advise_ray.video.rejects import read_rejects, write_rejects


def test_rejects_are_read_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "rejects.parquet"
    assert read_rejects(path) == {}
    write_rejects([{"video_id": "a", "path": "/videos/a", "reason": "no such file"}], path)
    assert read_rejects(path) == {"a": "no such file"}
