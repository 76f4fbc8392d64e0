"""Readers of published annotation files: they list the videos of a data set with their labels and splits."""

from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.video.annotations.benchmarks import read_diving48, read_hmdb51, read_kinetics, read_ssv2, read_ucf101
from advise_ray.video.annotations.files import root_and_file
from advise_ray.video.annotations.folders import read_folder
from advise_ray.video.annotations.holding_out import hold_out
from advise_ray.video.annotations.listing import ListedVideo, Listing
from advise_ray.video.annotations.lists import read_list


def read(layout: str, videos: str, annotations: Path | None, split: int | None) -> Listing:
    """Read the listing of a data set in one of the formats of `data index`. Only `folder` has no annotations.

    Args:
        split: For `ucf101` and `hmdb51`, the number of the official split (None: the first); for `list`, the number
            in the names of the lists to read.

    Raises:
        UsageError: A file is missing or invalid. The message says which file, and where it was expected.
    """
    if annotations is None:
        return read_folder(videos)
    if layout != "list" and annotations.is_file():
        raise UsageError(f"--annotations: {annotations} is a file; --format {layout} needs the folder of the lists")
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
