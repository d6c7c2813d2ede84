"""Scanner and sequence from a DICOM header: plain text, and nothing of the patient."""

from __future__ import annotations

import pydicom
import pytest

from medcycle.io import read_volume, write_volume
from medcycle.prepare.acquisition import LONGEST, acquisition


@pytest.fixture
def told(tmp_path, make_ball):
    """What is said of a series whose headers have the attributes given."""

    def tell(**attributes):
        folder = write_volume(make_ball(0, "mr"), tmp_path / "series")
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            data.PatientName, data.PatientID, data.InstitutionName = "Doe^Jane", "ID77", "Hospital"
            with pydicom.config.disable_value_validation():
                for keyword, value in attributes.items():
                    setattr(data, keyword, value)
                data.save_as(file)
            file.write_bytes(file.read_bytes().replace(b"87.25 ", b"soon! "))  # no number
        return acquisition(read_volume(folder))

    return tell


def test_scanner_and_sequence(told):
    scanner, sequence = told(
        Manufacturer="SIEMENS",
        ManufacturerModelName="Skyra",
        MagneticFieldStrength="3",
        ScanningSequence=["SE", "IR"],
        SequenceName="*tir2d1",
        EchoTime="86.9",
        RepetitionTime="9000",
    )
    assert scanner == "SIEMENS Skyra, 3 T"
    assert sequence == "SE/IR *tir2d1, TE 87 ms, TR 9000 ms"
    kernel = {"Manufacturer": "GE", "ManufacturerModelName": None, "ConvolutionKernel": "BONE"}
    silent = dict.fromkeys(("ScanningSequence", "SequenceName", "EchoTime", "RepetitionTime", "MagneticFieldStrength"))
    assert told(**kernel, **silent) == ("GE, kernel BONE", "")


def test_hostile_and_damaged_values(told):
    scanner, sequence = told(
        Manufacturer="\x1b[31mA\nB\t" + "x" * 200,
        ManufacturerModelName="GE\x00\x10\x00PNDoe^Jane",  # a length that runs into the next element
        ScanningSequence=None,
        SequenceName=None,
        EchoTime="87.25",
        RepetitionTime="",
    )
    assert scanner.isprintable()
    assert scanner.startswith("[31mA B xxx")
    assert len(scanner) <= 2 * LONGEST
    assert scanner.endswith(" GE")
    assert sequence == ""
    for secret in ("Doe", "Jane", "ID77", "Hospital"):
        assert secret not in scanner + sequence


def test_other_formats_and_vanished_files_tell_nothing(tmp_path, make_ball, save_nifti):
    assert acquisition(read_volume(save_nifti(make_ball(0, "mr"), tmp_path / "s.nii.gz"))) == ("", "")
    folder = write_volume(make_ball(0, "mr"), tmp_path / "series")
    volume = read_volume(folder)
    for file in folder.iterdir():
        file.unlink()
    assert acquisition(volume) == ("", "")
