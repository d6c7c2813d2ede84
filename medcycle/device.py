"""Where the arithmetic runs, in which number format and in how much memory: for training and inference."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from medcycle.errors import ConfigError

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
MARGIN = 1.4  # workspaces of convolutions, fragmentation (benchmarks.memory: up to 1.35 on a CPU)
SHARE = 0.9  # of the free memory that a run may plan with

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device that a name means.

    Args:
        name: "auto" (the first CUDA device if there is one, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: for another name, or a CUDA device that this machine does not have.
    """
    text = str(name).strip().lower()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    if text == "cpu":
        return torch.device("cpu")
    kind, _, index = text.partition(":")
    if kind != "cuda" or (text != "cuda" and not index.isdecimal()):
        raise ConfigError(f"device {str(name)!r} is not known; allowed are auto, cpu, cuda and cuda:N (N = 0, 1, ...)")
    if int(index or 0) >= count:
        found = f"{count} CUDA device(s), numbered from 0" if count else "no usable CUDA device"
        raise ConfigError(
            f"device {str(name)!r} was asked for, but PyTorch {torch.__version__} finds {found} here. "
            "Use device auto or cpu, or install a CUDA build of PyTorch and its driver."
        )
    return torch.device("cuda", int(index or 0))


def resolve_precision(name: str, device: torch.device) -> str:
    """The number format, "bf16", "fp16" or "fp32", that a name means on a device.

    "auto" is bf16 where the hardware multiplies in it (it then takes 0.35-0.41 of the time on a CPU with AMX), else
    fp32. Asked for by name, bf16 runs anywhere, if slowly.

    Raises:
        ConfigError: for another name, or fp16 on a CPU, which has no fast fp16 convolution.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is not known; allowed are {', '.join(PRECISIONS)}")
    if name == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA device, and the device is {device}. Use auto, bf16 or fp32.")
    return name


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which torch computes in a precision that :func:`resolve_precision` gave.

    With "fp32" it also switches off an autocast that is already on around it.
    """
    dtype = _DTYPES[precision]
    if dtype is torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU that is a plain RuntimeError of torch's allocator."""
    said = ("out of memory", "not enough memory", "allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in said)
    )


def free_memory(device: torch.device) -> int:
    """Bytes free on the GPU, or available in the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that were made inside and are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: object) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names: a PyTorch without them is taken to have no bf16, which is slower but right.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)
