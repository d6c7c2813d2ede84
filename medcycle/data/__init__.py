"""Prepared arrays become batches: unpaired sampling, augmentation, and procedural heads to learn on."""

from medcycle.data.augment import Augment
from medcycle.data.loader import BatchLoader
from medcycle.data.natural import Picture, PictureSampler, PicturesError, device_can_hold, load_pictures, read_picture
from medcycle.data.painting import render_ct, render_mr, write_cohort
from medcycle.data.paired import PairedSampler, WithPairs
from medcycle.data.phantom import Phantom, Tissue, body_mask, make_head
from medcycle.data.unpaired import ALL, AXES, SizeError, UnpairedSampler, check_sizes

__all__ = [
    "ALL",
    "AXES",
    "Augment",
    "BatchLoader",
    "PairedSampler",
    "Phantom",
    "Picture",
    "PictureSampler",
    "PicturesError",
    "SizeError",
    "Tissue",
    "UnpairedSampler",
    "WithPairs",
    "body_mask",
    "check_sizes",
    "device_can_hold",
    "load_pictures",
    "make_head",
    "read_picture",
    "render_ct",
    "render_mr",
    "write_cohort",
]
