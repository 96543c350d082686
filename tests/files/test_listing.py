import logging
import os
from pathlib import Path

import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.listing import fingerprint, list_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_order_is_that_of_sorted_paths(tmp_path):
    """Iterator states of runs on disk are indices into it."""
    touch(
        tmp_path,
        "b.png",
        "b/2.png",
        "b/10.PNG",
        "b-c/1.jpg",
        "b c/1.webp",
        "a.jpeg",
        "b/deep/1.png",
        "b/deep.png",
        "é/1.png",
    )
    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert list_images(tmp_path) == [path.as_posix() for path in paths]


def test_what_is_no_image_of_the_user_is_left_out(tmp_path, caplog):
    touch(tmp_path, "a/1.png", ".hidden/1.png", "a/._1.png", "__MACOSX/a/1.png", "a/1.txt", "png", "x.png/in a folder.jpg")
    touch(tmp_path, "drawn/samples.json", "drawn/grid.png", "drawn/animation.webp", "drawn/animation.gif", "drawn/1.png")
    assert list_images(tmp_path) == ["a/1.png", "drawn/1.png", "x.png/in a folder.jpg"]
    assert not caplog.records
    touch(tmp_path, "a/grid.png")
    assert list_images(tmp_path) == ["a/1.png", "drawn/1.png", "x.png/in a folder.jpg"]
    (record,) = caplog.records
    assert "a/grid.png" in record.getMessage() and "drawn" not in record.getMessage()


def test_grids_of_a_workdir_are_left_out(tmp_path, caplog):
    run = ("config.json", "checkpoints/5/x", "samples.png", "denoising.png", "samples/step_0000005.png")
    touch(tmp_path, *(f"run/{name}" for name in run), "run/more/samples.json", "run/more/grid.png", "run/more/000000.png")
    touch(tmp_path, "photos/samples/step_0000005.png", "photos/samples.png")
    assert list_images(tmp_path / "run") == ["more/000000.png"]
    assert list_images(tmp_path) == ["photos/samples/step_0000005.png", "photos/samples.png", "run/more/000000.png"]
    with pytest.raises(InputError, match="samples' holds no image"):
        list_images(tmp_path / "run" / "samples")
    touch(tmp_path, "run/samples/of mine.png", "run/samples/samples.json", "run/samples/grid.png")  # drawn there, too
    assert list_images(tmp_path / "run" / "samples") == ["of mine.png"]
    assert not caplog.records


def test_links_are_followed_but_not_around(tmp_path, caplog):
    touch(tmp_path, "elsewhere/1.png", "root/a/1.png")
    root = tmp_path / "root"
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "a" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(root)
    for folder in (root, tmp_path / "link"):
        assert list_images(folder) == ["a/1.png", "b/1.png", "c.png"]
    assert not caplog.records
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "d").symlink_to(root / "d")
    os.mkfifo(root / "pipe.png")
    assert list_images(root) == ["a/1.png", "b/1.png", "c.png"]
    (record,) = caplog.records
    assert "lead nowhere: d, gone.png" in record.getMessage()


def test_depth_has_no_limit_but_the_file_systems(tmp_path):
    folders = [tmp_path]
    for _ in range(1200):
        folders.append(folders[-1] / "d")
        os.mkdir(folders[-1])
    touch(folders[-1], "x.png")
    try:
        assert list_images(tmp_path) == ["d/" * 1200 + "x.png"]
    finally:  # shutil.rmtree, by which pytest tidies up, recurses before Python 3.13
        os.remove(folders[-1] / "x.png")
        for folder in reversed(folders[1:]):
            os.rmdir(folder)


def test_folders_that_cannot_be_read_are_refused_by_name(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "locked/1.png")
    scandir = os.scandir

    def forbidding(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    with pytest.raises(InputError, match="locked' cannot be read: Permission denied"):
        list_images(tmp_path)


def test_other_suffixes_are_counted(tmp_path, caplog):
    touch(tmp_path, "a/1.bmp", "a/2.BMP", "b/3.tiff")
    with pytest.raises(InputError, match=r"holds no image.*but 2 \.bmp, 1 \.tiff, which are not read; convert them"):
        list_images(tmp_path)
    touch(tmp_path, "a/1.png")
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        assert list_images(tmp_path) == ["a/1.png"]
    assert "2 .bmp, 1 .tiff" in caplog.records[-1].getMessage()


def test_names_may_be_any_bytes(tmp_path, caplog):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    (tmp_path / "two\nlines.png").symlink_to(tmp_path / "nowhere")
    (path,) = paths = list_images(tmp_path)
    assert os.fsencode(path) == b"caf\xe9.png" and fingerprint(tmp_path, paths)
    assert "\n" not in caplog.records[0].getMessage()


def test_a_fingerprint_changes_with_the_images_and_their_list(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png")
    paths = list_images(tmp_path)
    found = {fingerprint(tmp_path, paths), fingerprint(tmp_path, paths[:1])}
    touch(tmp_path, "notes.txt", "a/.hidden.png")
    assert fingerprint(tmp_path, list_images(tmp_path)) in found
    os.utime(tmp_path / "a" / "1.png", ns=(0, 0))
    found.add(fingerprint(tmp_path, paths))
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "0.png")
    found.add(fingerprint(tmp_path, list_images(tmp_path)))
    (tmp_path / "a" / "0.png").write_bytes(b"x")
    os.utime(tmp_path / "a" / "0.png", ns=(0, 0))
    found.add(fingerprint(tmp_path, list_images(tmp_path)))
    assert len(found) == 5
