from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcycle.data import archive
from medcycle.data.archive import FOLDERS, ArchiveError, unpack
from medcycle.errors import DownloadError

NOISE = np.random.default_rng(0).bytes(3000)


def good(top: str = "horse2zebra/") -> dict[str, bytes]:
    return {f"{top}{folder}/{n}.jpg": NOISE[n : 1000 + n] for folder in FOLDERS for n in (1, 2)}


def zipped(path: Path, members: dict[str, bytes], *extra: tuple[zipfile.ZipInfo, bytes], method: int = 8) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
        for info, content in extra:
            file.writestr(info, content)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(tmp_path: Path, path: Path, match: str) -> None:
    """It is refused before a byte is written, and nothing is beside it."""
    before = files(tmp_path)
    with pytest.raises(ArchiveError, match=match):
        unpack(path, tmp_path / "work" / "out")
    assert files(tmp_path) == before
    assert not (tmp_path / "work" / "out").exists()


@pytest.fixture(autouse=True)
def _work(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()


# --- What is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["horse2zebra/", "another name/", "", "a/b/"])
def test_pictures_are_taken_wherever_the_folders_are(tmp_path, top) -> None:
    unpack(zipped(tmp_path / "a.zip", good(top)), tmp_path / "work" / "out")
    assert files(tmp_path / "work" / "out") == good("")


def test_only_pictures_of_the_four_folders_are_taken(tmp_path) -> None:
    wanted = {f"trainA/{n}": bytes([i]) for i, n in enumerate(["a.JPG", "b.jpeg", "c.png", "d.tif", "e.TIFF", "f.bmp"])}
    others = [
        "x/readme.txt", "x/trainA/Thumbs.db", "x/trainA/run.sh", "x/trainA/noending", "x/trainA/.DS_Store",
        "x/trainA/.hidden.jpg", "x/trainA/.ipynb_checkpoints/1.jpg", "__MACOSX/x/trainA/._a.jpg", "x/valA/1.jpg",
        "y/1.jpg",         "x/trainA/jpg", "x/TRAINA/9.jpg",
    ]  # fmt: skip
    content = good("x/") | {f"x/{name}": data for name, data in wanted.items()} | dict.fromkeys(others, b"no")
    unpack(zipped(tmp_path / "a.zip", content), tmp_path / "work" / "out")
    assert files(tmp_path / "work" / "out") == good("") | wanted


def test_the_authors_photographs_named_by_the_time_of_day(tmp_path, monkeypatch) -> None:
    path = zipped(tmp_path / "a.zip", good() | {"horse2zebra/testB/2013-11-08 16:45:24.jpg": b"1"})
    unpack(path, tmp_path / "work" / "out")
    assert (tmp_path / "work" / "out" / "testB" / "2013-11-08 16:45:24.jpg").read_bytes() == b"1"
    monkeypatch.setattr(archive, "_COLON", "_")  # as on Windows
    unpack(path, tmp_path / "work" / "windows")
    assert (tmp_path / "work" / "windows" / "testB" / "2013-11-08 16_45_24.jpg").read_bytes() == b"1"


def test_a_set_that_needs_fewer_folders(tmp_path) -> None:
    few = {name: data for name, data in good("ae/").items() if "testA" in name}
    path = zipped(tmp_path / "a.zip", few)
    unpack(path, tmp_path / "work" / "out", required=("testA",))
    assert sorted(files(tmp_path / "work" / "out")) == ["testA/1.jpg", "testA/2.jpg"]
    with pytest.raises(ArchiveError, match=r"no place in it holds .*found in: ae/testA"):
        unpack(path, tmp_path / "work" / "other")


def test_pictures_in_deeper_folders_are_not_lost_quietly(tmp_path) -> None:
    refused(
        tmp_path, zipped(tmp_path / "a.zip", good() | {"horse2zebra/trainA/more/3.jpg": b"1"}), "directly in trainA"
    )


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (good("a/") | good("b/"), "several places"),
        (good("a/b/c/"), "no place.*a/b/c/testA"),
        ({name: data for name, data in good().items() if "testB" not in name}, "no place"),
        ({"readme.txt": b"hello"}, "none of such folders"),
        ({}, "none of such folders"),
    ],
)
def test_other_layouts(tmp_path, members, match) -> None:
    refused(tmp_path, zipped(tmp_path / "a.zip", members), match)


# --- What is hostile --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("/etc/trainA/1.jpg", "absolute"),
        ("//host/trainA/1.jpg", "absolute"),
        ("C:/trainA/1.jpg", "absolute"),
        ("c:trainA/1.jpg", "absolute"),
        ("../../trainA/1.jpg", "upwards"),
        ("horse2zebra/trainA/../../../1.jpg", "upwards"),
        ("..", "upwards"),
        ("horse2zebra/../", "upwards"),
        ("horse2zebra/trainA/..\\..\\..\\1.jpg", "backslash"),
        ("horse2zebra\\trainA\\3.jpg", "backslash"),
        ("\\\\host\\share\\3.jpg", "backslash"),
        ("horse2zebra/trainA/a\nb.jpg", "control"),
        ("horse2zebra/trainA/\x1b[31m.jpg", "control"),
        ("horse2zebra/trainA//3.jpg", "no valid name"),
        ("./horse2zebra/trainA/3.jpg", "no valid name"),
        ("horse2zebra/trainA/" + "é" * 130 + ".jpg", "no valid name"),
        ("horse2zebra/trainA/1.JPG", "twice"),
        ("horse2zebra/trainA/1.jpg", "twice"),
        ("HORSE2ZEBRA/trainA/2.jpg", "twice"),
        ("horse2zebra/notes.txt/../../../.bashrc", "upwards"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_lead_elsewhere(tmp_path, name, match) -> None:
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name  # past ZipInfo's own cleaning
    refused(tmp_path, zipped(tmp_path / "a.zip", good(), (info, b"evil")), match)


def test_a_name_cut_by_a_nul(tmp_path) -> None:
    # zipfile reads "3.jpg" here, other programs the whole name: nobody honest writes that.
    path = zipped(tmp_path / "a.zip", good() | {"horse2zebra/trainA/3.jpg!.exe": b"evil"})
    path.write_bytes(path.read_bytes().replace(b"3.jpg!.exe", b"3.jpg\0.exe"))
    refused(tmp_path, path, "control character")


def test_letters_composed_in_two_ways_are_one_name(tmp_path) -> None:
    both = {"x/trainA/\u00e9.jpg": b"1", "x/trainA/e\u0301.jpg": b"2"}
    refused(tmp_path, zipped(tmp_path / "a.zip", good("x/") | both), "twice")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
@pytest.mark.parametrize("system", [0, 3])
def test_links_and_devices(tmp_path, kind, system) -> None:
    info = zipfile.ZipInfo("horse2zebra/trainA/link.jpg")
    info.create_system, info.external_attr = system, (kind | 0o777) << 16
    refused(tmp_path, zipped(tmp_path / "a.zip", good(), (info, b"/etc/passwd")), "link or another special")


def test_a_link_that_would_be_skipped_is_refused_too(tmp_path) -> None:
    info = zipfile.ZipInfo("horse2zebra/valA")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(tmp_path, zipped(tmp_path / "a.zip", good(), (info, b"/")), "link")


def test_an_executable_bit_or_a_plain_folder_is_no_fault(tmp_path) -> None:
    folder, file = zipfile.ZipInfo("horse2zebra/"), zipfile.ZipInfo("horse2zebra/testA/3.jpg")
    folder.external_attr, file.external_attr = (stat.S_IFDIR | 0o777) << 16, (stat.S_IFREG | stat.S_ISUID | 0o777) << 16
    unpack(zipped(tmp_path / "a.zip", good(), (folder, b""), (file, b"3")), tmp_path / "work" / "out")
    written = tmp_path / "work" / "out" / "testA" / "3.jpg"
    assert written.read_bytes() == b"3"
    assert not written.stat().st_mode & 0o7111


def central(data: bytes, name: bytes) -> int:
    """Where the archive's directory has the entry of `name`."""
    at = data.index(b"PK\x01\x02")
    while not data[at + 46 :].startswith(name):
        at = data.index(b"PK\x01\x02", at + 4)
    return at


def patched(path: Path, name: str, offset: int, layout: str, value: int) -> Path:
    """One field of one member's entry in the directory, overwritten."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, central(bytes(data), name.encode()) + offset, value)
    path.write_bytes(data)
    return path


VICTIM = "horse2zebra/trainB/1.jpg"


def test_encrypted(tmp_path) -> None:
    refused(tmp_path, patched(zipped(tmp_path / "a.zip", good()), VICTIM, 8, "<H", 1), "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression(tmp_path, method) -> None:
    refused(tmp_path, zipped(tmp_path / "a.zip", good(), method=method), f"method {method}")


def test_a_bomb_by_ratio(tmp_path) -> None:
    path = zipped(tmp_path / "a.zip", good() | {"horse2zebra/readme.txt": bytes(4_000_000)})
    refused(tmp_path, path, "4 MB packed into .* kB")
    unpack(
        zipped(tmp_path / "b.zip", good() | {"horse2zebra/trainA/even.png": bytes(900_000)}), tmp_path / "work" / "out"
    )


def test_a_bomb_by_sum_and_by_count(tmp_path, monkeypatch) -> None:
    path = zipped(tmp_path / "a.zip", good())
    monkeypatch.setattr(archive, "MOST_BYTES", 7999)
    refused(tmp_path, path, "8 kB")
    monkeypatch.setattr(archive, "MOST_BYTES", 8000)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 7)
    refused(tmp_path, path, "8 members")
    monkeypatch.setattr(archive, "MOST_MEMBERS", 8)
    unpack(path, tmp_path / "work" / "out")


def test_members_that_overlap(tmp_path) -> None:
    # Two names for one body, the first idea of a bomb; and a directory that points before the file.
    path = zipped(tmp_path / "a.zip", good())
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("horse2zebra/trainA/1.jpg").header_offset
    refused(tmp_path, patched(path, "horse2zebra/trainA/2.jpg", 42, "<L", offset), "overlaps")
    quoted = zipped(tmp_path / "b.zip", good())
    with zipfile.ZipFile(quoted) as file:
        size = file.getinfo("horse2zebra/trainA/1.jpg").compress_size
    refused(tmp_path, patched(quoted, "horse2zebra/trainA/1.jpg", 20, "<L", size + 100), "overlaps")


# --- What is damaged --------------------------------------------------------------------------------------------------


def unpack_fails(tmp_path: Path, path: Path, match: str) -> None:
    with pytest.raises(ArchiveError, match=match):
        unpack(path, tmp_path / "work" / "out")


@pytest.mark.parametrize("method", [0, 8])
def test_a_changed_byte_is_noticed(tmp_path, method) -> None:
    path = zipped(tmp_path / "a.zip", good(), method=method)
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(VICTIM)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(VICTIM) + info.compress_size // 2] ^= 0x10
    path.write_bytes(data)
    unpack_fails(tmp_path, path, f"damaged at its member '{VICTIM}'")


@pytest.mark.parametrize("declared", [0, 10, 999, 1001, 100_000])
def test_no_more_and_no_less_than_the_declared_size_is_written(tmp_path, declared) -> None:
    path = patched(zipped(tmp_path / "a.zip", good()), VICTIM, 24, "<L", declared)
    unpack_fails(tmp_path, path, "damaged at its member")
    assert (tmp_path / "work" / "out" / "trainB" / "1.jpg").stat().st_size <= min(declared, 1000)


def test_a_local_header_of_another_name(tmp_path) -> None:
    path = zipped(tmp_path / "a.zip", good())
    data = path.read_bytes()
    at = data.index(VICTIM.encode())
    path.write_bytes(data[:at] + b"../../../../../../x/1.jp" + data[at + len(VICTIM) :])
    unpack_fails(tmp_path, path, "damaged at its member")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            b"<!DOCTYPE html><title>Log in to the hospital network</title>",
            "is no zip. It begins with b'<!DOCTYPE html>",
        ),
        (b"", "is no zip. It begins with b''"),
        (b"PK\x03\x04 and no more", "damaged or incomplete zip"),
        (b"PK\x05\x06" + bytes(18), "none of such folders"),
        (b"x" * 3000 + b"PK\x05\x06" + b"\xff" * 18, "no zip"),
    ],
)
def test_no_zip(tmp_path, content, match) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path, tmp_path / "a.zip", match)


def test_a_zip_cut_anywhere_or_with_any_byte_changed(tmp_path) -> None:
    """Whatever happens to the bytes: an ArchiveError, or exactly the right pictures."""
    path = zipped(tmp_path / "a.zip", {name: data[:40] for name, data in good().items()})
    whole, wanted = path.read_bytes(), {name: data[:40] for name, data in good("").items()}
    number = iter(range(10**6))

    @given(st.integers(0, len(whole) - 1), st.integers(0, 255), st.booleans())
    def check(at: int, value: int, cut: bool) -> None:
        path.write_bytes(whole[:at] if cut else whole[:at] + bytes([value]) + whole[at + 1 :])
        out = tmp_path / "work" / str(next(number))
        try:
            unpack(path, out)
        except ArchiveError:
            return
        found = files(out)
        assert found.items() <= wanted.items()  # a name changed to "1.jqg" is passed over
        assert len(found) >= len(wanted) - 1

    check()
    assert {item.name for item in tmp_path.iterdir()} == {"a.zip", "work"}


# --- The disk ---------------------------------------------------------------------------------------------------------


def test_room_is_looked_for_first(tmp_path, monkeypatch) -> None:
    path = zipped(tmp_path / "a.zip", good())
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 7999})())
    with pytest.raises(DownloadError, match="unpacking needs 8 kB, and only 8 kB are free") as caught:
        unpack(path, tmp_path / "work" / "out")
    assert not isinstance(caught.value, ArchiveError)  # the archive is good: it must not be thrown away
    assert not (tmp_path / "work" / "out").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 8000})())
    unpack(path, tmp_path / "work" / "out")


def test_an_unreadable_archive_is_the_disks_fault(tmp_path) -> None:
    with pytest.raises(OSError):
        unpack(tmp_path / "missing.zip", tmp_path / "work" / "out")


def test_it_writes_over_nothing(tmp_path) -> None:
    (tmp_path / "work" / "out").mkdir()
    with pytest.raises(FileExistsError):
        unpack(zipped(tmp_path / "a.zip", good()), tmp_path / "work" / "out")
