"""Readers of the lists that data sets are published with: which videos there are, their labels and splits."""

from pathlib import Path

from advise_ray.video.annotations.benchmarks import read_diving48, read_hmdb51, read_kinetics, read_ssv2, read_ucf101
from advise_ray.video.annotations.files import root_and_file
from advise_ray.video.annotations.folders import read_folder
from advise_ray.video.annotations.holding_out import hold_out
from advise_ray.video.annotations.listing import ListedVideo, Listing
from advise_ray.video.annotations.lists import read_list


def read(layout: str, videos: str, annotations: Path | None, split: int | None) -> Listing:
    """The listing of a data set in one of the formats of `data index`; `folder` alone has no annotations.

    Args:
        split: of `ucf101` and `hmdb51` the official one, None: the first; of `list` that of the lists to take.

    Raises:
        UsageError: what was looked for, and where.
    """
    if annotations is None:
        return read_folder(videos)
    if layout in ("ucf101", "hmdb51"):
        return {"ucf101": read_ucf101, "hmdb51": read_hmdb51}[layout](videos, annotations, split or 1)
    if layout == "list":
        return read_list(videos, annotations, split)
    readers = {"diving48": read_diving48, "ssv2": read_ssv2, "kinetics": read_kinetics}
    return readers[layout](videos, annotations)


__all__ = [
    "ListedVideo",
    "Listing",
    "hold_out",
    "read",
    "read_diving48",
    "read_folder",
    "read_hmdb51",
    "read_kinetics",
    "read_list",
    "read_ssv2",
    "read_ucf101",
    "root_and_file",
]
