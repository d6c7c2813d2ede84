"""Files that lie about sizes, inflate without end, or name other files: refused in bounded time and memory."""

from __future__ import annotations

import ast
import gzip
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

import medcycle
from medcycle.errors import ScanError
from medcycle.io import open_recording, read_volume
from medcycle.io import sizes as sizes_module

META = "ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_SHORT\n{more}ElementDataFile = {file}\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\n{more}\n"
ZEROS = gzip.compress(bytes(1 << 20), 9)  # one member of a stream of many: 1 kB for 1 MiB

READ = """
import resource, sys, time
from medcycle.errors import ScanError
from medcycle.io import read_volume
import nibabel, SimpleITK
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

for path in sys.argv[1:]:
    before, start = peak(), time.perf_counter()
    try:
        found = f"read: {read_volume(path).array.size} values"
    except ScanError as error:
        found = f"refused: {error}"
    print(peak() - before, time.perf_counter() - start, found, sep="|")
"""


def nifti(shape: tuple[int, ...]) -> bytes:
    """A header for these sizes, with values for no more than 4 x 4 x 4."""
    header = nib.Nifti1Header()
    header.set_data_shape((4, 4, 4))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    header["dim"][1:4] = shape
    return bytes(header.binaryblock + b"\0\0\0\0" + bytes(128))


def meta(sizes: str = "4 4 4", more: str = "", file: str = "LOCAL", data: bytes = bytes(128)) -> bytes:
    return META.format(sizes=sizes, more=more, file=file).encode() + data


def nrrd(sizes: str = "4 4 4", more: str = "encoding: raw\n", data: bytes = bytes(128)) -> bytes:
    return NRRD.format(sizes=sizes, more=more).encode() + data


ENDLESS = {
    "little.nii.gz": gzip.compress(nifti((4, 4, 4)), 9) + ZEROS * 2000,  # 2 GB in 2 MB
    "little.mha": meta(more="CompressedData = True\n", data=zlib.compress(bytes(200 << 20), 1)),
    "little.nrrd": nrrd(more="encoding: gzip\n", data=ZEROS * 2000),
    "huge.nii.gz": gzip.compress(nifti((30000, 30000, 30000)), 9) + ZEROS * 200,
    "huge.nii": nifti((30000, 30000, 30000)),
    "huge.mha": meta("60000 60000 60000", more="CompressedData = True\n", data=zlib.compress(bytes(1 << 20))),
    "huge-raw.mha": meta("60000 60000 60000"),
    "huge.nrrd": nrrd("60000 60000 60000", more="encoding: gzip\n", data=ZEROS * 200),
    "huge-raw.nrrd": nrrd("60000 60000 60000"),
    "huge-text.nrrd": nrrd("60000 60000 60000", more="encoding: ascii\n", data=b"1 " * 1000),
}


@pytest.mark.skipif(sys.platform == "win32", reason="resource is a module of Unix")
def test_bombs_take_neither_time_nor_memory(tmp_path: Path) -> None:
    for name, content in ENDLESS.items():
        assert len(content) < 5 << 20
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in ENDLESS]
    told = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True).stdout
    for name, line in zip(ENDLESS, told.splitlines(), strict=True):
        grown, seconds, found = line.split("|", 2)
        assert int(grown) < 250, line  # MiB
        assert float(seconds) < 10, line
        if name in ("little.mha", "little.nrrd"):  # ITK takes what the header tells of and no more
            assert found.startswith(("read: 64 values", "refused")), line
        else:
            assert found.startswith(f"refused: {tmp_path / name}: "), line
            assert ("its header claims" if name.startswith("huge") else "inflates to far more") in found, line


def test_more_than_the_machines_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single volume is refused; a recording only if one frame is too large, as it is read frame by frame."""
    monkeypatch.setattr(sizes_module, "_memory", lambda: 500)
    (tmp_path / "a.nii").write_bytes(nib.Nifti1Image(np.zeros((4, 4, 4), np.float64), np.eye(4)).to_bytes())
    (tmp_path / "a.mha").write_bytes(meta("8 8 8", data=bytes(1024)))
    (tmp_path / "a.nrrd").write_bytes(nrrd("8 8 8", data=bytes(1024)))
    for name in ("a.nii", "a.mha", "a.nrrd"):
        with pytest.raises(ScanError, match=rf"{name}: holds .* more than this machine's memory"):
            read_volume(tmp_path / name)
    for space, fits in ((4, True), (8, False)):
        four = nib.Nifti1Image(np.zeros((space, 4, 4, 6), np.uint16), np.eye(4))
        (tmp_path / "four.nii").write_bytes(four.to_bytes())
        header = meta(f"{space} 4 4 6", data=bytes(space * 16 * 6 * 2)).replace(b"NDims = 3", b"NDims = 4")
        (tmp_path / "four.mha").write_bytes(header)
        monkeypatch.setattr(sizes_module, "_memory", lambda: 200)
        for name in ("four.nii", "four.mha"):
            recording = open_recording(tmp_path / name)
            assert recording is not None
            if fits:
                assert len(list(recording.frames())) == 6
            else:
                with pytest.raises(ScanError, match="more than this machine's memory"):
                    list(recording.frames())


@pytest.mark.parametrize(
    "file",
    [
        *("../secret.raw", "/etc/passwd", "sub/secret.raw", "..\\secret.raw", "~/secret.raw", "|cat secret.raw", "."),
        *("LIST", "LIST 3\nx.raw", "s%03d.raw 1 4 1", "..", "nothing.raw"),
    ],
)
def test_values_lie_beside_the_header_and_nowhere_else(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "scan"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "secret.raw", folder / "sub" / "secret.raw", folder / "s001.raw", folder / "x.raw"):
        place.write_bytes(b"\x2a" * 128)
    (folder / "a.mhd").write_bytes(meta(file=file, data=b""))
    (folder / "a.nhdr").write_bytes(nrrd(more=f"encoding: raw\ndata file: {file}\n", data=b""))
    for name in ("a.mhd", "a.nhdr"):
        with pytest.raises(ScanError, match=name):
            read_volume(folder / name)
    (folder / "a.mhd").write_bytes(meta(file="x.raw", data=b""))
    assert read_volume(folder / "a.mhd").array.max() == 0x2A2A


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # The first kills SimpleITK 2.5; others make it take room blindly, or sizes that are not the ones checked.
        ("word.nrrd", nrrd(more="encoding: ascii\n", data=b"1" * 5000)),
        ("wraps.nrrd", nrrd("4 4 4294967296")),
        ("twice.nrrd", nrrd(more="encoding: raw\nsizes: 2 2 2\n")),
        ("axes.nrrd", nrrd("4 4 4 4")),
        ("vectors.nrrd", nrrd(more="encoding: raw\nspace: LPS\nspace directions: (1,0,0) (0,1,0)\n")),
        ("kind.nrrd", nrrd(more="encoding: bzip2\n")),
        ("wraps.mha", meta("4 4 4294967297")),
        ("twice.mha", meta(more="DimSize = 2 2 2\n")),
        ("axes.mha", meta("4 4")),
        ("matrix.mha", meta(more="TransformMatrix = 1 0 0 0\n")),
        ("long.mha", meta(more="ElementSpacing = " + "1 " * 5000 + "\n")),
        ("channels.mha", meta(more="ElementNumberOfChannels = 99999999\n")),
    ],
)
def test_headers_that_itk_is_not_given(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScanError, match=rf"{name}: (damaged|its header)"):
        read_volume(tmp_path / name)
    good = nrrd() if name.endswith("nrrd") else meta()
    (tmp_path / name).write_bytes(good)
    assert read_volume(tmp_path / name).array.shape == (1, 4, 4, 4)


def test_free_text_of_a_header_is_not_told(tmp_path: Path) -> None:
    for name, content in (
        ("a.nrrd", nrrd(more="encoding: raw\ncontent: Smith^John\x01\n")),
        ("b.nrrd", nrrd(more="encoding: r\0\0Smith^John\n")),
        ("c.nrrd", nrrd(more="encoding: raw\nSmith^John\n")),
        ("d.mha", meta(more="Comment = Smith^John\x01\n")),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanError, match=rf"{name}: damaged header") as refused:
            read_volume(tmp_path / name)
        assert "Smith" not in str(refused.value)


def test_no_room_for_what_a_length_only_claims(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc" * 1000)
    with sizes_module.BoundedFile(path) as file:
        assert file.read(2) == b"ab"
        assert len(file.read(2**62)) == 2998  # OverflowError or MemoryError from a plain file
        assert file.read(2**62) == b""
        file.seek(0)
        assert len(file.read()) == 3000
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 7, 3), np.uint8), photometric="rgb", compression="zlib")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        place = tif.pages[0].tags["StripByteCounts"].valueoffset
    content[place : place + 4] = (0xFFFFFFFF).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    place = content.index(b"IDAT") - 4
    content[place : place + 4] = (0x7FFFFFFF).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    tracemalloc.start()
    try:
        assert read_volume(tmp_path / "a.tif").array.shape == (3, 7, 9)  # the stream itself is whole
        with suppress(ScanError):  # so is this one, but what follows it is missed
            assert read_volume(tmp_path / "a.png").array.shape == (1, 7, 9)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_nothing_of_a_users_file_is_unpickled_or_run() -> None:
    """torch.load only of weights, np.load without pickles, YAML only as data; TorchScript only as Inception."""
    for path in Path(medcycle.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        }
        assert not imported & {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name, options = ast.unparse(call.func), {o.arg: ast.unparse(o.value) for o in call.keywords}
            where = f"{path}:{call.lineno}"
            if name == "torch.load":
                assert options.get("weights_only") == "True", where
            if name.endswith(("np.load", "numpy.load")):
                assert options.get("allow_pickle", "False") == "False", where
            if name == "torch.jit.load":
                assert path.name == "inception.py", where
            assert name not in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"), where
            assert options.get("shell", "False") == "False", where
            if name == "yaml.compose":
                assert options["Loader"] == "yaml.SafeLoader", where
