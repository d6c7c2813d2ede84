"""The Inception file: called as published, fetched once, and nothing else passed off as it."""

from __future__ import annotations

import http.server
import threading
from functools import partial

import numpy as np
import pytest
import torch

from medcycle.errors import ModelError
from medcycle.evaluation import inception as module
from medcycle.evaluation.features import features_of_folder
from medcycle.evaluation.inception import Inception, inception

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def test_inception_is_called_as_published(known, folder):
    extractor = Inception(known)
    assert extractor.name == "Inception 2015-12-05"
    assert extractor.is_inception
    found = features_of_folder(folder, extractor, batch=2)
    assert found.names == ["a2", "a10", "b"]
    assert found.features.shape == (3, 2048)
    assert found.features.dtype == np.float64
    red, green, grey = found.features[:, :12].reshape(3, 3, 2, 2)  # colour, upper/lower, left/right
    # Upright: rows stay rows. Values 0 to 255.
    assert red[0] == pytest.approx(np.array([[255, 0], [255, 0]]), abs=3)
    assert green[1] == pytest.approx(np.array([[200, 200], [0, 0]]), abs=3)
    assert grey == pytest.approx(np.full((3, 2, 2), 100.0))
    assert (green[[0, 2]] == 0).all()
    # No output bias: a bias of 50 would make the first class certain.
    assert found.probabilities[2] == pytest.approx(np.full(4, 0.25))
    assert found.probabilities.sum(1) == pytest.approx(np.ones(3))


def test_inception_resizes_with_centres_at_halves(known):
    """Against numpy: the sample positions of a row of 2 values stretched to 299."""
    picture = np.zeros((3, 1, 2), np.uint8)
    picture[:, :, 1] = 200
    row = Inception(known).resized(picture)[0, 0].numpy()
    positions = np.clip((np.arange(299) + 0.5) * 2 / 299 - 0.5, 0, 1)
    assert row == pytest.approx(200 * positions, abs=1e-3)


def test_another_network_keeps_its_own_name(weights):
    extractor = Inception(weights)
    assert not extractor.is_inception
    assert extractor.name.startswith("small.pt, sha256 ")


def test_a_file_that_is_no_inception_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"none\.pt: no such file.*https://"):
        Inception(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.pt: not a TorchScript file, or not a whole one\. Give inc"):
        Inception(tmp_path / "text.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    with pytest.raises(ModelError, match=r"state\.pt: not a TorchScript file, or not a whole one\. Give inc"):
        Inception(tmp_path / "state.pt")
    torch.jit.script(torch.nn.Conv2d(3, 8, 3)).save(str(tmp_path / "conv.pt"))
    with pytest.raises(ModelError, match=r"conv\.pt: this network cannot be called that way for 2 pictures; expected"):
        Inception(tmp_path / "conv.pt")

    class Thin(torch.nn.Module):
        def forward(self, img: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
            return img.to(torch.float32).mean((2, 3))

    torch.jit.script(Thin()).save(str(tmp_path / "thin.pt"))
    with pytest.raises(ModelError, match=r"thin\.pt: this network gives features of shape \(2, 3\)"):
        Inception(tmp_path / "thin.pt")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield served, f"http://127.0.0.1:{http_server.server_address[1]}"
        http_server.shutdown()
        thread.join()


def test_it_is_fetched_once_and_checked(known, tmp_path, monkeypatch, server):
    served, url = server
    monkeypatch.setattr(module, "URL", f"{url}/inception.pt")
    cache = tmp_path / "cache"
    with pytest.raises(ModelError, match=r"inception\.pt: the server answers 404.*weights"):
        inception(cache=cache)
    (served / "inception.pt").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"SHA-256.*not kept"):
        inception(cache=cache)
    assert list(cache.iterdir()) == []
    (served / "inception.pt").write_bytes(known.read_bytes())
    monkeypatch.setenv("MEDCYCLE_CACHE", str(cache))
    assert inception().is_inception
    assert [file.name for file in cache.iterdir()] == ["inception.pt"]
    (served / "inception.pt").unlink()
    assert inception().is_inception  # from the cache
    (cache / "inception.pt").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"cannot be (reached|written)|server answers"):
        inception()
    assert inception(known).is_inception


def test_without_a_server_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/inception.pt")
    with pytest.raises(ModelError, match=r"cannot be (reached|written)|server answers"):
        inception(cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(ModelError, match=r"blocked.*cannot be written.*MEDCYCLE_CACHE"):
        inception(cache=tmp_path / "blocked" / "cache")
