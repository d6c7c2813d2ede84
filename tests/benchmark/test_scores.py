from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcycle.benchmark import scores
from medcycle.benchmark.scores import Animals, Names, choose_extractor, distances, halves, passes
from medcycle.data.textures import write_miniature
from medcycle.errors import ModelError
from medcycle.evaluation.features import STAND_IN, Features, StandIn


def some(count: int, shift: float = 0.0, classes: bool = False) -> Features:
    rng = np.random.default_rng(count)
    features = rng.standard_normal((count, 5)) + shift
    probabilities = rng.dirichlet(np.ones(7), count) if classes else None
    return Features(features, probabilities, [str(n) for n in range(count)])


class Original:
    """Stands in for the network of the papers."""

    name = "Inception 2015-12-05"
    is_inception = True


def test_only_the_papers_network_gives_fid() -> None:
    assert vars(Names.of(Original())) == {"frechet": "FID", "kernel": "KID x 1000", "score": "IS"}  # type: ignore[arg-type]
    for name in vars(Names.of(StandIn())).values():
        assert STAND_IN in name
        assert not any(word in name for word in ("FID", "KID", "IS"))


def test_distances_are_those_of_the_evaluation() -> None:
    from medcycle.evaluation.frechet import frechet_distance, inception_score, kernel_distance

    fake, real = some(20, 1.0, classes=True), some(30)
    found = distances(fake, real, Names("f", "k", "s"))
    assert found["f"] == frechet_distance(fake.features, real.features)
    mean, std = kernel_distance(fake.features, real.features)
    assert (found["k"], found["k, std"]) == (1000 * mean, 1000 * std)
    assert (found["s"], found["s, std"]) == inception_score(fake.probabilities, 10)
    few = distances(some(4, classes=True), some(4), Names("f", "k", "s"))
    assert "s" in few  # fewer pictures than parts
    assert "k, std" not in few  # every subset is the whole set: no spread, and JSON has no NaN
    assert set(distances(some(20), real, Names("f", "k", "s"))) == {"f", "k", "k, std"}


def test_halves_of_one_set_are_near() -> None:
    near = halves(some(400), Names("f", "k", "s"))["f"]
    assert near > 0.001
    assert near < 0.2 * distances(some(200, 1.0), some(199), Names("f", "k", "s"))["f"]
    assert halves(some(3), Names("f", "k", "s")) == {}


def test_offline_the_stand_in_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(path: Path | None = None, device: str = "cpu") -> object:
        raise ModelError("no route to host")

    monkeypatch.setattr(scores, "inception", offline)
    extractor, why = choose_extractor(None, "cpu", fetch=True)
    assert extractor.name == STAND_IN
    assert why is not None
    assert "no FID" in why
    assert "no route to host" in why
    assert why.endswith(". --weights names the file")
    with pytest.raises(ModelError):  # a file that was asked for is not replaced in silence
        choose_extractor(tmp_path / "weights.pt", "cpu", fetch=True)


def test_the_miniature_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "inception", lambda *_, **__: pytest.fail("fetched"))
    extractor, why = choose_extractor(None, "cpu", fetch=False)
    assert extractor.name == STAND_IN
    assert "--weights" not in str(why)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature(tmp_path_factory.mktemp("scores") / "m", 48, 1, 6)


def changed(folder: Path, out: Path, change) -> Path:
    out.mkdir()
    for path in sorted((folder / "testA").iterdir()):
        mask = np.asarray(Image.open(folder / "masks" / "testA" / path.name)) > 0
        Image.fromarray(change(np.asarray(Image.open(path)), mask).astype(np.uint8)).save(out / path.name)
    return out


def painted(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    stripes = 240.0 * (np.arange(48) // 3 % 2)[None, :, None]
    return np.where(mask[..., None], stripes, picture)


def test_who_passes_the_miniature(miniature: Path, tmp_path: Path) -> None:
    animals = Animals.of(miniature)
    cheats = {
        "identity": lambda picture, _: picture,
        "inverted": lambda picture, _: 255 - picture,
        "grey": lambda picture, _: 0 * picture + 127,
        "stripes everywhere": lambda picture, mask: painted(picture, np.ones_like(mask)),
        "noise on the animal": lambda picture, mask: np.where(
            mask[..., None], np.random.default_rng(0).integers(0, 256, (48, 48, 1)), picture
        ),
    }
    for name, change in cheats.items():
        assert not passes(animals.figures(changed(miniature, tmp_path / name, change), "testA")), name
    right = animals.figures(changed(miniature, tmp_path / "right", painted), "testA")
    assert passes(right)
    assert right["background error"] == 0
    real = animals.figures(miniature / "testB", "testB")
    assert real["stripes"] == pytest.approx(1)
    assert animals.figures(miniature / "testA", "testA")["stripes"] == pytest.approx(0, abs=1e-9)
