"""The small valid scans that fuzzing starts from: `python tests/fuzz/fuzz_seeds.py` makes the folder seeds/ anew.

Made by nibabel, SimpleITK, pydicom, Pillow, tifffile, by our own writers, and by hand where no writer writes a variant
that readers meet. They are committed, so that a case is the same whatever versions of these are installed.

A seed is a folder: of one scan, called scan.ENDING, and what lies beside it; or, without such a file, a DICOM series.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = Path(__file__).parent / "seeds"
AFFINE = np.array([[1.5, 0.1, 0, -10], [-0.1, 1.5, 0, 5], [0, 0, 2.5, 7], [0, 0, 0, 1]])


def values(shape: tuple[int, ...], dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


# --- NIfTI ------------------------------------------------------------------------------------------------------------


def nifti_seeds(new: Callable[[str], Path]) -> None:
    import nibabel as nib

    def save(name: str, data: np.ndarray, ending: str = "nii", kind: Any = nib.Nifti1Image, **header: Any) -> None:
        image = kind(data, AFFINE)
        for key, value in header.items():
            image.header[key] = value
        content = image.to_bytes()
        if ending.endswith("gz"):
            content = gzip.compress(content, mtime=0)
        (new(f"nifti-{name}") / f"scan.{ending}").write_bytes(content)

    save("float", values((4, 5, 6), "float32"))
    save("int-gz", values((4, 5, 6)), "nii.gz")
    save("scaled", values((4, 5, 6)), "nii.gz", scl_slope=0.5, scl_inter=-1000)
    save("plane", values((7, 5), "uint8"))
    save("time", values((3, 4, 2, 5)))
    save("time-gz", values((3, 4, 2, 5)), "nii.gz")
    save("vector", values((3, 4, 2, 1, 3), "float32"), "nii.gz")
    save("two", values((4, 5, 3), "float64"), kind=nib.Nifti2Image)
    save("two-gz", values((4, 5, 3)), "nii.gz", kind=nib.Nifti2Image)
    save("complex", values((3, 4, 2), "complex64"))
    rgb = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save("rgb", rgb)
    big = nib.Nifti1Image(values((4, 5, 6)), AFFINE, nib.Nifti1Header(endianness=">"))
    (new("nifti-big-endian") / "scan.nii").write_bytes(big.to_bytes())
    noted = nib.Nifti1Image(values((4, 5, 3)), AFFINE)
    noted.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"an extension of the header"))
    noted.set_sform(None, code=0)
    (new("nifti-extension") / "scan.nii").write_bytes(noted.to_bytes())


# --- NRRD and MetaImage -----------------------------------------------------------------------------------------------


def itk_seeds(new: Callable[[str], Path]) -> None:
    import SimpleITK as sitk  # noqa: N813

    def save(name: str, data: np.ndarray, ending: str, *, vector: bool = False, compress: bool = False) -> None:
        image = sitk.GetImageFromArray(data, isVector=vector)
        image.SetSpacing([1.5, 2.0, 2.5, 3.0][: image.GetDimension()])
        sitk.WriteImage(image, str(new(name) / f"scan.{ending}"), useCompression=compress)

    for kind, ending, detached in (("nrrd", "nrrd", "nhdr"), ("meta", "mha", "mhd")):
        save(f"{kind}-raw", values((4, 5, 6)), ending)
        save(f"{kind}-zipped", values((4, 5, 6), "float32"), ending, compress=True)
        save(f"{kind}-plane", values((5, 6), "uint8"), ending)
        save(f"{kind}-vector", values((4, 5, 3, 2), "float32"), ending, vector=True)
        save(f"{kind}-time", values((3, 2, 4, 5)), ending)
        save(f"{kind}-time-zipped", values((3, 2, 4, 5)), ending, compress=True)
        save(f"{kind}-detached", values((4, 5, 6)), detached)
        save(f"{kind}-detached-zipped", values((4, 5, 6)), detached, compress=True)
    numbers = values((4, 5, 3))
    text = " ".join(map(str, numbers.ravel())) + "\n"
    space = (
        "space: right-anterior-superior\nsizes: 3 5 4\nspace directions: (1.5,0,0) (0,1.5,0) (0,0,2.5)\n"
        'kinds: domain domain domain\nspace origin: (1,2,3)\nspace units: "mm" "mm" "mm"\n'
    )
    for encoding, data in (("ascii", text.encode()), ("hex", numbers.astype("<i2").tobytes().hex().encode())):
        header = f"NRRD0004\n# by hand\ntype: short\ndimension: 3\n{space}encoding: {encoding}\nendian: little\n"
        header += "measurement frame: (1,0,0) (0,1,0) (0,0,1)\nmodality:=MR\n\n"
        (new(f"nrrd-{encoding}") / "scan.nrrd").write_bytes(header.encode() + data)
    header = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 3 5 4\nspacings: 1 2 3\nencoding: raw\nendian: big\n"
    folder = new("nrrd-skip")
    (folder / "scan.nhdr").write_text(header + "line skip: 1\nbyte skip: 2\ndata file: scan.raw\n\n", encoding="utf-8")
    (folder / "scan.raw").write_bytes(b"a line\nxx" + numbers.astype(">i2").tobytes())
    header = "ObjectType = Image\nNDims = 3\nBinaryData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\n"
    header += "CenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\nElementSpacing = 1 1 2\nDimSize = 3 5 4\n"
    header += "Comment = by hand\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (new("meta-ascii") / "scan.mha").write_bytes(header.encode() + text.encode())


# --- Pictures ---------------------------------------------------------------------------------------------------------


def picture_seeds(new: Callable[[str], Path]) -> None:
    import SimpleITK as sitk  # noqa: N813
    import tifffile
    from PIL import Image

    grey, colour = values((9, 7), "uint8"), values((9, 7, 3), "uint8")
    for ending in ("png", "jpg", "bmp"):
        Image.fromarray(grey).save(new(f"picture-grey-{ending}") / f"scan.{ending}")
        Image.fromarray(colour).save(new(f"picture-colour-{ending}") / f"scan.{ending}")
    Image.fromarray(values((9, 7), "uint16")).save(new("picture-deep") / "scan.png")
    Image.fromarray(colour).quantize(8).save(new("picture-palette") / "scan.png")
    Image.fromarray(colour).save(new("picture-progressive") / "scan.jpg", progressive=True)
    sitk.WriteImage(
        sitk.GetImageFromArray(values((9, 7, 3), "uint16"), isVector=True), str(new("picture-deep-colour") / "scan.png")
    )
    tifffile.imwrite(new("tiff-raw") / "scan.tif", grey)
    tifffile.imwrite(new("tiff-float") / "scan.tif", values((9, 7), "float32"))
    tifffile.imwrite(new("tiff-zipped") / "scan.tif", colour, photometric="rgb", compression="zlib")
    tifffile.imwrite(new("tiff-tiles") / "scan.tif", values((40, 40), "uint16"), tile=(16, 16), compression="zlib")
    tifffile.imwrite(new("tiff-big") / "scan.tif", colour, photometric="rgb", bigtiff=True, byteorder=">")
    lzw = new("tiff-lzw") / "scan.tif"
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(lzw), useCompression=True, compressor="LZW")


# --- DICOM ------------------------------------------------------------------------------------------------------------


def dicom_slice(k: int = 0, **changes: Any) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.4.5.{k + 1}"
    data.PatientName, data.PatientID = "Seed^Patient", "SEED"
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "CT", "1.2.3.4.6", "1.2.3.4"
    data.FrameOfReferenceUID, data.SeriesNumber, data.InstanceNumber = "1.2.3.5", 7, k + 1
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 4, 5, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.ImagePositionPatient = [-10.0, -20.0, 30.0 + 2.5 * k]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [0.5, 0.75], 2.5
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    item, deeper = Dataset(), Dataset()
    deeper.CodeValue, deeper.CodingSchemeDesignator, deeper.CodeMeaning = "121322", "DCM", "Source image"
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = data.SOPClassUID, "1.2.3.4.7"
    item.PurposeOfReferenceCodeSequence = [deeper]
    data.SourceImageSequence = [item]
    data.PixelData = values((4, 5)).tobytes()
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def enhanced() -> Any:
    from pydicom.dataset import Dataset

    data = dicom_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del data[keyword]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2.5
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in range(3):
        group, place, scale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10.0, -20.0, 30.0 - 2.5 * index]
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = index + 1, 5, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [scale]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence, data.NumberOfFrames = groups, 3
    data.PixelData = values((3, 4, 5)).tobytes()
    return data


def dicom_seeds(new: Callable[[str], Path]) -> None:
    from pydicom import uid
    from pydicom.filewriter import dcmwrite

    for name, syntax in (
        ("implicit", uid.ImplicitVRLittleEndian),
        ("explicit", uid.ExplicitVRLittleEndian),
        ("deflated", uid.DeflatedExplicitVRLittleEndian),
        ("rle", uid.RLELossless),
        ("jpeg-ls", uid.JPEGLSLossless),
        ("jpeg2000", uid.JPEG2000Lossless),
    ):
        data = dicom_slice()
        if name == "jpeg2000":  # its encoder wants six halvings
            data = dicom_slice(Rows=64, Columns=64, PixelData=(values((64, 64)) // 190).tobytes())
        if syntax.is_encapsulated:
            data.compress(syntax, generate_instance_uid=False)
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(new(f"dicom-{name}") / "scan.dcm", enforce_file_format=True)
    data = dicom_slice()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    data.PixelData = values((4, 5)).byteswap().tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(new("dicom-big-endian") / "scan.dcm", enforce_file_format=True)
    enhanced().save_as(new("dicom-enhanced") / "scan.dcm", enforce_file_format=True)
    bare = dicom_slice()
    del bare.file_meta
    dcmwrite(new("dicom-bare") / "scan.dcm", bare, implicit_vr=True, little_endian=True)
    inverse = dicom_slice(PhotometricInterpretation="MONOCHROME1", Modality="MR", PixelRepresentation=0)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        del inverse[keyword]
    inverse.save_as(new("dicom-inverse") / "scan.dcm", enforce_file_format=True)
    folder = new("dicom-series")
    for k in range(3):
        dicom_slice(k).save_as(folder / f"{k}.dcm", enforce_file_format=True)


def own_seeds(new: Callable[[str], Path]) -> None:
    """What medcycle itself writes."""
    from medcycle.io import write_volume
    from medcycle.io.dicom_write import write_dicom_series
    from medcycle.volume import Volume

    scan = Volume(values((1, 4, 5, 3), "float32"), AFFINE, "HU")
    for kind, ending in (("nifti", "nii.gz"), ("nrrd", "nrrd"), ("meta", "mhd")):
        write_volume(scan, new(f"{kind}-own") / f"scan.{ending}")
    straight = scan.replace(affine=np.diag((1.5, 1.5, 2.5, 1)))
    write_dicom_series(straight, new("dicom-own"), deterministic=True)


def main() -> None:
    shutil.rmtree(SEEDS, ignore_errors=True)

    def new(name: str) -> Path:
        (SEEDS / name).mkdir(parents=True)
        return SEEDS / name

    for make in (nifti_seeds, itk_seeds, picture_seeds, dicom_seeds, own_seeds):
        make(new)


if __name__ == "__main__":
    main()
