"""medcycle: unpaired medical-image domain adaptation. Names are imported when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medcycle.config import Config, load_config, parse_config
    from medcycle.errors import CheckpointError, ConfigError, MedcycleError, ModelError, ScanError, TrainingError
    from medcycle.evaluation.evaluate import evaluate
    from medcycle.inference import Translator
    from medcycle.io import find_scans, read_volume, write_volume
    from medcycle.model import Model, load_model, save_model
    from medcycle.prepare import Preparation
    from medcycle.training.loop import train
    from medcycle.volume import Volume

_HOMES = {
    "CheckpointError": "medcycle.errors",
    "Config": "medcycle.config",
    "ConfigError": "medcycle.errors",
    "MedcycleError": "medcycle.errors",
    "Model": "medcycle.model",
    "ModelError": "medcycle.errors",
    "Preparation": "medcycle.prepare",
    "ScanError": "medcycle.errors",
    "TrainingError": "medcycle.errors",
    "Translator": "medcycle.inference",
    "Volume": "medcycle.volume",
    "evaluate": "medcycle.evaluation",
    "find_scans": "medcycle.io",
    "load_config": "medcycle.config",
    "load_model": "medcycle.model",
    "parse_config": "medcycle.config",
    "read_volume": "medcycle.io",
    "save_model": "medcycle.model",
    "train": "medcycle.training.loop",
    "write_volume": "medcycle.io",
}

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "MedcycleError",
    "Model",
    "ModelError",
    "Preparation",
    "ScanError",
    "TrainingError",
    "Translator",
    "Volume",
    "evaluate",
    "find_scans",
    "load_config",
    "load_model",
    "parse_config",
    "read_volume",
    "save_model",
    "train",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medcycle' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
