from __future__ import annotations

import errno
import hashlib
import io
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medcycle.data import disk
from medcycle.data.archive import FOLDERS, ArchiveError
from medcycle.data.download import DATASETS, download
from medcycle.errors import ConfigError, DownloadError

NAME = "horse2zebra"
NOISE = np.random.default_rng(0).bytes(20_000)
PICTURES = {f"{folder}/{n}.jpg": NOISE[n : 9000 + n] for folder in FOLDERS for n in (1, 2)}


def archive(
    *extra: tuple[zipfile.ZipInfo, bytes], top: str = f"{NAME}/", pictures: dict[str, bytes] = PICTURES
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in pictures.items():
            opened.writestr(zipfile.ZipInfo(top + name), content)
        for info, content in extra:
            opened.writestr(info, content)
    return file.getvalue()


GOOD = archive()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WHOLE = {f"{NAME}/{name}": content for name, content in PICTURES.items()}
RECORD = {f"{NAME}.sha256": f"{sha(GOOD)}  {NAME}.zip\n".encode()}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcycle.data.fetch.PAUSES", (0.0,) * 4)
    monkeypatch.setattr("medcycle.data.fetch._BLOCK", 4096)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """A folder that does not exist yet; a file beside it must not be touched."""
    (tmp_path / "outside.jpg").write_bytes(b"mine")
    return tmp_path / "data"


# --- The sets ---------------------------------------------------------------------------------------------------------


def test_the_sets_of_the_paper_by_name() -> None:
    assert set(DATASETS) == {
        "apple2orange", "summer2winter_yosemite", "horse2zebra", "monet2photo", "cezanne2photo", "ukiyoe2photo",
        "vangogh2photo", "maps", "cityscapes", "facades", "iphone2dslr_flower", "ae_photos", "grumpifycat",
    }  # fmt: skip
    for name, dataset in DATASETS.items():
        room = "CUT" if name == "grumpifycat" else "cyclegan"
        assert dataset.url == f"http://efrosgans.eecs.berkeley.edu/{room}/datasets/{name}.zip"
        assert dataset.description
    assert DATASETS["ae_photos"].folders == ("testA",)
    assert all(dataset.folders == FOLDERS for name, dataset in DATASETS.items() if name != "ae_photos")


@pytest.mark.parametrize(
    ("name", "near"),
    [("horse2zebras", "horse2zebra"), ("Maps", "maps"), ("../maps", "maps"), ("monet", None), ("", None)],
)
def test_an_unknown_name(to, name, near) -> None:
    with pytest.raises(ConfigError, match="Any two folders of your own need no download") as caught:
        download(name, to)
    assert all(known in str(caught.value) for known in DATASETS)
    assert (f"Did you mean {near}?" in str(caught.value)) == (near is not None)
    assert not to.exists()


# --- The whole way ----------------------------------------------------------------------------------------------------


def test_it_is_downloaded_checked_and_in_place(web, to) -> None:
    web.content = GOOD
    seen: list[tuple[int, int | None]] = []
    assert (
        download(NAME, to, url=web.url, sha256=sha(GOOD).upper(), progress=lambda *now: seen.append(now)) == to / NAME
    )
    assert files(to) == WHOLE | RECORD  # and no part, no lock, no temporary folder
    assert {path.name for path in to.iterdir()} == {NAME, f"{NAME}.sha256"}
    assert seen[-1] == (len(GOOD), len(GOOD))


def test_interrupted_twice_it_ends_complete_and_verified(web, to) -> None:
    web.content = GOOD
    for stop in (10_000, 40_000):

        def press(done: int, total: int | None, stop: int = stop) -> None:
            if done >= stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            download(NAME, to, url=web.url, progress=press)
        assert {path.name for path in to.iterdir()} == {f".{NAME}.zip.part", f".{NAME}.zip.part.json"}
    assert download(NAME, to, url=web.url, sha256=sha(GOOD)) == to / NAME
    assert files(to) == WHOLE | RECORD
    assert web.starts[0] == 0
    assert 10_000 <= web.starts[1] < 40_000 <= web.starts[2]


def test_what_is_there_needs_no_network(web, to) -> None:
    web.content = GOOD
    download(NAME, to, url=web.url)
    web.asked.clear()
    for sum_ in (None, sha(GOOD)):
        assert download(NAME, str(to), url="http://127.0.0.1:9/none.zip", sha256=sum_) == to / NAME
    assert web.asked == []
    assert files(to) == WHOLE | RECORD


def test_a_part_left_beside_a_finished_set_is_removed(web, to) -> None:
    web.content = GOOD
    download(NAME, to, url=web.url)
    (to / f".{NAME}.zip.part").write_bytes(GOOD)  # killed between the last two steps
    assert download(NAME, to, url="http://127.0.0.1:9/none.zip") == to / NAME
    assert files(to) == WHOLE | RECORD


def test_something_else_in_its_place(web, to) -> None:
    web.content = GOOD
    (to / NAME / "trainA").mkdir(parents=True)
    (to / NAME / "trainA" / "1.jpg").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="without pictures in trainB, testA, testB"):
        download(NAME, to, url=web.url)
    assert files(to) == {f"{NAME}/trainA/1.jpg": b"mine"}
    assert web.asked == []


def test_an_empty_folder_in_its_place_is_none(web, to) -> None:
    web.content = GOOD
    (to / NAME).mkdir(parents=True)
    download(NAME, to, url=web.url)
    assert files(to) == WHOLE | RECORD


def test_photographs_without_a_second_domain(web, to) -> None:
    few = {name: content for name, content in PICTURES.items() if name.startswith("testA")}
    web.content = archive(top="ae_photos/", pictures=few)
    assert download("ae_photos", to, url=web.url) == to / "ae_photos"
    assert download("ae_photos", to) == to / "ae_photos"
    with pytest.raises(ArchiveError, match="no place in it holds"):
        download(NAME, to, url=web.url)


# --- Checksums --------------------------------------------------------------------------------------------------------


def test_a_sum_that_differs_leaves_nothing(web, to) -> None:
    web.content = GOOD
    with pytest.raises(DownloadError, match=rf"SHA-256 is {sha(GOOD)}, but --sha256 says {'0' * 64}.*--url"):
        download(NAME, to, url=web.url, sha256="0" * 64)
    assert not to.exists()


def test_the_recorded_sum_holds_from_then_on(web, to) -> None:
    web.content = GOOD
    download(NAME, to, url=web.url)
    for folder in FOLDERS:
        for file in (to / NAME / folder).iterdir():
            file.unlink()
        (to / NAME / folder).rmdir()
    web.content, web.etag = archive(pictures=PICTURES | {"trainA/3.jpg": b"new"}), '"two"'
    with pytest.raises(DownloadError, match=rf"{sha(web.content)}, but .*{NAME}.sha256 says {sha(GOOD)}"):
        download(NAME, to, url=web.url)
    assert files(to) == RECORD  # the record stays, the archive does not
    with pytest.raises(DownloadError, match=f"--sha256 {sha(web.content)} differs from {sha(GOOD)}"):
        download(NAME, to, url=web.url, sha256=sha(web.content))
    web.content, web.etag = GOOD, '"one"'
    download(NAME, to, url=web.url)
    assert files(to) == WHOLE | RECORD


def test_what_is_there_is_not_said_to_match_another_sum(web, to) -> None:
    web.content = GOOD
    download(NAME, to, url=web.url)
    with pytest.raises(DownloadError, match="differs from"):
        download(NAME, to, sha256="0" * 64)
    (to / f"{NAME}.sha256").unlink()
    with pytest.raises(DownloadError, match="cannot be checked"):
        download(NAME, to, sha256=sha(GOOD))
    assert download(NAME, to) == to / NAME


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, sha(b"") + "0", sha(b"") + "\n"])
def test_no_sum(to, sha256) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        download(NAME, to, sha256=sha256)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe\x00", sha(b"").encode()])
def test_no_record(web, to, content) -> None:
    to.mkdir()
    (to / f"{NAME}.sha256").write_bytes(content)
    with pytest.raises(DownloadError, match="no record of a checksum"):
        download(NAME, to, url=web.url)
    assert files(to) == {f"{NAME}.sha256": content}


# --- Archives that are refused ----------------------------------------------------------------------------------------


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr = name, mode << 16
    return info


def changed(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (archive((member("../outside.jpg"), b"evil")), "leads upwards"),
        (archive((member("/tmp/outside.jpg"), b"evil")), "absolute"),
        (archive((member(f"{NAME}/trainA/x.jpg", stat.S_IFLNK | 0o777), b"../../../outside.jpg")), "link"),
        (archive((member(f"{NAME}/trainA/1.JPG"), b"evil")), "twice"),
        (changed(GOOD), "damaged at its member"),
        (GOOD[:-30], "damaged or incomplete zip"),
        (b"<html>Please log in</html>", "no zip. It begins with b'<html>"),
        (archive(pictures={"trainA/1.jpg": b"1"}), "no place in it holds"),
    ],
    ids=["up", "absolute", "link", "twice", "tampered", "cut", "page", "folders"],
)
def test_an_archive_that_is_refused_leaves_nothing(web, to, content, match) -> None:
    web.content = content
    with pytest.raises(DownloadError, match=rf"^{web.url}: .*{match}.*The download was removed"):
        download(NAME, to, url=web.url)
    assert not to.exists()
    assert files(to.parent) == {"outside.jpg": b"mine"}
    web.content, web.etag = GOOD, '"mended"'
    download(NAME, to, url=web.url)
    assert files(to) == WHOLE | RECORD


# --- A zip on disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}", "file:{}"])
def test_a_zip_on_disk(to, tmp_path, form) -> None:
    local = tmp_path / "by hand.zip"
    local.write_bytes(GOOD)
    address = form.format(str(local).replace(" ", "%20") if form != "{}" else local)
    assert download(NAME, to, url=address, sha256=sha(GOOD)) == to / NAME
    assert files(to) == WHOLE | RECORD
    assert local.read_bytes() == GOOD


def test_an_archive_of_another_set_is_warned_of(to, tmp_path) -> None:
    (tmp_path / "my.zip").write_bytes(GOOD)
    with pytest.warns(UserWarning, match=r"my\.zip: its pictures lie in a folder horse2zebra, and .* for apple2orange"):
        download("apple2orange", to, url=str(tmp_path / "my.zip"))
    (tmp_path / "own.zip").write_bytes(archive(top="anything/"))
    download("maps", to, url=str(tmp_path / "own.zip"))  # warnings are errors here


def test_a_bad_zip_on_disk_stays(to, tmp_path) -> None:
    local = tmp_path / "by hand.zip"
    local.write_bytes(changed(GOOD))
    with pytest.raises(DownloadError, match=rf"^{local}: damaged"):
        download(NAME, to, url=str(local))
    with pytest.raises(DownloadError, match=rf"^{local}: refused: its SHA-256"):
        download(NAME, to, url=str(local), sha256=sha(GOOD))
    assert local.read_bytes() == changed(GOOD)
    assert not to.exists()


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/a.zip", "s3://bucket/a.zip", "file://host/a.zip", "//", "x.zip", "/tmp"]
)
def test_other_addresses(to, url) -> None:
    with pytest.raises((ConfigError, DownloadError), match=r"fetched by http:|no such file"):
        download(NAME, to, url=url)
    assert not to.exists()


# --- The disk ---------------------------------------------------------------------------------------------------------


def test_a_disk_without_room(web, to, monkeypatch) -> None:
    web.content = GOOD
    rooms = iter([len(GOOD) - 1])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": next(rooms)})())
    with pytest.raises(DownloadError, match="the download needs"):
        download(NAME, to, url=web.url)
    assert not to.exists()
    rooms = iter([len(GOOD), 71_999])
    with pytest.raises(DownloadError, match="unpacking needs 72 kB"):
        download(NAME, to, url=web.url)
    assert files(to).keys() == {f".{NAME}.zip.part", f".{NAME}.zip.part.json"}
    rooms = iter([72_000])  # it has been downloaded: no request, no room for it
    download(NAME, to, url=web.url)
    assert len(web.asked) == 2
    assert files(to) == WHOLE | RECORD


def test_a_disk_that_gets_full_while_unpacking(web, to, monkeypatch) -> None:
    web.content = GOOD
    opened = Path.open

    def full(self: Path, mode: str = "r", **kwargs):
        if mode == "xb" and self.name == "2.jpg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DownloadError, match="disk is full"):
            download(NAME, to, url=web.url)
    assert {path.name for path in to.iterdir()} == {f".{NAME}.zip.part", f".{NAME}.zip.part.json"}
    download(NAME, to, url=web.url)
    assert files(to) == WHOLE | RECORD
    assert len(web.asked) == 1


def test_a_place_that_cannot_be_written(web, tmp_path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DownloadError, match=r"file: is a file, not a folder\. Choose another folder"):
            download(NAME, place, url=web.url)


def test_what_cannot_be_had_leaves_no_folder(to) -> None:
    with pytest.raises(DownloadError, match="no such file"):
        download(NAME, to / "sets" / "here", url="missing.zip")
    assert not to.exists()
    (to / "sets").mkdir(parents=True)
    with pytest.raises(DownloadError, match="no such file"):
        download(NAME, to / "sets", url="missing.zip")
    assert (to / "sets").is_dir()  # which was there before


# --- Killed, and two at once ------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from medcycle.data.download import download
import medcycle.data.fetch as fetch
fetch._BLOCK = 4096
download({name!r}, sys.argv[1], url=sys.argv[2])
"""


def started(to: Path, url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT.format(name=NAME), str(to), url], stderr=subprocess.PIPE)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_while_another_waits_and_then_gone_on_with(web, to) -> None:
    web.content, web.stalls = GOOD, [30_000]
    process = started(to, web.url)
    part = to / f".{NAME}.zip.part"
    try:
        wait_for(lambda: web.asked)
        wait_for(lambda: part.exists())
        with pytest.raises(DownloadError, match="another medcycle is downloading"):  # and it does not disturb the first
            download(NAME, to, url=web.url)
        assert len(web.asked) == 1
        # The bytes that the file object still buffers die with the process.
        wait_for(lambda: part.stat().st_size > 20_000)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    there = part.stat().st_size
    assert 20_000 < there <= 30_000
    assert part.read_bytes() == GOOD[:there]
    unpacking = to / f".{NAME}.unpacking"  # as if it had been killed once more, while unpacking
    (unpacking / "trainA").mkdir(parents=True)
    (unpacking / "trainA" / "9.jpg").touch()
    assert (to / f".{NAME}.lock").exists()  # the file; the lock went with the process
    download(NAME, to, url=web.url)
    assert web.starts == [0, there]
    assert files(to) == WHOLE | RECORD
    assert {path.name for path in to.iterdir()} == {NAME, f"{NAME}.sha256"}


def test_two_sets_at_once(web, to) -> None:
    web.content = GOOD
    to.mkdir()
    with disk.alone(to / ".maps.lock"):
        download(NAME, to, url=web.url)
        with pytest.raises(DownloadError, match="another medcycle"):
            download("maps", to, url=web.url)


def test_it_was_finished_while_this_one_waited_for_nothing(web, to, monkeypatch) -> None:
    """Between the first look and the lock another process finishes: nothing is downloaded again."""
    web.content = GOOD
    alone = disk.alone

    def finished_before(lock: Path):
        monkeypatch.setattr("medcycle.data.download.alone", alone)
        download(NAME, to, url=web.url)
        return alone(lock)

    monkeypatch.setattr("medcycle.data.download.alone", finished_before)
    download(NAME, to, url=web.url)
    assert len(web.asked) == 1
    assert files(to) == WHOLE | RECORD
