"""The audit's page: everything in it, self-contained, nothing of what headers and names say taken for HTML."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pydicom
import pytest

from medcycle.evaluation.audit_page import audit_page, sizes
from medcycle.io import write_volume
from medcycle.io.manifest import Row
from medcycle.prepare import Audit, DomainAudit, Preparation, ScanAudit, audit

EVIL = '<script>alert("x")</script>'


class Text(HTMLParser):
    """The page's tags and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += f"{data} "


@pytest.fixture
def page(tmp_path, make_ball, save_nifti):
    """Of two domains: hostile DICOM headers; NIfTI with sites and a refused file."""
    folder = write_volume(make_ball(0, "ct"), tmp_path / "ct" / "head0")
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.Manufacturer, data.SeriesDescription, data.SequenceName = EVIL, EVIL, "<s>x"
        data.ManufacturerModelName, data.ConvolutionKernel = '" onload="alert(1)', ["BONE", "<i>"]
        data.PatientName, data.PatientID = "Doe^Jane", "ID77"
        data.save_as(file)
    scans = [save_nifti(make_ball(n, "mr"), tmp_path / "mr" / f"<img src=x>{n}.nii.gz") for n in range(2)]
    scans.append(tmp_path / "mr" / "torn.nii.gz")
    scans[-1].write_bytes(b"nothing")
    rows = {path: Row(path, patient="Joan", site="<kbd>Delft") for path in scans[:2]}
    domains = {"<em>mr": (scans, Preparation(modality="mr")), "ct": ([folder], Preparation())}
    return audit_page(audit(domains, rows={"<em>mr": rows}))


def test_nothing_in_headers_and_names_becomes_html(page):
    found = Text(page)
    assert not {"script", "img", "s", "kbd", "em", "iframe", "link", "object"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
    assert not re.search(r"https?://|@import|url\(", page)
    for shown in (EVIL, '" onload="alert(1)', "BONE/<i>", "<img src=x>0", "<kbd>Delft", "<em>mr", "<s>x"):
        assert shown in found.text, shown
    for secret in ("Doe", "Jane", "Joan", "ID77"):
        assert secret not in unescape(page)


def test_what_it_says(page):
    text = " ".join(Text(page).text.split())
    assert "4 scans 3 can be used 1 refused" in text
    assert re.search(r"<em>mr: torn .*torn\.nii\.gz: cannot be read as NIfTI", text)
    assert "<kbd>Delft (2)" in text
    assert "field of view, mm (median, prepared) 40 x 40 x 40 40 x 40 x 40" in text
    assert "20 x 20 x 20" in text
    assert "patients" in text


def test_no_usable_scan_and_numbers_without_end():
    nothing = DomainAudit("a", None, [ScanAudit("x.nii", "x", refused="torn")])
    odd = ScanAudit("y.nii", "y", None, (8, 8), (1.0, 1.0), "RAS", "uint8", 1, 3.0, 3.0, float("nan"), 3.0, 3.0, 1.0)
    text = Text(audit_page(Audit([nothing, DomainAudit("b", None, [odd])], ["look"]))).text
    assert "look" in text
    assert "8 x 8" in text
    assert "No" not in audit_page(Audit([]))


def test_sizes():
    assert sizes((0.451171875, 512, 1234.5)) == "0.451 x 512 x 1234"
