"""The file layouts of the benchmarks, so that a synthesized data set can replace each of them in tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placed:
    """A video of a synthesized data set: its path below the videos' folder, its class, and its split (train, test)."""

    path: str
    label: int
    class_name: str
    split: str

    @property
    def stem(self) -> str:
        return self.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


@dataclass(frozen=True)
class Layout:
    """The paths and the annotation files of a layout.

    Attributes:
        path: Returns a video's path below the videos' folder from the class name, the number of the video within its
            class, and its number in the data set.
        texts: Returns a mapping of the lists' file names to their texts.
        videos: Folder of the videos below the folder of the data set.
        lists: Folder of the lists below the folder of the data set.
    """

    path: Callable[[str, int, int], str]
    texts: Callable[[Sequence[Placed], Sequence[str]], dict[str, str]]
    videos: str = "videos"
    lists: str = "."


def _lines(rows: Sequence[str], end: str = "\n") -> str:
    return "".join(row + end for row in rows)


def _in_split(placed: Sequence[Placed], split: str) -> list[Placed]:
    return [video for video in placed if video.split == split]


def _ucf101(placed: Sequence[Placed], classes: Sequence[str]) -> dict[str, str]:
    return {
        "classInd.txt": _lines([f"{label} {name}" for label, name in enumerate(classes, 1)], "\r\n"),
        "trainlist01.txt": _lines([f"{video.path} {video.label + 1}" for video in _in_split(placed, "train")], "\r\n"),
        "testlist01.txt": _lines([video.path for video in _in_split(placed, "test")], "\r\n"),
    }


def _hmdb51(placed: Sequence[Placed], classes: Sequence[str]) -> dict[str, str]:
    uses = {"train": 1, "test": 2}
    return {
        f"{name}_test_split1.txt": _lines(
            [f"{video.stem}.avi {uses[video.split]} " for video in placed if video.class_name == name]
        )
        for name in classes
    }


def _diving48(placed: Sequence[Placed], classes: Sequence[str]) -> dict[str, str]:
    """Write the lists of Diving48. About a quarter of a second at both ends of a video is not part of the dive."""
    texts = {"Diving48_vocab.json": json.dumps([["Back", name, "NoTwis", "PIKE"] for name in classes])}
    for split in ("train", "test"):
        rows = [
            {"vid_name": video.stem, "label": video.label, "start_frame": 8, "end_frame": 112}
            for video in _in_split(placed, split)
        ]
        texts[f"Diving48_V2_{split}.json"] = json.dumps(rows)
    return texts


def _ssv2(placed: Sequence[Placed], classes: Sequence[str]) -> dict[str, str]:
    texts = {"labels.json": json.dumps({f"Moving something {name}": str(i) for i, name in enumerate(classes)})}
    for split, name in (("train", "train"), ("test", "validation")):
        rows = [
            {
                "id": video.stem,
                "label": f"moving a disc {video.class_name}",
                "template": f"Moving [something] {video.class_name}",
                "placeholders": ["a disc"],
            }
            for video in _in_split(placed, split)
        ]
        texts[f"{name}.json"] = json.dumps(rows)
    return texts


def _kinetics(placed: Sequence[Placed], _classes: Sequence[str]) -> dict[str, str]:
    texts = {}
    for split, name in (("train", "train"), ("test", "val")):
        rows = [f"{video.class_name},{video.stem[:11]},10,14,{name}" for video in _in_split(placed, split)]
        texts[f"{name}.csv"] = _lines(["label,youtube_id,time_start,time_end,split", *rows], "\r\n")
    return texts


def _list(placed: Sequence[Placed], _classes: Sequence[str]) -> dict[str, str]:
    return {
        f"{split}.txt": _lines([f"{video.path} {video.label}" for video in _in_split(placed, split)])
        for split in ("train", "test")
    }


LAYOUTS = {
    "folder": Layout(lambda name, group, number: f"{name}/{number:05d}.mp4", lambda placed, classes: {}, videos="."),
    "list": Layout(lambda name, group, number: f"{number:05d}.mp4", _list),
    "ucf101": Layout(
        lambda name, group, number: f"{name}/v_{name}_g{group + 1:02d}_c01.mp4", _ucf101, lists="ucfTrainTestlist"
    ),
    "hmdb51": Layout(
        lambda name, group, number: f"{name}/{name}_{number:05d}.mp4", _hmdb51, lists="testTrainMulti_7030_splits"
    ),
    "diving48": Layout(lambda name, group, number: f"{number:05d}.mp4", _diving48, videos="rgb"),
    "ssv2": Layout(lambda name, group, number: f"{number + 1}.mp4", _ssv2, lists="labels"),
    "kinetics": Layout(lambda name, group, number: f"{name}/{number:011d}_000010_000014.mp4", _kinetics),
}
"""Layouts by the names of `data index --format`. All files are .mp4, also if the lists have other suffixes, as in many
converted data sets."""
