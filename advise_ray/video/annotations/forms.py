"""Detects the format of a plain list: the separator, and the columns of path, label and split."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.video.annotations.files import Files, is_video, suffix_of

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NO_MEANING = frozenset(("", "clip", "clips", "data", "set", "split", "video", "videos"))
"""Words that names of split folders have besides the split."""
COLUMNS = {
    "path": (
        *("path", "video", "video_path", "videopath", "file", "filename", "file_name", "filepath", "file_path", "name"),
        *("video_file", "video_name", "clip", "clip_path", "clip_name", "video_id", "vid", "id", "uri", "url", "src"),
        "source",
    ),
    "label": (
        *("label", "labels", "class", "classes", "class_name", "classname", "category", "action", "label_id"),
        *("class_id", "class_index", "class_label", "label_name", "label_index", "action_label", "target", "y"),
    ),
    "split": ("split", "subset", "set", "partition", "usage", "phase"),
}
"""Usual names of the columns, the clearest names first. `File Name` and `file-name` are `file_name`."""
DELIMITERS = (",", ";", "\t", "|", " ")
"""Separators; " " stands for any white space."""
MOST_LOOKED_AT = 200


def split_of_folder(name: str) -> str | None:
    """Return train, val or test for a folder such as `Train`, `testset`, `train_256` or `videos_val`, or None."""
    words = {re.sub(r"(?<=.)(set|data|\d+)$", "", word) for word in re.split(r"[\W_]+|^\d+", name.lower())}
    words = {word for word in words if word not in NO_MEANING and not word.isdigit()}
    return SPLIT_NAMES.get(words.pop()) if len(words) == 1 else None


@dataclass(frozen=True)
class Form:
    """The positions of the fields in a line: `path`, `label` and `split` are indices below `num_fields`.

    A path may contain the separator if it is the first field. A label may contain it if it is the last of two fields.
    """

    delimiter: str
    num_fields: int = 2
    path: int = 0
    label: int | None = 1
    split: int | None = None
    header_lines: int = 0

    def read(self, line: str, files: Files) -> tuple[str, str | None, str | None]:
        """Return path, label and split of a line. A line that is the path of an existing file has no label.

        Raises:
            ValueError: The line has fewer or more fields than the header.
        """
        if files.find(line) is not None:
            return line, None, None
        fields = self.fields(line, files)
        if len(fields) < self.num_fields and self.header_lines:
            raise ValueError(f"{len(fields)} fields, but the header has {self.num_fields}")
        if len(fields) > self.num_fields and any(fields[self.num_fields :]):  # a comma at the end is no error
            raise ValueError(
                f"{len(fields)} fields, but the header has {self.num_fields}; quote fields that contain separators"
            )
        each = (fields[place] if place is not None and place < len(fields) else None for place in self._places)
        path, label, split = each
        return path or "", label, split

    def path_in(self, line: str, files: Files) -> str | None:
        """Return the file that a line names, or None if it does not exist."""
        try:
            path, _, _ = self.read(line, files)
        except ValueError:
            return None
        return files.find(path) if path else None

    @property
    def _places(self) -> tuple[int, int | None, int | None]:
        return self.path, self.label, self.split

    def fields(self, line: str, files: Files) -> list[str]:
        """Return the fields of a line, without quotes and surrounding space."""
        separator = None if self.delimiter == " " else self.delimiter
        if '"' in line or (self.path and self.num_fields > 2):
            return split_fields(line, self.delimiter)
        if self.path == 0 and self.num_fields == 2:
            fields = _path_and_label(line.rstrip(f"{self.delimiter} "), self.delimiter, files)
            has_blank = self.delimiter != " " and len(fields) == 1 and line.rstrip().endswith(self.delimiter)
            return [*fields, ""] if has_blank else fields
        fields = line.split(separator, 1) if self.path else line.rsplit(separator, self.num_fields - 1)
        if separator and len(fields) > 1 and not fields[-1].strip():
            return split_fields(line, self.delimiter)
        return list(map(_bare, fields))


def split_fields(line: str, delimiter: str) -> list[str]:
    """Return all fields of a line, without quotes and surrounding space.

    Raises:
        UsageError: The line is no text with separators, such as a very long one.
    """
    text = " ".join(line.split()) if delimiter == " " else line
    try:
        return list(map(_bare, next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))))
    except csv.Error as error:
        raise UsageError(f"--annotations: {line[:60]!r}… is not a line of a list: {error}") from None


def _path_and_label(line: str, delimiter: str, files: Files) -> list[str]:
    """Split a line after the longest path that exists, or else that has a video suffix, or else at the last separator.

    Both the path and the label may contain the separator. A line without a separator has no label.
    """
    separators = re.finditer(r"\s+" if delimiter == " " else re.escape(delimiter), line)
    cuts = [(_bare(line[: found.start()]), _bare(line[found.end() :])) for found in separators][::-1]
    exist = (cut for cut in cuts if files.find(cut[0]) is not None)
    have_suffix = (cut for cut in cuts if is_video(cut[0]) and "/" not in cut[1])
    return list(next(exist, None) or next(have_suffix, None) or next(iter(cuts), (_bare(line),)))


def _bare(field: str) -> str:
    return re.sub(r"^'(.+)'$", r"\1", field.strip())


def form_of(lines: Sequence[str], files: Files, where: Path) -> Form:
    """Detect the format of a list from its header, or from the fields that are existing files.

    Raises:
        UsageError: It is not clear which field is the path or the label.
    """
    lines = [line for line in lines if not line.startswith("#") or files.find(line) is not None] or list(lines)
    if not lines:
        return Form(" ")
    if lines[0][0] in "{[":
        raise UsageError(
            f"--annotations: {where} is JSON, but --format list needs lines with a path and a label; convert "
            "it to CSV with the columns path, label and split"
        )
    rows = lines[1 :: max(1, len(lines) // MOST_LOOKED_AT)]
    return _by_header(lines[0], rows, files, where) or _by_files([lines[0], *rows], files, where)


def _by_header(first: str, rows: Sequence[str], files: Files, where: Path) -> Form | None:
    """Return the format that the header tells, or None if the first line is not a header."""
    for delimiter in DELIMITERS:
        written = split_fields(first.lstrip("# "), delimiter)
        names = [re.sub(r"[\W_]+", "_", name.lower()).strip("_") for name in written]
        known = {
            kind: next((names.index(name) for name in every if name in names), None) for kind, every in COLUMNS.items()
        }
        plain = not any("/" in name or suffix_of(name) or name.isdigit() for name in written)
        is_header = plain and (known["path"] is not None or known["label"] is not None)
        if delimiter == " " and len(names) > 1 and rows:  # "File Name,Class Label" has spaces, its rows have none
            is_header &= any(len(split_fields(row, delimiter)) >= len(names) for row in rows)
        if is_header and (len(names) > 1 or not rows or names[0] in COLUMNS["path"]) and files.find(first) is None:
            return _with_header(delimiter, names, known, rows, files, where)
    if not rows or "." in first.replace(suffix_of(first), "") or any(letter.isdigit() for letter in first):
        return None
    form = _by_files(rows, files, where)
    names = form.fields(first, files)
    strange = len(names) == form.num_fields and not suffix_of(names[form.path]) and "/" not in names[form.path]
    if not strange or form.path_in(first, files) is not None or all(form.path_in(row, files) is None for row in rows):
        return None
    labels = [label for row in rows if (label := form.read(row, files)[1])]
    suffixes = all(suffix_of(form.read(row, files)[0]) for row in rows)
    numbers = bool(labels) and all(label.lstrip("-").replace(".", "").isdigit() for label in labels)
    return Form(**{**vars(form), "header_lines": 1}) if suffixes or numbers else None


def _with_header(
    delimiter: str, names: list[str], known: dict[str, int | None], rows: Sequence[str], files: Files, where: Path
) -> Form:
    path, label, split = known["path"], known["label"], known["split"]
    fields = [split_fields(row, delimiter) for row in rows]
    others = [place for place in range(len(names)) if names[place] and place not in (label, split)]
    there = {
        place: sum(len(row) > place and files.find(row[place]) is not None for row in fields if row) for place in others
    }
    if others and (path is None or not there.get(path)) and max(there.values()) > 0:
        path = max(there, key=lambda place: there[place])
    if path is None and len(others) == 1:
        path = others[0]
    if path is None:
        raise UsageError(
            f"--annotations: {where}: no column is clearly the paths ({', '.join(names)}); name that column `path`"
            + ("; use --format kinetics for Kinetics' lists" if "youtube_id" in names else "")
        )
    rest = [place for place in others if place != path]
    if label is None and len(rest) == 1:
        label = rest[0]
    if label is None and rest:
        raise UsageError(
            f"--annotations: {where}: no column is clearly the labels ({', '.join(names)}); name that column `label`"
        )
    num_fields = len(names) if names[-1] else len(names) - 1  # a comma at the end
    return Form(delimiter, num_fields, path, label, split, header_lines=1)


def _by_files(rows: Sequence[str], files: Files, where: Path) -> Form:
    """Return the format with which most lines name an existing file."""
    forms = [
        *(Form(delimiter) for delimiter in DELIMITERS),
        *(Form(delimiter, path=1, label=0) for delimiter in DELIMITERS),
    ]
    counts = [sum(form.path_in(row, files) is not None for row in rows) for form in forms]
    best = max(counts)
    _refuse_more_fields(rows, files, where, best)
    if best:
        return forms[counts.index(best)]
    commas = sum("," in row for row in rows)
    return Form("," if 2 * commas > len(rows) else " ")


def _refuse_more_fields(rows: Sequence[str], files: Files, where: Path, best: int) -> None:
    """Raise UsageError if lines have a path and several numbers, because any of them could be the label."""
    for delimiter in DELIMITERS:
        more = [fields for row in rows if len(fields := split_fields(row.rstrip(f"{delimiter} "), delimiter)) > 2]
        numbers = [
            fields
            for fields in more
            if files.find(fields[0]) is not None and (delimiter != " " or _all_numbers(fields[1:]))
        ]
        if len(numbers) > len(rows) / 2 and len(numbers) >= best:
            last = ["label", "split"] if numbers[0][-1].lower() in SPLIT_NAMES else ["label"]
            names = ["path", *["num_frames"] * (len(numbers[0]) - 1 - len(last)), *last]
            raise UsageError(
                f"--annotations: {where}: lines have {len(numbers[0])} fields ({rows[0]!r}), and it is not clear which "
                f"is the label; add a header, such as {delimiter.join(names)}"
            )


def _all_numbers(fields: Sequence[str]) -> bool:
    return all(field.lstrip("-").replace(".", "", 1).isdigit() for field in fields)
