"""The configuration. Never imports torch, so that checking one is quick."""

from __future__ import annotations

from medcycle.config.reading import copy_config, dump_config, find_config, load_config, parse_config, shipped
from medcycle.config.schema import Config
from medcycle.config.sections import Domain

__all__ = [
    "Config",
    "Domain",
    "copy_config",
    "dump_config",
    "find_config",
    "load_config",
    "parse_config",
    "shipped",
]
