"""The Inception network that FID, KID and the Inception score are defined on, as one TorchScript file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import DownloadError, ModelError

if TYPE_CHECKING:
    import torch

URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as k-diffusion and others record it
FEATURES = 2048


class Inception:
    """The TorchScript file inception-2015-12-05.pt of the StyleGAN papers, which clean-fid uses too.

    It holds the very weights of the network of 2015 on which FID, KID and the Inception score are defined. What is
    done here, and how it stands to the published CycleGAN rows, which OpenMMLab's mmgeneration computed (read in its
    code and configurations of that time) on test pictures of 256 x 256:

    - resizing to 299 x 299: bilinear, pixel centres at halves, no smoothing, before the network, as mmgeneration did
      (its FID through pytorch-fid's port of the same weights, its IS through this file, for which it rounded to 8 bits
      once more; here all stays in float). Left to itself the file resizes in StyleGAN's own way; given 299 x 299 it
      has nothing to resize. Bring much larger pictures to 256 x 256 first: without smoothing they are sampled with
      gaps;
    - values 0 to 255, which the file maps to (v - 128) / 128; pytorch-fid's port was given (v - 127.5) / 127.5;
    - features: the 2048 after the last pooling (`return_features`);
    - probabilities: the softmax without the output layer's bias (`no_output_bias`) over all outputs, as in the first
      implementation of the score, StyleGAN's and mmgeneration's;
    - every picture counts once. mmgeneration took 140 pictures for horse2zebra, whose 120 horses it went through again
      from the start, and 120 of the 140 for zebra2horse.

    Args:
        path: the file. TorchScript is code: load only a file you trust.
        device: a torch device.

    Raises:
        ModelError: no such file, no TorchScript, or another network than one of 2048 features.
    """

    size = 299

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        import torch

        path = Path(path)
        if not path.is_file():
            raise ModelError(f"{path}: no such file. Give the TorchScript file inception-2015-12-05.pt, from {URL}")
        digest = _sha256(path)
        self.is_inception = digest == SHA256
        self.name = "Inception 2015-12-05" if self.is_inception else f"{path.name}, sha256 {digest[:12]}"
        self._device = device
        try:
            with warnings.catch_warnings():  # deprecated in favour of formats that this file is not in
                warnings.simplefilter("ignore", DeprecationWarning)
                self._network: Any = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{path}: not a TorchScript file, or not a whole one. Give inception-2015-12-05.pt, from {URL}"
            ) from error
        self._check(path)

    def _check(self, path: Path) -> None:
        import torch

        grey = torch.full((2, 3, self.size, self.size), 128.0)
        try:
            features, probabilities = self.features(grey), self.probabilities(grey)
            right = tuple(features.shape) == (2, FEATURES) and probabilities.ndim == 2
            found = f"gives features of shape {tuple(features.shape)} and classes of {tuple(probabilities.shape)}"
            right = right and bool(torch.allclose(probabilities.sum(1), torch.ones(2), atol=1e-3))
        except (RuntimeError, TypeError, AttributeError):
            right, found = False, "cannot be called that way"
        if not right:
            raise ModelError(
                f"{path}: this network {found} for 2 pictures; expected (2, {FEATURES}) with return_features=True and "
                f"one row of probabilities a picture with no_output_bias=True, as inception-2015-12-05.pt, from {URL}"
            )

    def resized(self, picture: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Bilinear, as the class says."""
        import torch
        from torch.nn import functional

        values = torch.from_numpy(picture).float()[None]
        return functional.interpolate(values, (self.size, self.size), mode="bilinear", align_corners=False)[0]

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Shape (N, 2048), float32, on the CPU."""
        return self._run(pictures, return_features=True)

    def probabilities(self, pictures: torch.Tensor) -> torch.Tensor:
        """Shape (N, 1008), float32, on the CPU; rows sum to 1."""
        return self._run(pictures, no_output_bias=True)

    def _run(self, pictures: torch.Tensor, **asked: bool) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            output: torch.Tensor = self._network(pictures.to(self._device), **asked)
        return output.float().cpu()


def inception(path: str | Path | None = None, cache: str | Path | None = None, device: str = "cpu") -> Inception:
    """The Inception network from a file, or fetched once into a folder.

    Args:
        path: the TorchScript file. None: inception-2015-12-05.pt in `cache`, downloaded if it is not there (96 MB).
        cache: a folder; default $MEDCYCLE_CACHE, else ~/.cache/medcycle.
        device: a torch device.

    Raises:
        ModelError: as :class:`Inception`; it cannot be downloaded or kept, or what came is not the file known.
    """
    if path is not None:
        return Inception(path, device)
    folder = Path(cache or os.environ.get("MEDCYCLE_CACHE") or Path.home() / ".cache" / "medcycle")
    file = folder / URL.rpartition("/")[2]
    if not file.is_file() or _sha256(file) != SHA256:
        _fetch(URL, file)
    return Inception(file, device)


def _fetch(url: str, file: Path) -> None:
    """Download the file whose SHA-256 is known; an interrupted download goes on at the next call."""
    from medcycle.data.fetch import discard, fetch

    by_hand = f"Download it elsewhere and give it as weights, or put it at {file}."
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        found = fetch(url, part, hint=by_hand)
        if found == SHA256:
            part.replace(file)
        discard(part)
    except DownloadError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError(
            f"{file}: cannot be written ({error.strerror or error}). MEDCYCLE_CACHE names another folder."
        ) from error
    if found != SHA256:
        raise ModelError(f"{url} gave a file of SHA-256 {found}, expected {SHA256}: not kept. {by_hand}")


def _sha256(path: Path) -> str:
    import hashlib

    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
