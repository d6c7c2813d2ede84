from __future__ import annotations

import errno
import hashlib
import io
import json
import socket
from pathlib import Path

import numpy as np
import pytest

from medcycle.data import fetch as module
from medcycle.data.fetch import discard, fetch
from medcycle.errors import DownloadError

CONTENT = np.random.default_rng(1).bytes(50_000)
OTHER = np.random.default_rng(2).bytes(50_000)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    monkeypatch.setattr(module, "_BLOCK", 4096)
    return made


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / ".a.zip.part"


def leave(part: Path, web, have: int) -> None:
    """What an earlier sitting leaves that was cut for good after `have` bytes."""
    web.cuts = [have] + [0] * 9
    with pytest.raises(DownloadError, match="cut 5 times"):
        fetch(web.url, part)
    web.cuts.clear()
    web.asked.clear()
    assert part.stat().st_size == have


def test_one_sitting(web, part) -> None:
    web.content = CONTENT
    seen: list[tuple[int, int | None]] = []
    assert fetch(web.url, part, progress=lambda *now: seen.append(now)) == sha(CONTENT)
    assert part.read_bytes() == CONTENT
    assert seen[0] == (0, 50_000)
    assert seen[-1] == (50_000, 50_000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert "range" not in web.asked[0]
    assert web.asked[0]["user-agent"] == "medcycle"
    assert web.asked[0]["accept-encoding"] == "identity"


def test_what_is_complete_costs_no_request(web, part) -> None:
    web.content = CONTENT
    fetch(web.url, part)
    seen: list[tuple[int, int | None]] = []
    assert fetch(web.url, part, progress=lambda *now: seen.append(now)) == sha(CONTENT)
    assert len(web.asked) == 1
    assert seen == [(50_000, 50_000)]


def test_cuts_are_taken_up_again_where_they_were(web, part, pauses) -> None:
    web.content, web.cuts = CONTENT, [10_000, 5_000, 0]
    assert fetch(web.url, part) == sha(CONTENT)
    assert part.read_bytes() == CONTENT
    assert web.starts == [0, 10_000, 15_000, 15_000]
    assert [headers.get("if-range") for headers in web.asked] == [None, '"one"', '"one"', '"one"']
    assert pauses == [1.0, 1.0, 2.0]  # the second came further, the third did not


def test_too_many_cuts_end_the_sitting_and_the_next_one_goes_on(web, part, pauses) -> None:
    web.content, web.cuts = CONTENT, [5_000] + [0] * 4
    with pytest.raises(
        DownloadError, match=r"cut 5 times in a row .*5 kB of 50 kB are there, and the same command goes on.* Ask"
    ):
        fetch(web.url, part, hint="Ask elsewhere.")
    assert len(web.asked) == 5
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert part.read_bytes() == CONTENT[:5_000]
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts[-1] == 5_000


def test_a_server_that_sends_a_little_at_a_time_gets_it_through(web, part, pauses) -> None:
    web.content, web.cuts = CONTENT, [5_000] * 9
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts == list(range(0, 50_000, 5_000))
    assert pauses == [1.0] * 9


def test_a_server_that_begins_anew_and_never_comes_further_is_given_up(web, part) -> None:
    web.content, web.ranges, web.cuts = CONTENT, False, [5_000] * 30
    with pytest.raises(DownloadError, match="cut 5 times in a row"):
        fetch(web.url, part)
    assert len(web.asked) == 5


def test_a_server_without_ranges(web, part) -> None:
    web.content, web.ranges, web.cuts = CONTENT, False, [10_000]
    assert fetch(web.url, part) == sha(CONTENT)
    assert part.read_bytes() == CONTENT
    assert web.starts == [0, 10_000]


@pytest.mark.parametrize("length", [50_000, 20_000, 1_000, 90_000])
@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("tags", [("etag",), ("modified",), ("etag", "modified")])
def test_a_file_that_has_changed_begins_again(web, part, length, obeys, tags) -> None:
    web.content = CONTENT
    for name in {"etag", "modified"} - set(tags):
        setattr(web, name, None)
    leave(part, web, 10_000)
    web.content = np.random.default_rng(3).bytes(length)
    for name in tags:
        setattr(web, name, '"two"')
    web.honours_if_range = obeys
    assert fetch(web.url, part) == sha(web.content)
    assert part.read_bytes() == web.content


def test_without_tags_another_length_begins_again(web, part) -> None:
    web.content, web.etag, web.modified = CONTENT, None, None
    leave(part, web, 10_000)
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts == [10_000]
    assert "if-range" not in web.asked[0]
    discard(part)
    leave(part, web, 10_000)
    web.content = OTHER[:-1]
    assert fetch(web.url, part) == sha(OTHER[:-1])
    assert web.starts == [10_000, 0]


def test_a_weak_tag_is_not_named_for_equal_bytes(web, part) -> None:
    web.content, web.etag = CONTENT, 'W/"one"'
    leave(part, web, 10_000)
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.asked[0]["if-range"] == web.modified


def test_the_file_changes_between_two_attempts(web, part, monkeypatch) -> None:
    web.content, web.cuts = CONTENT, [30_000]

    def change(seconds: float) -> None:
        web.content, web.etag = OTHER, '"two"'

    monkeypatch.setattr("time.sleep", change)
    assert fetch(web.url, part) == sha(OTHER)
    assert part.read_bytes() == OTHER


@pytest.mark.parametrize("said", ["bytes 0-49999/50000", "bytes 9999-49999/50000", "octets", "bytes 10000-49999/50001"])
def test_a_range_that_was_not_asked_for(web, part, said) -> None:
    web.content = CONTENT
    leave(part, web, 10_000)
    web.content_range = said
    assert fetch(web.url, part) == sha(CONTENT)
    assert part.read_bytes() == CONTENT
    assert web.starts == [10_000, 0]


def test_a_part_longer_than_the_file_or_not_noted_begins_again(web, part) -> None:
    web.content = CONTENT
    for spoil in (
        lambda: part.write_bytes(bytes(50_001)),
        lambda: part.with_name(part.name + ".json").unlink(),
        lambda: part.with_name(part.name + ".json").write_text("{"),
        lambda: part.with_name(part.name + ".json").write_text('{"what": 1}'),
        lambda: part.with_name(part.name + ".json").write_text("[]"),
        lambda: part.unlink(),
    ):
        leave(part, web, 10_000)
        spoil()
        assert fetch(web.url, part) == sha(CONTENT)
        assert web.starts == [0]
        discard(part)


def test_another_address_begins_again(web, part) -> None:
    web.content = CONTENT
    leave(part, web, 10_000)
    web.content = OTHER
    assert fetch(web.url.replace("a.zip", "mirror.zip"), part) == sha(OTHER)
    assert web.starts == [0]


def test_416_and_412_begin_again(web, part) -> None:
    for status in (416, 412):
        web.content = CONTENT
        leave(part, web, 10_000)
        web.statuses = [status]
        assert fetch(web.url, part) == sha(CONTENT)
        assert web.starts == [10_000, 0]
        discard(part)


@pytest.mark.parametrize("chunked", [False, True])
def test_no_length(web, part, chunked) -> None:
    web.content, web.says_length, web.chunked = CONTENT, False, chunked
    seen: list[tuple[int, int | None]] = []
    assert fetch(web.url, part, progress=lambda *now: seen.append(now)) == sha(CONTENT)
    assert seen[-1] == (50_000, None)
    assert fetch(web.url, part) == sha(CONTENT)
    assert len(web.asked) == 1  # its length was noted at the end


def test_more_is_promised_than_comes(web, part) -> None:
    web.content, web.adds_to_length = CONTENT, 7
    with pytest.raises(DownloadError, match=r"cut 5 times in a row \(last: the server closed it early\)"):
        fetch(web.url, part)


def test_less_is_promised_than_comes(web, part) -> None:
    web.content, web.adds_to_length = CONTENT, -7
    assert fetch(web.url, part) == sha(CONTENT[:-7])  # what is read ends there: the zip's own checks have to notice


def test_a_stalled_server(web, part, monkeypatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    web.content, web.stalls = CONTENT, [20_000]
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts == [0, 20_000]  # what came before the stall is not asked for again
    discard(part)
    web.stalls = [0] * 5
    with pytest.raises(DownloadError, match=r"last: nothing came for 0.2 seconds"):
        fetch(web.url, part)


@pytest.mark.parametrize(("status", "words"), [(404, "404"), (403, "403"), (500, "500"), (503, "503"), (204, "204")])
def test_a_refusal_is_told_at_once(web, part, pauses, status, words) -> None:
    web.content, web.statuses = CONTENT, [status]
    with pytest.raises(DownloadError, match=rf"{web.url}: the server answers {words}.* Ask elsewhere\.$"):
        fetch(web.url, part, hint="Ask elsewhere.")
    assert len(web.asked) == 1
    assert pauses == []
    assert not part.exists()


def test_a_refusal_leaves_the_part(web, part) -> None:
    web.content = CONTENT
    leave(part, web, 10_000)
    web.statuses = [503]
    with pytest.raises(DownloadError, match="503"):
        fetch(web.url, part)
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts == [10_000, 10_000]


def test_no_answer(web, part, pauses) -> None:
    web.content, web.drops = CONTENT, [True]
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch(web.url, part)
    assert pauses == []
    web.drops, web.cuts = [False, True, True], [10_000]  # in the middle it is worth another attempt
    assert fetch(web.url, part) == sha(CONTENT)
    assert pauses == [1.0, 2.0, 4.0]


def test_nobody_there(part, monkeypatch, web) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        DownloadError, match=rf"127.0.0.1:{port}/a.zip: cannot be reached \(the connection was refused\)"
    ):
        fetch(f"http://127.0.0.1:{port}/a.zip", part)

    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match="no server of that name is known"):
        fetch("http://no-such-host.invalid/a.zip", part)
    assert not part.exists()


def test_no_tls_there(web, part) -> None:
    with pytest.raises(DownloadError, match=r"cannot be reached \(no trusted connection"):
        fetch(web.url.replace("http:", "https:"), part)


@pytest.mark.parametrize(
    "url", ["http://[::1/a.zip", "http://127.0.0.1:port/a.zip", "http://" + "a" * 70 + ".x/a.zip", "http:///a.zip"]
)
def test_no_address(web, part, url, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match=r"a\.zip: (is no address|cannot be reached)"):
        fetch(url, part)


def test_an_address_with_spaces_and_letters(web, part) -> None:
    web.content = CONTENT
    assert fetch(web.url.replace("a.zip", "a é.zip?x=%20&y=1#z"), part) == sha(CONTENT)


def test_redirects(web, part) -> None:
    web.content, web.redirect = CONTENT, "/moved.zip"
    web.cuts = [10_000]
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts == [0, 0, 10_000, 10_000]  # the redirect keeps the range
    assert len(web.asked) == 4


def test_proxies_of_the_environment_are_used(web, part, monkeypatch) -> None:
    web.content = CONTENT
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", web.url.removesuffix("/a.zip"))
    assert fetch("http://nobody.invalid/a.zip", part) == sha(CONTENT)
    assert web.asked[0]["host"] == "nobody.invalid"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.zip", "data:,hello", "/a.zip"])
def test_redirects_that_lead_elsewhere(web, part, target) -> None:
    web.content, web.redirect = CONTENT, target
    with pytest.raises(DownloadError, match=r"answers 302|cannot be reached"):
        fetch(web.url, part)
    assert not part.exists()


# --- The disk ---------------------------------------------------------------------------------------------------------


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": count})())


def test_room_is_looked_for_first(web, part, monkeypatch) -> None:
    web.content = CONTENT
    free(monkeypatch, 49_999)
    with pytest.raises(DownloadError, match="the download needs 50 kB, and only 50 kB are free"):
        fetch(web.url, part)
    assert not list(part.parent.iterdir())
    free(monkeypatch, 50_000)
    leave(part, web, 10_000)
    free(monkeypatch, 39_999)
    with pytest.raises(DownloadError, match="the rest of the download needs 40 kB"):
        fetch(web.url, part)
    free(monkeypatch, 40_000)
    assert fetch(web.url, part) == sha(CONTENT)


def test_a_disk_that_gets_full(web, part, monkeypatch) -> None:
    web.content = CONTENT
    opened = Path.open

    class Full(io.FileIO):
        def write(self, data) -> int:
            if self.tell() + len(data) > 20_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def limited(self: Path, mode: str = "r", **kwargs):
        return Full(self, mode) if mode == "ab" else opened(self, mode, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", limited)
        with pytest.raises(DownloadError, match=r"disk is full .*the same command goes on"):
            fetch(web.url, part)
    there = part.stat().st_size
    assert 0 < there <= 20_000
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts == [0, there]


def test_a_folder_that_cannot_be_written(web, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="file: is a file, not a folder"):
        fetch(web.url, tmp_path / "file" / ".a.zip.part")


# --- Interruptions ----------------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_the_part(web, part) -> None:
    web.content = CONTENT

    def press(done: int, total: int | None) -> None:
        if done > 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(web.url, part, progress=press)
    there = part.stat().st_size
    assert part.read_bytes() == CONTENT[:there]
    assert there > 20_000
    assert fetch(web.url, part) == sha(CONTENT)
    assert web.starts == [0, there]


def test_old_bytes_never_stand_under_a_new_name(web, part, monkeypatch) -> None:
    """Killed at the worst moment: the new version is about to be noted, or has just been."""
    web.content = CONTENT
    leave(part, web, 10_000)
    web.content, web.etag = OTHER, '"two"'
    noted = module._note

    for late in (False, True):

        def die(part: Path, version, late=late) -> None:
            if late:
                noted(part, version)
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "_note", die)
        with pytest.raises(KeyboardInterrupt):
            fetch(web.url, part)
        beside = part.with_name(part.name + ".json")
        etag = json.loads(beside.read_text())["etag"] if beside.exists() else None
        there = part.read_bytes() if part.exists() else b""
        assert (OTHER if etag == '"two"' else CONTENT).startswith(there)
        monkeypatch.setattr(module, "_note", noted)
    assert fetch(web.url, part) == sha(OTHER)


def test_discard_removes_everything(web, part) -> None:
    web.content = CONTENT
    leave(part, web, 10_000)
    discard(part)
    discard(part)
    assert not list(part.parent.iterdir())
