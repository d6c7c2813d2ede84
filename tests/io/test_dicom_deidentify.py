"""De-identified series: nothing of the patient is left in any byte, and what belongs together stays together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medcycle.errors import ScanError
from medcycle.io import dicom_deidentify, read_volume, write_dicom_series
from medcycle.io.dicom_record import ModelRecord
from medcycle.volume import Volume

Maker = Callable[..., Path]

# Each holds a word or number that occurs nowhere else, so that finding it in a file proves a leak.
IDENTIFYING: dict[str, Any] = {
    "PatientName": "Zaphod^Beeblebrox",
    "PatientID": "QX-424242",
    "IssuerOfPatientID": "GALAXYHOSP",
    "OtherPatientIDs": "OTHER-777",
    "PatientBirthDate": "19420304",
    "PatientAge": "084Y",
    "PatientSize": "1.8765",
    "PatientWeight": "76.543",
    "PatientSex": "O",
    "StudyDate": "20190607",
    "StudyTime": "091011.121",
    "SeriesDate": "20190608",
    "AcquisitionDate": "20190609",
    "AcquisitionTime": "131415.161",
    "ContentDate": "20190610",
    "ReferringPhysicianName": "Trillian^Dr",
    "StudyID": "STUDY4711",
    "AccessionNumber": "ACC815",
    "StudyDescription": "HEAD OF PRESIDENT",
    "SeriesDescription": "T2 MAGRATHEA",
    "ProtocolName": "PROTO MAGRATHEA",
    "PositionReferenceIndicator": "NEXT TO SLARTI",
    "InstitutionName": "Maximegalon",
    "InstitutionAddress": "Betelgeuse Street 5",
    "StationName": "STATION9",
    "InstitutionalDepartmentName": "Improbability",
    "DeviceSerialNumber": "SERIAL-31337",
    "OperatorsName": "Marvin^P",
}
STUDY, FRAME, SERIES = "1.2.840.999.1.77", "1.2.840.999.2.88", "1.2.840.999.3.99"
RECORD = ModelRecord("maximegalon_to_ct", "c0ffee" * 5, "2026-11-22T07:00:00+00:00", "0.1.0")


def leaks(folder: Path) -> list[str]:
    words = [word for value in IDENTIFYING.values() for word in str(value).split("^") if len(word) > 2]
    words += [STUDY, FRAME, SERIES, "maximegalon", "20261122", "2026-11-22"]
    content = b"".join(file.read_bytes() for file in folder.iterdir())
    return [word for word in words if word.lower().encode() in content.lower()]


def datasets(folder: Path) -> list[Any]:
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


@pytest.fixture
def make(tmp_path: Path, make_series: Maker) -> Callable[..., Volume]:
    """make(name, **changes): a scan of a patient about whom everything is known."""

    def build(name: str, **changes: Any) -> Volume:
        settings = {"StudyInstanceUID": STUDY, "FrameOfReferenceUID": FRAME, "series": f"{SERIES}.{name}"}
        return read_volume(make_series(tmp_path / name, **(IDENTIFYING | settings | changes)))

    return build


def write(volume: Volume, folder: Path, **options: Any) -> Path:
    settings = {"like": volume, "model": RECORD, "deidentify": True, "description": "from Maximegalon"}
    return write_dicom_series(volume, folder, **(settings | options))


@pytest.mark.parametrize("unit", ["HU", "a.u."])
def test_nothing_of_the_patient_is_left(tmp_path: Path, make: Callable[..., Volume], unit: str) -> None:
    source = make("1")
    folder = write(source.replace(unit=unit), tmp_path / "out", like=source)
    assert leaks(folder) == []
    assert len(leaks(write(source, tmp_path / "kept", deidentify=False))) > 20  # or the test would look for nothing
    for data in datasets(folder):
        assert data.PatientIdentityRemoved == "YES"
        assert data.DeidentificationMethod
        code = data.DeidentificationMethodCodeSequence[0]
        assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
        assert data.LongitudinalTemporalInformationModified == "REMOVED"
        for keyword in ("StudyDate", "StudyTime", "PatientSex", "PatientBirthDate", "AccessionNumber", "StudyID"):
            assert data[keyword].value in ("", None)
        dates = [e for e in data.iterall() if e.VR in ("DA", "TM", "DT") and e.value]
        assert dates == []
        assert "SourceImageSequence" not in data
        assert "ReferencedSeriesSequence" not in data
        assert RECORD.checksum in data.ContributingEquipmentSequence[0].ContributionDescription
        assert "NOT FOR CLINICAL USE" in data.SeriesDescription
        assert data[0x0008001C].value == "YES"


def test_the_values_and_the_place_stay(tmp_path: Path, make: Callable[..., Volume]) -> None:
    source = make("1", MagneticFieldStrength=3, EchoTime=91)
    folder = write(source, tmp_path / "out")
    read = read_volume(folder)
    assert np.array_equal(read.array, source.array)
    assert np.array_equal(read.affine, source.affine)
    assert {(data.MagneticFieldStrength, data.EchoTime) for data in datasets(folder)} == {(3, 91)}


def test_what_belongs_together_stays_together(
    tmp_path: Path, make: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make("1"), make("2")
    later = make("3", StudyInstanceUID=STUDY + ".5", FrameOfReferenceUID=FRAME + ".5")
    other = make("4", StudyInstanceUID=STUDY + ".6", PatientID="QX-424243")
    a, b, c, d = (datasets(write(volume, tmp_path / f"out{n}")) for n, volume in enumerate((one, two, later, other)))
    for written in (a, b, c, d):
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            assert len({data[keyword].value for data in written}) == 1
        assert len({data.SOPInstanceUID for data in written}) == 4
    assert a[0].StudyInstanceUID == b[0].StudyInstanceUID != c[0].StudyInstanceUID
    assert a[0].FrameOfReferenceUID == b[0].FrameOfReferenceUID != c[0].FrameOfReferenceUID
    assert a[0].SeriesInstanceUID != b[0].SeriesInstanceUID
    assert a[0].PatientID == b[0].PatientID == c[0].PatientID != d[0].PatientID
    assert a[0].StudyInstanceUID.is_valid
    # Another run cannot be matched with this one, nor can anybody who knows the originals.
    monkeypatch.setattr(dicom_deidentify, "_RUN", "another secret")
    again = datasets(write(one, tmp_path / "again"))
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert again[0][keyword].value != a[0][keyword].value


def test_an_invented_patient_is_not_called_as_the_folder(tmp_path: Path) -> None:
    volume = Volume(np.zeros((1, 4, 4, 2), np.float32), np.eye(4), "HU")
    folder = write(volume, tmp_path / "Beeblebrox_Zaphod", like=None)
    assert leaks(folder) == []


def test_deterministic_names_would_tell_the_originals(tmp_path: Path, make: Callable[..., Volume]) -> None:
    with pytest.raises(ScanError, match="whoever has these can tell"):
        write(make("1"), tmp_path / "out", deterministic=True)
    assert not (tmp_path / "out").exists()


def test_an_attribute_that_nobody_thought_of_is_dropped() -> None:
    data, item = pydicom.Dataset(), pydicom.Dataset()
    item.OperatorsName, item.CodeValue = "Marvin", "1"
    data.StudyInstanceUID, data.ImageComments = STUDY, "Zaphod"
    data.add_new(0x00091001, "LO", "private")
    data.DerivationCodeSequence = [item]
    dicom_deidentify.deidentify(data, "x")
    assert "Zaphod" not in str(data)
    assert "Marvin" not in str(data)
    assert "private" not in str(data)
    assert data.DerivationCodeSequence[0].CodeValue == "1"
