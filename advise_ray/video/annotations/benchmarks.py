"""Readers of the published lists of the benchmarks. They accept the usual arrangements of the video files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advise_ray.errors import UsageError
from advise_ray.video.annotations.files import Files, checked
from advise_ray.video.annotations.listing import ListedVideo, Listing, lines, read_json, read_text

OFFICIAL_SPLITS = 3
"""Number of official splits of UCF101 and of HMDB51. A listing keeps all that exist, to evaluate a model on each."""
HMDB51_USES = {"0": None, "1": "train", "2": "test"}


def read_ucf101(videos: str | Path, annotations: Path, split: int) -> Listing:
    """Read UCF101's `classInd.txt`, `trainlist0N.txt` (path and label) and `testlist0N.txt` (only the path).

    Class numbers start at 1 in the files. The class of a video is the folder in its path.
    """
    listing = Listing([])
    numbers = _ucf101_classes(annotations / "classInd.txt", listing)
    listing.classes = _in_order(numbers)
    files, official = Files(videos), _official(lambda number: _ucf101_splits(annotations, number))
    for split_name in ("train", "test"):
        list_file = annotations / f"{split_name}list{split:02d}.txt"
        for number, line in lines(list_file, f"the {split_name} list of split {split}"):
            path, label = _path_and_number(line)
            below, where = files.relative(path), f"{list_file}:{number}"
            class_name = _ucf101_class(below or path)
            if below is not None and class_name not in numbers:
                listing.problems[where] = f"{line!r}: class {class_name!r} is not in classInd.txt"
            elif below is not None and label and int(label) != numbers[class_name]:
                listing.problems[where] = f"{line!r}: the label and the folder are different classes"
            else:
                video = ListedVideo(path, class_name, split_name, official_splits=official.get(path))
                files.place(video, listing, where)
    return checked(listing, files)


def _path_and_number(line: str) -> tuple[str, str]:
    """Split `path 3`. The number is empty if the line is only a path, as in the test lists."""
    found = re.fullmatch(r"(.+?)\s+(\d+)", line)
    return (found[1], found[2]) if found else (line, "")


def _ucf101_class(path: str) -> str:
    """Return the name of the folder that contains the video."""
    return path.rpartition("/")[0].rpartition("/")[2]


def _ucf101_classes(class_list: Path, listing: Listing) -> dict[str, int]:
    """Return the classes' names and their numbers, from 1. Invalid lines are added to the listing's problems."""
    numbers: dict[str, int] = {}
    for where, line in lines(class_list, "the class list"):
        number, *name = line.split(maxsplit=1)
        if name and number.isdecimal() and int(number) > 0 and int(number) not in numbers.values():
            numbers[name[0]] = int(number)
        else:
            listing.problems[f"{class_list}:{where}"] = f"{line!r}: expected a unique number and a class name"
    return numbers


def _in_order(numbers: Mapping[str, int]) -> list[str]:
    """Return the names in the order of their numbers. A number without a name is its own name."""
    names = {number: name for name, number in numbers.items()}
    return [names.get(number, str(number)) for number in range(1, max(names, default=0) + 1)]


def _ucf101_splits(annotations: Path, split: int) -> Iterator[tuple[str, str]]:
    """Yield the paths of an official split with train or test. Missing lists are skipped."""
    for split_name in ("train", "test"):
        list_file = annotations / f"{split_name}list{split:02d}.txt"
        if list_file.is_file():
            for _, line in lines(list_file, f"the {split_name} list of split {split}"):
                yield _path_and_number(line)[0], split_name


def read_hmdb51(videos: str | Path, annotations: Path, split: int) -> Listing:
    """Read HMDB51's `<class>_test_split<N>.txt` with lines `name.avi 1`: 1 is train, 2 is test, 0 is unused.

    Videos that only another official split uses are listed too, with no `split`.
    """
    ending = f"_test_split{split}.txt"
    lists = sorted(annotations.glob(f"*{ending}"))
    if not lists:
        raise UsageError(f"--annotations: no <class>{ending} in {annotations}")
    listing = Listing([path.name.removesuffix(ending) for path in lists])
    files, official = Files(videos), _official(lambda number: _hmdb51_splits(annotations, number))
    for list_file, class_name in zip(lists, listing.classes, strict=True):
        for number, line in lines(list_file, f"the list of {class_name}"):
            name, use = _path_and_number(line)
            where = f"{list_file}:{number}"
            path = f"{class_name}/{name}"
            if use not in HMDB51_USES:
                listing.problems[where] = f"{line!r}: expected a file name and 0, 1 or 2"
            elif use != "0" or any(official.get(path, ())):
                video = ListedVideo(path, class_name, HMDB51_USES[use], official_splits=official.get(path))
                files.place(video, listing, where, any_folder=True)
    return checked(listing, files)


def _hmdb51_splits(annotations: Path, split: int) -> Iterator[tuple[str, str | None]]:
    ending = f"_test_split{split}.txt"
    for list_file in sorted(annotations.glob(f"*{ending}")):
        for _, line in lines(list_file, f"split {split}"):
            name, use = _path_and_number(line)
            yield f"{list_file.name.removesuffix(ending)}/{name}", HMDB51_USES.get(use)


def _official(
    read: Callable[[int], Iterator[tuple[str, str | None]]],
) -> Mapping[str, tuple[str | None, ...]]:
    """Map each listed path to its use (train, test, None) in each official split, up to the last one that exists."""
    every = [dict(read(number)) for number in range(1, OFFICIAL_SPLITS + 1)]
    there = max((number for number, split in enumerate(every, 1) if split), default=0)
    return {path: tuple(split.get(path) for split in every[:there]) for path in set().union(*every)}


def read_diving48(videos: str | Path, annotations: Path) -> Listing:
    """Read Diving48's `Diving48_V2_train.json`, `Diving48_V2_test.json` and `Diving48_vocab.json`.

    Only V2 is supported, because labels of V1 are known to be wrong. A dive lasts from `start_frame` to the frame
    before `end_frame`.
    """
    vocabulary = read_json(annotations / "Diving48_vocab.json", "the names of the dives", list)
    listing = Listing(["+".join(words) if isinstance(words, list) else str(words) for words in vocabulary])
    files = Files(videos)
    for split_name in ("train", "test"):
        list_file = annotations / f"Diving48_V2_{split_name}.json"
        for where, entry in _entries(list_file, f"the {split_name} list (V2)"):
            try:
                label, start, end = (_integer(entry[key]) for key in ("label", "start_frame", "end_frame"))
                video = ListedVideo(f"{entry['vid_name']}.mp4", listing.classes[label], split_name, start, end)
            except (KeyError, OverflowError, TypeError, ValueError):
                listing.problems[where] = f"{entry!r}: expected vid_name, label, start_frame and end_frame"
                continue
            except IndexError:
                listing.problems[where] = f"{entry!r}: label {label} is not in Diving48_vocab.json"
                continue
            if label < 0 or not 0 <= start < end:
                listing.problems[where] = f"{entry!r}: label is below 0, or end_frame is not after start_frame"
            else:
                files.place(video, listing, where, any_folder=True)
    return checked(listing, files)


def _integer(value: Any) -> int:
    """Convert a number or a text to an integer.

    Raises:
        ValueError: The value is not an integer.
    """
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def read_ssv2(videos: str | Path, annotations: Path) -> Listing:
    """Read Something-Something V2's `labels.json`, `train.json`, `validation.json`, `test.json`, `test-answers.csv`.

    The longer names (`something-something-v2-train.json`) work too. The class is the template without the brackets of
    its placeholders. Test videos have labels only if `test-answers.csv` exists.
    """
    labels = read_json(_find_list(annotations, "labels.json"), "the labels", dict)
    try:
        listing = Listing(sorted(labels, key=lambda name: int(labels[name])))
    except (TypeError, ValueError):
        raise UsageError(f"--annotations: {annotations}: a value in labels.json is not a number") from None
    files = Files(videos)
    for split_name, suffix in (("train", "train.json"), ("val", "validation.json"), ("test", "test.json")):
        list_file = _find_list(annotations, suffix)
        if split_name == "test" and not list_file.exists():
            continue
        answers = _answers(annotations, listing) if split_name == "test" else {}
        for where, entry in _entries(list_file, f"the {split_name} list"):
            if not isinstance(entry, dict) or not entry.get("id"):
                listing.problems[where] = f"{entry!r}: no id"
                continue
            template = str(entry.get("template", "")).replace("[", "").replace("]", "")
            class_name = template or answers.get(str(entry["id"])) or None
            if answers and class_name is None:
                listing.problems[where] = f"{entry['id']}: not in test-answers.csv; kept without a label"
            if class_name is not None and class_name not in labels:
                listing.problems[where] = f"{entry['id']}: {class_name!r} is not in labels.json"
            elif class_name is None and split_name != "test":
                listing.problems[where] = f"{entry['id']}: no template"
            else:
                files.place(ListedVideo(f"{entry['id']}.webm", class_name, split_name), listing, where, any_folder=True)
    return checked(listing, files)


def _answers(annotations: Path, listing: Listing) -> dict[str, str]:
    """Read lines such as `1420;Throwing something`, if the file exists. Invalid lines are added to the problems."""
    path, answers = _find_list(annotations, "test-answers.csv"), {}
    if path.exists():
        for number, line in lines(path, "the test answers"):
            video_id, separator, class_name = (part.strip() for part in line.partition(";"))
            if separator:
                answers[video_id] = class_name
            else:
                listing.problems[f"{path}:{number}"] = f"{line!r}: expected ID;CLASS"
    return answers


def read_kinetics(videos: str | Path, annotations: Path) -> Listing:
    """Read Kinetics' `train.csv`, `val.csv` (or `validate.csv`) and `test.csv`.

    The longer names (`kinetics-400_train.csv`) work too. Their columns are label, youtube_id, time_start, time_end and
    split. A video file has the name `<youtube_id>_<start>_<end>.mp4`, with times in seconds and six digits, and may be
    in any folder. The test list may have no labels.
    """
    names = {"train": ("train.csv",), "val": ("val.csv", "validate.csv", "validation.csv"), "test": ("test.csv",)}
    there = {
        split_name: next((path for name in candidates if (path := _find_list(annotations, name)).exists()), None)
        for split_name, candidates in names.items()
    }
    if not any(there.values()):
        raise UsageError(f"--annotations: no train.csv, val.csv or test.csv in {annotations}")
    listing, files = Listing([]), Files(videos)
    classes = set()
    for split_name, list_file in there.items():
        if list_file is None:
            continue
        for number, row in _rows(list_file, f"the {split_name} list"):
            where = f"{list_file}:{number}"
            try:
                start_s, end_s = int(float(row["time_start"])), int(float(row["time_end"]))
                video = f"{row['youtube_id']}_{start_s:06d}_{end_s:06d}.mp4"
            except (KeyError, OverflowError, TypeError, ValueError):
                listing.problems[where] = "expected youtube_id, time_start and time_end"
                continue
            class_name = row.get("label") or None
            if class_name is None and split_name != "test":
                listing.problems[where] = f"{row['youtube_id']}: no label"
                continue
            classes.add(class_name)
            files.place(ListedVideo(video, class_name, split_name), listing, where, any_folder=True)
    listing.classes = sorted(name for name in classes if name is not None)
    return checked(listing, files)


def _rows(path: Path, what: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line numbers and rows of a CSV file with a header. Names are in lower case, values without outer space."""
    reader = csv.DictReader(io.StringIO(read_text(path, what), newline=""), restval="")
    try:
        names = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if missing := {"youtube_id", "time_start", "time_end"} - set(names):
            raise UsageError(
                f"--annotations: {path}: the first line must name the columns label,youtube_id,time_start,time_end; it "
                f"lacks {', '.join(sorted(missing))}"
            )
        for row in reader:
            yield reader.line_num, {name: row[name].strip() for name in names}
    except csv.Error as error:
        raise UsageError(f"--annotations: {path}:{reader.line_num}: {error}") from None


def _find_list(folder: Path, suffix: str) -> Path:
    """Return the file with this name, or a file whose longer name ends with it, after a dash or an underscore."""
    longer = sorted(folder.glob(f"*[-_]{suffix}"))
    if (folder / suffix).exists() or not longer:
        return folder / suffix
    if len(longer) > 1:
        names = ", ".join(path.name for path in longer)
        raise UsageError(f"--annotations: several files for {suffix}: {names}; put those of one data set into a folder")
    return longer[0]


def _entries(path: Path, what: str) -> Iterator[tuple[str, Any]]:
    """Yield `file:entry N` and the entry for each entry of a JSON list."""
    return ((f"{path}:entry {number}", entry) for number, entry in enumerate(read_json(path, what, list), 1))
