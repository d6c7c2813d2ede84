"""A trained model at work: scans in, translated scans out, on the same grid."""

from medcycle.inference.files import FORMATS, plan_outputs, translate_paths
from medcycle.inference.sliding import translate_patches, translate_planes
from medcycle.inference.tiling import TilingCheck, check_tiling
from medcycle.inference.translator import Translator

__all__ = [
    "FORMATS",
    "TilingCheck",
    "Translator",
    "check_tiling",
    "plan_outputs",
    "translate_patches",
    "translate_paths",
    "translate_planes",
]
