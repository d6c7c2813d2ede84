"""A short run of the fuzzing that benchmarks/fuzz.py does at length, and that it notices what must never be."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import medcycle.io
from medcycle.errors import ScanError

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_cases
import fuzz_reading
from fuzz_cases import CANARY_BYTE, SHARES, case, seeds
from fuzz_reading import WELL, attempt, reason_class, run

from medcycle.volume import Volume

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory in Linux's /proc")


@pytest.mark.filterwarnings("ignore:.*which side is left is a guess:UserWarning")
def test_every_seed_is_a_good_scan(tmp_path: Path) -> None:
    refused = []
    for name, seed in seeds().items():
        (tmp_path / name).mkdir()
        kind, reason = attempt(seed.write(tmp_path / name))
        if kind != "read":
            refused.append((name, reason))
    # Complex values are a valid file, and no scan.
    assert {name for name, _ in refused} == {"nifti-complex"}, refused
    assert {name.split("-")[0] for name in seeds()} == set(SHARES)
    assert sum(len(content) for seed in seeds().values() for content in seed.files.values()) < 1 << 20


def test_a_case_is_made_again_from_its_two_numbers() -> None:
    cases = [case(0, index) for index in range(200)]
    assert cases == [case(0, index) for index in range(200)]
    assert cases != [case(1, index) for index in range(200)]
    changed = [one for one in cases if one.files != seeds()[one.seed].files]
    assert len(changed) > 180


@linux
def test_damaged_scans_are_read_or_refused() -> None:
    outcomes = run(0, 0, 400)
    assert [one.index for one in outcomes] == list(range(400))
    assert [one for one in outcomes if one.kind not in WELL] == []
    assert all(count > 40 for count in Counter(one.kind for one in outcomes).values())


def test_what_must_never_be_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = seeds()["nrrd-raw"].write(tmp_path)

    def read(result: Volume | Exception) -> tuple[str, str]:
        def instead(path: Path) -> Volume:
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(medcycle.io, "read_volume", instead)
        return attempt(path)

    assert read(ScanError("7 slices")) == ("refused", "# slices")
    assert read(ValueError("what?"))[0] == "ValueError"
    assert read(ScanError("of Seed^Patient"))[0] == "leak"
    assert read(ScanError("cannot allocate"))[0] == "memory"
    assert read(Volume(np.full((1, 2, 2, 2), CANARY_BYTE), np.eye(4)))[0] == "escape"
    assert reason_class(f"{path}: 3 of 'x' in {path.name}", path) == "# of '...' in"


@linux
@pytest.mark.parametrize(
    ("death", "kind"),
    [("os.kill(os.getpid(), 11)", "crash"), ("time.sleep(60)", "hang"), ("bytearray(1100 << 20)", "MemoryError")],
)
def test_a_death_is_counted_and_the_rest_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str, kind: str
) -> None:
    # The worker runs a copy of this folder in which the reading of case 3 is deadly.
    text = Path(fuzz_reading.__file__).read_text(encoding="utf-8").replace("SECONDS = 10.0", "SECONDS = 2.0")
    deadly = f'    try:\n        if globals().get("now") == 3:\n            {death}\n'
    text = text.replace("    try:\n        patient_of(path)", deadly + "        patient_of(path)")
    text = text.replace("    before = _peak(", '    globals()["now"] = index\n    before = _peak(')
    (tmp_path / "fuzz_reading.py").write_text(text, encoding="utf-8")
    cases = Path(fuzz_cases.__file__).read_text(encoding="utf-8")
    cases = cases.replace('Path(__file__).parent / "seeds"', f"Path({str(fuzz_cases.SEEDS)!r})")
    (tmp_path / "fuzz_cases.py").write_text(cases, encoding="utf-8")
    monkeypatch.setattr(fuzz_reading, "__file__", str(tmp_path / "fuzz_reading.py"))
    outcomes = run(0, 0, 6)
    assert [one.index for one in outcomes] == list(range(6))
    assert [one.index for one in outcomes if one.kind not in WELL] == [3]
    assert outcomes[3].kind == kind
