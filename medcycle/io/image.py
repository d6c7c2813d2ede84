"""Pictures (.png .jpg .jpeg .tif .tiff .bmp) to and from 2D Volumes, at their own bit depth and number of channels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.files import LPS, staged, stored, unreadable, unwritable
from medcycle.io.sizes import BoundedFile, check_size
from medcycle.volume import Volume

_MAXIMUM = {"uint8": 255, "uint16": 65535}


def read_image(path: Path, unit: str | None = None) -> Volume:
    """Read a picture of W x H pixels as a 2D Volume of shape (channel, W, H), 1 mm pixels, affine diag(-1, -1, 1, 1).

    Grey pictures have one channel, colour pictures three; an alpha channel is dropped if it is opaque throughout.
    16 bits stay 16 bits. TIFF may also hold signed or float values, whose unit is then "a.u." or as given.

    Raises:
        ScanError: damaged or foreign file, several pages, a transparent picture, or values that cannot be `unit`.
    """
    try:
        pixels = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_pillow(path)
    except ScanError:
        raise
    except Exception as error:  # the decoders raise many kinds for damaged bytes
        raise unreadable(path, "a picture", error) from error
    if pixels.ndim != 3 or not pixels.size:
        raise ScanError(f"{path}: a picture without pixels. The file is damaged.")
    natural = pixels.dtype.name
    if natural in _MAXIMUM:
        if unit == "HU":
            raise ScanError(
                f"{path}: a picture of {natural} values holds no HU. Use modality: image for pictures, or give the CT "
                "as DICOM, NIfTI or MHA."
            )
        if unit not in (None, "a.u.", natural):
            raise ScanError(f"{path}: a picture of {natural} values, but {unit} was asked for")
    elif natural not in ("int16", "int32", "float16", "float32", "float64"):
        raise ScanError(f"{path}: pixels of type {natural}; expected 8 or 16 bit, signed 16 bit or float")
    elif unit in _MAXIMUM:
        raise ScanError(f"{path}: a picture of {natural} values, but {unit} was asked for")
    pixels = _without_alpha(pixels, path)
    array = np.ascontiguousarray(pixels.transpose(2, 1, 0), dtype=np.float32)  # (H, W, C) -> (C, W, H)
    own = natural if natural in _MAXIMUM else "a.u."
    return Volume(array, LPS, unit or own, {"path": str(path), "format": "picture"})


def _read_pillow(path: Path) -> npt.NDArray[Any]:
    """The pixels (H, W, C) of a PNG, JPEG or BMP."""
    from PIL import Image, ImageOps

    if _deep_colour_png(path):  # Pillow squeezes 16-bit colour to 8 bits without a word
        return _read_itk(path, "PNGImageIO")
    with BoundedFile(path) as raw, Image.open(raw) as opened:
        check_size(path, opened.width * opened.height * len(opened.getbands()), path.stat().st_size, packed=True)
        frames = getattr(opened, "n_frames", 1)
        if frames > 1:
            raise ScanError(f"{path}: {frames} frames; expected one picture. Write each into its own file.")
        picture: Image.Image = ImageOps.exif_transpose(opened) or opened
        if picture.mode in ("P", "PA"):
            picture = picture.convert("RGBA" if "transparency" in picture.info or picture.mode == "PA" else "RGB")
        elif picture.mode == "1":
            picture = picture.convert("L")
        elif picture.mode in ("CMYK", "YCbCr", "HSV", "LAB"):
            picture = picture.convert("RGB")
        pixels = np.asarray(picture)
    if pixels.dtype == np.int32 and picture.mode == "I" and pixels.min() >= 0 and pixels.max() <= 65535:
        pixels = pixels.astype(np.uint16)  # how Pillow may give 16-bit grey
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _deep_colour_png(path: Path) -> bool:
    """Whether this is a PNG of 16 bits with more than one channel (its IHDR: bit depth, colour type)."""
    with path.open("rb") as file:
        start = file.read(26)
    return start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) == 26 and start[24] == 16 and start[25] != 0


def _read_tiff(path: Path) -> npt.NDArray[Any]:
    """The pixels (H, W, C) of a TIFF of one page."""
    import tifffile

    with BoundedFile(path) as raw, tifffile.TiffFile(raw) as file:
        if len(file.pages) != 1:
            raise ScanError(
                f"{path}: {len(file.pages)} pages; expected one picture. Write each page into its own file."
            )
        page: Any = file.pages[0]
        photometric = int(page.photometric)
        if photometric not in (0, 1, 2, 6):
            raise ScanError(f"{path}: TIFF photometric {photometric}; expected grey or RGB. Convert it to PNG.")
        axes = page.axes
        check_size(path, int(page.nbytes), path.stat().st_size, packed=True)
        try:
            pixels = np.asarray(page.asarray())
        except ValueError:  # a compression that needs the package imagecodecs; libtiff inside ITK knows most
            return _read_itk(path, "TIFFImageIO")
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif axes not in ("YX", "YXS"):
        raise ScanError(f"{path}: TIFF axes {axes}; expected one grey or colour picture")
    if photometric == 0 and pixels.dtype.name in _MAXIMUM:  # 0 is white
        pixels = _MAXIMUM[pixels.dtype.name] - pixels
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _read_itk(path: Path, decoder: str) -> npt.NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813

    reader: Any = sitk.ImageFileReader()
    reader.SetImageIO(decoder)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    check_size(path, math.prod(reader.GetSize()) * reader.GetNumberOfComponents(), path.stat().st_size, packed=True)
    pixels = np.asarray(sitk.GetArrayFromImage(reader.Execute()))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _without_alpha(pixels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """The pixels (H, W, 1 or 3) of pixels (H, W, 1 to 4) whose alpha, if any, is opaque."""
    channels = pixels.shape[2]
    if channels in (2, 4):
        opaque = _MAXIMUM.get(pixels.dtype.name, 1)
        if (pixels[..., -1] != opaque).any():
            raise ScanError(f"{path}: a picture with transparent pixels. Save it without an alpha channel first.")
        return pixels[..., :-1]
    if channels not in (1, 3):
        raise ScanError(f"{path}: a picture of {channels} channels; expected grey or RGB")
    return pixels


def write_image(volume: Volume, path: Path) -> Path:
    """Write a 2D Volume (or one slice) as .png, .bmp or .tif: uint8 and uint16 exactly; TIFF also HU and "a.u.".

    Raises:
        ScanError: more than one slice, a number type the format lacks, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    array = stored(volume)
    if array.ndim == 4:
        if array.shape[3] != 1:
            raise ScanError(
                f"{path}: a picture holds one slice, this scan has {array.shape[3]}. Write .nii.gz instead."
            )
        array = array[..., 0]
    if volume.channels not in (1, 3):
        raise ScanError(
            f"{path}: a picture has 1 or 3 channels, this scan has {volume.channels}. Write .nii.gz instead."
        )
    if suffix in (".jpg", ".jpeg"):
        raise ScanError(f"{path}: JPEG would change the values. Write .png instead.")
    if suffix not in (".tif", ".tiff") and array.dtype.name not in _MAXIMUM:
        raise ScanError(
            f"{path}: values in {volume.unit} do not fit into a {suffix[1:].upper()} picture. Write .nii.gz or .tif."
        )
    if suffix == ".bmp" and array.dtype != np.uint8:
        raise ScanError(f"{path}: BMP has 8 bits, this scan has {array.dtype.name} values. Write .png or .tif instead.")
    pixels = np.ascontiguousarray(array.transpose(2, 1, 0))  # (C, W, H) -> (H, W, C)
    with staged(path) as file:
        _save(pixels if volume.channels == 3 else pixels[..., 0], file, path)
    return path


def _save(pixels: npt.NDArray[Any], file: Path, path: Path) -> None:
    """Encode pixels (H, W) or (H, W, 3) by the file's suffix."""
    if file.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        tifffile.imwrite(file, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    elif pixels.ndim == 3 and pixels.dtype == np.uint16:
        import SimpleITK as sitk  # noqa: N813  # Pillow cannot write 16-bit colour

        try:
            sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(file))
        except RuntimeError as error:
            raise unwritable(path, error) from error
    else:
        from PIL import Image

        Image.fromarray(pixels).save(file)
