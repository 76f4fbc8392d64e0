from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advise_ray.evaluation.encoded_videos import _groups
from advise_ray.video.manifest import Video, Videos
from tests.runs import manifest_of


def test_clips_are_planned_when_it_is_the_turn_of_their_video() -> None:
    """A plan of all clips of a large manifest takes gigabytes, and minutes before the first video is decoded."""
    planned: list[str] = []

    def clips_of(video: Video) -> NDArray[np.int64]:
        planned.append(video.video_id)
        return np.asarray([[0, 2, 4], [2, 4, 6]])

    groups = _groups(Videos(manifest_of({"test": 1000})), np.arange(5, 1000), clips_of)
    (held,) = next(groups).column("videos").to_pylist()
    assert [(each["row"], each["wanted"]) for each in held] == [(5, [0, 2, 4, 6])]
    assert len(planned) == 1
