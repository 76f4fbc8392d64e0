from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from advise_ray.evaluation.predictions import Prediction, read_predictions, write_predictions


def test_each_row_names_its_split_and_keeps_the_columns_of_its_protocol(tmp_path: Path) -> None:
    seen = Prediction(video_id="a", label=1, prediction=0, nearest=["b", "c"], failure=None)
    failed = Prediction(video_id="d", label=0, prediction=None, nearest=[], failure="truncated")
    write_predictions({"1": [seen, failed], "2": [seen]}, tmp_path / "predictions.parquet")
    rows = read_predictions(tmp_path / "predictions.parquet")
    assert rows == [{"split": "1", **seen}, {"split": "1", **failed}, {"split": "2", **seen}]
    columns = pq.read_schema(tmp_path / "predictions.parquet").names
    assert columns == ["split", "video_id", "label", "prediction", "nearest", "failure"]
