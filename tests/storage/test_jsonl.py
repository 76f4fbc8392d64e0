from __future__ import annotations

from pathlib import Path

from advise_ray.storage.jsonl import read_lines, reopen


def test_lines_follow_whole_lines_after_a_writer_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert reopen(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert reopen(path) == [{"step": 1}, {"step": 2}]
    with path.open("a") as file:
        file.write('{"step": 3}\n')
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]
