from __future__ import annotations

import pytest
import torch

from medcycle import device as module
from medcycle.device import autocast, resolve_device, resolve_precision
from medcycle.errors import ConfigError

CPU = torch.device("cpu")


def test_device_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    assert resolve_device(CPU) == CPU
    with pytest.raises(ConfigError, match=r"no usable CUDA device here.*cpu"):
        resolve_device("cuda")


def test_device_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"2 CUDA device"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", ""])
def test_device_names_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="allowed are auto, cpu, cuda"):
        resolve_device(name)


@pytest.mark.parametrize(("amx", "avx"), [(True, False), (False, True), (False, False)])
def test_auto_precision_on_cpu_is_bf16_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert resolve_precision("auto", CPU) == ("bf16" if amx or avx else "fp32")


def test_auto_precision_survives_a_torch_without_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not module._has_bf16(CPU)


def test_precision_names() -> None:
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("fp16", torch.device("cuda", 0)) == "fp16"
    with pytest.raises(ConfigError, match="auto, bf16, fp16, fp32"):
        resolve_precision("half", CPU)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        resolve_precision("fp16", CPU)


def test_autocast_computes_in_the_named_precision() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
        with autocast(CPU, "fp32"):
            assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert module.is_out_of_memory(error) is expected


def test_what_the_allocator_of_the_cpu_raises() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert module.is_out_of_memory(caught.value)
