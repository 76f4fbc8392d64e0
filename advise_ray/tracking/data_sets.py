"""The data sets that a run has seen, as MLflow shows and filters them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from advise_ray.config import DataConfig
from advise_ray.tracking.address import redact
from advise_ray.video.manifest import Videos, frames_per_video

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

Context = Literal["training", "validation", "test"]
DIGEST_LENGTH = 12
"""MLflow stores up to 36 characters, and shows the whole digest beside the name."""
NAME_LENGTH = 200


class DataSet(TypedDict):
    """The videos of a manifest, or of a pool of manifests, that a run used for one purpose.

    MLflow keeps one data set for each name and digest, so the name contains the purpose.

    Attributes:
        name: names of the manifests, and the purpose: `clips training`.
        digest: beginning of the manifests' hash, see `hash_videos`. It changes if a video changes.
        context: the purpose.
        source: paths of the manifests.
        videos: number of videos.
        hours: duration of the frames that belong to the labels, in hours.
        classes: number of classes with a video; 0 for videos without labels.
    """

    name: str
    digest: str
    context: Context
    source: str
    videos: int
    hours: float
    classes: int


def data_sets(
    data: DataConfig, manifest_sha256: str, videos: Videos, rows: Mapping[Context, NDArray[np.integer]]
) -> list[DataSet]:
    """Describe what a run uses.

    Args:
        manifest_sha256: hash of the manifests' rows, see `hash_videos`.
        rows: purpose → numbers of its rows. A purpose without rows is left out.
    """
    described: list[DataSet] = []
    stems = " + ".join(path.stem for path in data.manifests)
    for context, numbers in rows.items():
        if not len(numbers):
            continue
        used = videos.table.select(["num_frames", "start_frame", "end_frame", "fps", "label"]).take(pa.array(numbers))
        described.append(
            DataSet(
                name=f"{stems[:NAME_LENGTH]} {context}",
                digest=manifest_sha256[:DIGEST_LENGTH],
                context=context,
                source=redact(", ".join(map(str, data.manifests))),
                videos=len(used),
                hours=round(float((frames_per_video(used) / used.column("fps").to_numpy()).sum()) / 3600, 4),
                classes=pc.count_distinct(used.column("label")).as_py(),
            )
        )
    return described


def as_inputs(described: Iterable[DataSet]) -> list[DatasetInput]:
    """Convert data sets to the inputs of an MLflow run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    inputs = []
    for each in described:
        profile = {name: each[name] for name in ("videos", "hours", "classes")}
        source = json.dumps({"uri": each["source"]})
        entity = Dataset(each["name"], each["digest"], "local", source, profile=json.dumps(profile))
        inputs.append(DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, each["context"])]))
    return inputs
