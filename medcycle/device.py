"""Where the arithmetic runs and in which number format: the one place that decides, for training and inference."""

from __future__ import annotations

import torch

from medcycle.errors import ConfigError

PRECISIONS = ("auto", "bf16", "fp16", "fp32")

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


def _has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names: a PyTorch without them is taken to have no bf16, which is slower but right.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)
