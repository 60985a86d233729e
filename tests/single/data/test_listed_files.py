"""Lists of image files: order, bad rows, and nothing from outside."""

from pathlib import Path

import numpy as np
import pytest

from app.data.bad import BadExamples
from app.data.sources.folders import list_files
from app.errors import UserError
from tests.single.data.making import make


def listed(folder: Path, rows: list[str], root: Path | None = None, policy="error"):
    bad = BadExamples(policy)
    wheres = [f"list.csv, line {number + 2}" for number in range(len(rows))]
    labels = np.arange(len(rows)) * 10
    return list_files(folder / "list.csv", root or folder, rows, labels, wheres, bad), bad


def test_listed_files_keep_the_order_and_the_names_of_the_rows(tmp_path: Path) -> None:
    make(tmp_path, "b/2.jpg", "a/1.jpg", "0.png")
    rows = ["b/2.jpg", "./a/../a/1.jpg", str(tmp_path / "0.png"), "b/2.jpg"]
    files, bad = listed(tmp_path, rows)
    assert files.paths.tolist() == ["b/2.jpg", "a/1.jpg", "0.png", "b/2.jpg"]
    assert files.labels.tolist() == [0, 10, 20, 30] and files.labels.dtype == np.int64
    assert files.where(1) == f"list.csv, line 3: {tmp_path / 'a/1.jpg'}"
    assert files.read(np.array([1, 2])) == [b"pixels of a/1.jpg", b"pixels of 0.png"]
    assert not bad.found


def test_listed_paths_start_from_the_folder_of_the_list(tmp_path: Path) -> None:
    make(tmp_path, "images/1.jpg", "lists/")
    files, _ = listed(tmp_path / "lists", ["../images/1.jpg"], root=tmp_path)
    assert files.paths.tolist() == ["images/1.jpg"]
    assert files.read(np.array([0])) == [b"pixels of images/1.jpg"]


@pytest.mark.parametrize("row", ["gone.jpg", "no/1.jpg", "sub", ".", "", "1.jpg\0", "\ud800/1.jpg"])
def test_a_row_without_a_file_is_bad_and_its_label_is_left_out(tmp_path: Path, row: str) -> None:
    make(tmp_path, "1.jpg", "2.jpg", "sub/")
    with pytest.raises(UserError, match="list.csv, line 3: no file '"):
        listed(tmp_path, ["1.jpg", row, "2.jpg"])
    files, bad = listed(tmp_path, ["1.jpg", row, "2.jpg"], policy="skip")
    assert files.paths.tolist() == ["1.jpg", "2.jpg"]
    assert files.labels.tolist() == [0, 20]
    assert files.where(1).startswith("list.csv, line 4: ")
    assert [(one.where, one.reason) for one in bad.found] == [
        ("list.csv, line 3", f"no file '{row}' in {tmp_path}")
    ]


def test_rows_that_are_all_bad_leave_no_files(tmp_path: Path) -> None:
    files, _ = listed(tmp_path, ["1.jpg"], policy="skip")
    assert len(files) == 0 and files.labels.dtype == np.int64


@pytest.mark.parametrize(
    "row",
    [
        "../secret/1.jpg",
        "../secret/gone.jpg",
        "..",
        "sub/../../secret/1.jpg",
        "/etc/passwd",
        "file-link.jpg",
        "folder-link/1.jpg",
        "folder-link/../1.jpg",
        "../pets-private/1.jpg",
    ],
)
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_row_that_leads_outside_ends_the_run(tmp_path: Path, row: str, policy) -> None:
    make(tmp_path, "secret/1.jpg", "1.jpg", "pets-private/1.jpg")
    root = make(tmp_path / "pets", "1.jpg", "sub/1.jpg")
    (root / "file-link.jpg").symlink_to(tmp_path / "secret" / "1.jpg")
    (root / "folder-link").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError) as caught:
        listed(root, ["1.jpg", row], policy=policy)
    assert str(caught.value).startswith(
        f"list.csv, line 3: '{row}' is outside {root}: nothing outside the given directory is read"
    )


def test_listed_links_inside_are_followed_and_circles_are_bad(tmp_path: Path) -> None:
    make(tmp_path, "real/1.jpg")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "one.jpg").symlink_to("real/1.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    files, bad = listed(tmp_path, ["folder/1.jpg", "one.jpg", "circle.jpg"], policy="skip")
    assert files.read(np.arange(2)) == [b"pixels of real/1.jpg"] * 2
    assert [one.where for one in bad.found] == ["list.csv, line 4"]
