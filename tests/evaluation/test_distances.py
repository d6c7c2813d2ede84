"""Two folders in, distances under the right name out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.evaluation import evaluate
from medcycle.evaluation.distances import distances
from medcycle.evaluation.features import StandIn, features_of_folder
from medcycle.evaluation.frechet import frechet_distance, inception_score, kernel_distance
from medcycle.evaluation.inception import Inception


@pytest.fixture
def folders(tmp_path):
    """12 and 14 noisy pictures of different means."""
    rng = np.random.default_rng(0)
    for kind, count, level in (("fake", 12, 120), ("real", 14, 100)):
        (tmp_path / kind).mkdir()
        for index in range(count):
            picture = rng.normal(level, 20 + index, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / kind / f"{kind}{index}.png")
    return tmp_path / "fake", tmp_path / "real"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("medcycle.evaluation.inception.URL", "http://127.0.0.1:9/inception-2015-12-05.pt")
    monkeypatch.setenv("MEDCYCLE_CACHE", str(tmp_path / "cache"))


def test_with_the_inception_file_they_are_fid_and_kid(folders, known, tmp_path):
    seen = []
    result = evaluate(
        *folders, metrics="fid", weights=known, out=tmp_path / "out", progress=lambda *told: seen.append(told)
    )
    network = Inception(known)
    fake, real = (features_of_folder(folder, network) for folder in folders)
    figures = result.cases["fake"]
    assert figures["fid"] == frechet_distance(fake.features, real.features)
    assert (figures["kid"], figures["kid_sd"]) == kernel_distance(fake.features, real.features)
    score = figures["inception_score"], figures["inception_score_sd"]
    assert score == inception_score(fake.probabilities)
    assert result.metrics == "fid"
    assert result.header()[1:5] == ["FID ↓", "KID ↓", "KID, sd over subsets", "IS ↑"]
    assert result.rows()[0][1] == f"{figures['fid']:.3f}"
    assert result.notes[0].startswith("12 pictures against 14; KID is the mean over 100 subsets of 12.")
    assert seen[0] == (1, 12, "fake0")
    assert seen[-1] == (14, 14, "real13")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["cases"]["fake"] == figures
    assert written["settings"]["network"] == "Inception 2015-12-05"
    assert [file.name for file in result.files] == ["metrics.csv", "metrics.json"]


def test_offline_a_stand_in_gives_distances_under_its_name(folders, offline, tmp_path):
    result = evaluate(*folders, metrics="fid", out=tmp_path / "out")
    fake, real = (features_of_folder(folder, StandIn()) for folder in folders)
    figures = result.cases["fake"]
    assert figures["frechet_distance"] == frechet_distance(fake.features, real.features)
    assert figures["kernel_distance"] == kernel_distance(fake.features, real.features)[0]
    assert result.metrics == "distances (medcycle-standin-v1)"
    assert result.header()[1] == "Fréchet distance (medcycle-standin-v1) ↓"
    (folders[1] / "real12.png").unlink()
    (folders[1] / "real13.png").unlink()
    whole = distances(*folders)
    assert "kernel_distance_sd" not in whole.cases["fake"]
    assert "12 pictures against 12; the kernel distance is that of all of them" in whole.notes[0]
    assert not any("FID" in title or "KID" in title for title in result.header())
    assert {"fid", "kid", "inception_score"}.isdisjoint(figures)
    note = "".join(result.notes)
    assert "neither FID, KID nor IS" in note
    assert "cannot be reached" in note
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"] == result.metrics
    # The order of the files and of the folders does not matter.
    back = distances(folders[1], folders[0]).cases["real"]
    assert back["frechet_distance"] == pytest.approx(whole.cases["fake"]["frechet_distance"])


def test_another_network_is_not_called_inception(folders, weights):
    result = distances(*folders, weights=weights)
    assert result.header()[1].startswith("Fréchet distance (small.pt, sha256 ")
    assert "fid" not in result.cases["fake"]


def test_few_pictures(folders, known, tmp_path):
    for index in range(3, 12):
        (folders[0] / f"fake{index}.png").unlink()
    result = distances(*folders, weights=known)
    assert any("IS is not defined for fewer than 10" in note for note in result.notes)
    assert result.to_dict()["cases"]["fake"]["inception_score"] is None
    (folders[0] / "fake1.png").unlink()
    (folders[0] / "fake2.png").unlink()
    with pytest.raises(ScanError, match=r"fake: 1 picture"):
        distances(*folders, weights=known, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_given_must_be_right(folders, tmp_path):
    with pytest.raises(ModelError, match=r"none\.pt: no such file"):
        evaluate(*folders, metrics="fid", weights=tmp_path / "none.pt")


def test_each_metric_takes_its_own_folders(folders):
    fake, real = folders
    with pytest.raises(
        ConfigError, match=r"masks \(--mask\): metrics fid takes references \(--reference\) and weights \(--weights\)"
    ):
        evaluate(fake, real, real, metrics="fid")
    with pytest.raises(ConfigError, match=r"references \(--reference\): metrics flicker takes inputs \(--input\)"):
        evaluate(fake, real, metrics="flicker")
    with pytest.raises(ConfigError, match=r"weights \(--weights\): metrics basic"):
        evaluate(fake, real, metrics="basic", weights=real)
    with pytest.raises(ConfigError, match=r"inputs \(--input\): metrics flicker"):
        evaluate(fake, metrics="flicker")
    with pytest.raises(ConfigError, match=r"references \(--reference\): metrics cityscapes"):
        evaluate(fake, metrics="cityscapes")


def test_the_other_metrics_are_behind_the_same_door(folders, tmp_path):
    fake, real = folders
    for extra in ("real12.png", "real13.png"):
        (real / extra).unlink()
    assert evaluate(fake, inputs=real, metrics="flicker").settings["frames"] == "12"
    for index in range(12):
        (real / f"real{index}.png").rename(real / f"fake{index}.png")
    result = evaluate(fake, real, metrics="cityscapes", out=tmp_path / "out")
    assert len(result.cases) == 12
    assert 0 <= result.total["class_iou"] <= 1
