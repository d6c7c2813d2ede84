"""The sections of a configuration but `model`: every key has a default and a documented unit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medcycle.config.section import Count, Section, Share


class Domain(Section):
    """One of the two domains: where its scans are and what they are."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")]
    """Short name; appears in file names (mr_to_ct.safetensors) and in `--to NAME`."""
    path: str | tuple[str, ...]
    """A folder (searched recursively), a file, a glob pattern, a .csv, or a list of these. A .csv has a column `path`
    (relative to it) and may have `patient`, `site`, `split` (train, val or test) and `series`."""
    modality: Literal["mr", "ct", "image"]
    """mr: arbitrary units; ct: HU; image: pictures (8- or 16-bit PNG, JPEG, TIFF) with a fixed range."""
    patient: str | None = None
    """Regular expression with one group that finds the patient in a scan's path, for the validation split. A .csv's
    column `patient` comes first."""
    series: str | None = None
    """DICOM only: which series to take (UID, number or description) where a folder holds several."""
    resample_gaps: bool = False
    """DICOM only: accept series with missing or unevenly spaced slices, interpolated onto an even grid."""
    threshold: float | None = None
    """mr, ct: the value above which a voxel is body; null: -500 HU (ct), found by Otsu and the noise (mr)."""
    invert: bool | None = None
    """mr: as prepare.invert, of this domain alone: T1 inverted is grey where T2 and FLAIR are. null: prepare.invert."""

    @field_validator("patient")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        import re

        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from None
            if groups != 1:
                raise ValueError(f"must hold exactly one group in parentheses, found {groups}")
        return pattern


class Domains(Section):
    """The two domains; a_to_b translates the first into the second."""

    a: Domain
    b: Domain

    @model_validator(mode="after")
    def _names_differ(self) -> Domains:
        if self.a.name == self.b.name:
            raise ValueError(f"a.name and b.name are both {self.a.name!r}; they name files and must differ")
        return self


class Prepare(Section):
    """Scan -> array in [-1, 1]. Stored in the model, so that translation prepares and restores the same way."""

    orientation: Annotated[str, Field(pattern=r"^[RLAPSI]{3}$")] | None = "RAS"
    """Voxel axes of 3D scans after preparation; null keeps each scan's own."""
    spacing: tuple[Annotated[float, Field(gt=0)] | None, ...] | None = None
    """Voxel size in mm after preparation, three numbers; null (whole, or one axis) keeps each scan's own."""
    window: tuple[float, float] = (-1024.0, 3071.0)
    """ct: the HU that become -1 and +1."""
    stretch: tuple[float, float] | None = None
    """ct: HU inside the window, such as [-250, 250], that get the middle half of the range: soft tissue, which is
    narrow in a window that holds bone, is then told apart and kept better. null maps the window linearly."""
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (0.5, 99.5)
    """mr: the percentiles of each scan's foreground that become -1 and +1."""
    range: tuple[float, float] | None = None
    """image: the values that become -1 and +1; null takes 0..255 (8-bit) or 0..65535 (16-bit)."""
    foreground: bool | None = None
    """mr, ct: find the body, and set everything outside it to air before and after translation. null: yes, unless
    both domains are ct, whose air (and table) is right as it is."""
    invert: bool = False
    """mr: inside the body dark becomes bright. For MR -> CT: the networks tend to keep bright what is bright, and bone
    is dark in MR."""
    floor: Annotated[float, Field(ge=-1, lt=1)] = -1.0
    """mr: what the lowest value inside the body becomes (with `invert`, the brightest tissue's). Above -1, fat is no
    longer the same as air, which stays -1."""
    cavities: bool = False
    """mr with `invert`: air inside the body (sinuses, nose, throat), found by the background's noise, stays air instead
    of becoming as bright as bone. Finds nothing where the background has been set to 0."""
    n4: bool = False
    """mr: N4 bias field correction (Tustison 2010), about 10 s a scan."""
    nyul: bool = False
    """mr: standardize the histograms (Nyul & Udupa 1999): every scan is mapped piecewise linearly, so that its
    percentiles meet the training scans' mean ones. Takes a pass over the training scans first."""
    crop: bool = False
    """mr, ct: cut every scan to its body and 10 mm round it. Translated scans keep their frame; outside is air."""
    cache: str = "runs/cache"
    """Folder of the prepared scans (memory-mapped arrays; may be deleted at any time, is rebuilt)."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare scans; 0 takes one per CPU core, fewer for a few scans."""

    @field_validator("spacing")
    @classmethod
    def _three(cls, spacing: tuple[float | None, ...] | None) -> tuple[float | None, ...] | None:
        if spacing is not None and len(spacing) != 3:
            raise ValueError(f"needs three numbers in mm (null keeps an axis), found {len(spacing)}")
        return spacing

    @field_validator("orientation")
    @classmethod
    def _axes(cls, orientation: str | None) -> str | None:
        if orientation is not None and any(sum(o in pair for o in orientation) != 1 for pair in ("RL", "AP", "SI")):
            raise ValueError(
                "names each of left-right, anterior-posterior and superior-inferior once, as in RAS or LPS"
            )
        return orientation

    @field_validator("window", "percentiles", "range", "stretch")
    @classmethod
    def _rising(cls, pair: tuple[float, float] | None) -> tuple[float, float] | None:
        if pair is not None and not pair[0] < pair[1]:
            raise ValueError(f"needs [low, high] with low < high, found {list(pair)}")
        return pair

    @model_validator(mode="after")
    def _stretch_in_window(self) -> Prepare:
        if self.stretch is not None and not (self.window[0] < self.stretch[0] and self.stretch[1] < self.window[1]):
            raise ValueError(f"stretch {list(self.stretch)} must lie inside the window {list(self.window)} (HU)")
        return self


class Augment(Section):
    """Random changes of each training sample."""

    flip: Share = 0.5
    """Probability of a mirror image along the first axis of the sample (left-right for axial and coronal)."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation in degrees, either way."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest change of size, as a fraction."""
    translate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest shift, as a fraction of the sample."""
    bias_field: Share = 0.0
    """Probability of a TorchIO bias field (mr only); likewise the four below."""
    motion: Share = 0.0
    ghosting: Share = 0.0
    spike: Share = 0.0
    noise: Share = 0.0


class Sample(Section):
    """What a training sample is and how it is drawn."""

    axes: Literal["axial", "coronal", "sagittal", "all"] = "axial"
    """Which planes 2D training and translation use. all (mr, ct): each sample's direction is drawn at random, the same
    for both domains, and translation takes the median of all three; for scans with the same spacing along all axes
    (prepare.spacing), and three times as slow to translate."""
    size: tuple[Count, ...] = (256, 256)
    """Voxels of a sample: two numbers make 2D slices, three make 3D patches. Smaller scans are padded with air."""
    context: Annotated[int, Field(ge=0, le=16)] = 0
    """mr, ct, 2D slices (then called 2.5D): so many neighbouring slices on either side become further channels of each
    sample. Generators give as many slices as they take; translation averages the overlapping ones."""
    resize: tuple[Count, Count] | None = None
    """image only: width and height that every picture is resized to (bicubic) before the sample is cut out of it at
    random; null keeps each picture's own. The original resizes to 286 and cuts 256."""
    hold: Literal["auto", "memory", "device"] = "auto"
    """image only: where the decoded pictures wait. auto: on the GPU if they take less than a quarter of its free
    memory, else in memory."""
    foreground: Share = 0.9
    """mr, ct: probability that a sample is drawn where there is tissue; the rest is drawn anywhere."""
    match_position: bool = False
    """Draw the plane (or patch) of B at about the same relative height in the body as that of A."""
    augment: Augment = Augment()

    @field_validator("size")
    @classmethod
    def _two_or_three(cls, size: tuple[int, ...]) -> tuple[int, ...]:
        if len(size) not in (2, 3):
            raise ValueError(f"needs two numbers (slices) or three (patches), found {len(size)}")
        return size

    @property
    def planes(self) -> int:
        """Planes that a sample holds as channels."""
        return 2 * self.context + 1


class Structure(Section):
    """Weights of losses between what a generator is given and what it makes, blind to contrast; 0 switches one off."""

    gradient_correlation: Annotated[float, Field(ge=0)] = 0.0
    """Edges in the same places and of the same sign (Hiasa 2018)."""
    mind: Annotated[float, Field(ge=0)] = 0.0
    """The same likeness of every voxel to its neighbours (MIND: Heinrich 2012; Yang 2020)."""
    mutual_information: Annotated[float, Field(ge=0)] = 0.0
    """One image tells the other's values (Viola & Wells 1997)."""
    outline: Annotated[float, Field(ge=0)] = 0.0
    """The same outline of the body (soft Dice)."""
    patch_nce: Annotated[float, Field(ge=0)] = 0.0
    """Features of the generator's encoder know every place among others (PatchNCE: Park 2020). A step takes
    about a third longer."""
    warm_up: Annotated[int, Field(ge=0)] = 0
    """Steps over which these weights grow from 0."""


class Contrast(Section):
    """L1 distance of what is made to a first guess of it: each value becomes what a curve says, which is fitted without
    pairs to where in the body which values lie in either domain (medcycle/training/contrast.py). For MR -> MR, where
    some tissues that are bright in A are dark in B: training alone seldom finds that out."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """At the first step; 0 switches it off. Needs `prepare.foreground`, and goes with loss.identity 0, which asks that
    the same values stay as they are."""
    steps: Count | None = None
    """Steps over which the weight falls to 0; null: all of the training (where it is resumed with more
    epochs: all of these)."""


class Loss(Section):
    """Weights of the losses (Zhu 2017, eq. 3 and section 5.2)."""

    adversarial: Literal["lsgan", "bce", "hinge", "wgan-gp"] = "lsgan"
    cycle: Annotated[float, Field(ge=0)] = 10.0
    identity: Annotated[float, Field(ge=0)] = 0.5
    """Relative to `cycle`, as in the original; 0 switches it off."""
    gradient_penalty: Annotated[float, Field(ge=0)] = 10.0
    """wgan-gp only (Gulrajani 2017, eq. 3)."""
    body_only: bool = False
    """mr, ct: what is made is set to air outside the body before it is judged, and the cycle, identity and adversarial
    losses count the body only. Needs `prepare.foreground`."""
    r1: Annotated[float, Field(ge=0)] = 0.0
    """Gradients of the discriminators at real images, beside any adversarial loss (Mescheder 2018, eq. 9, whose gamma
    this is; 10 there). Steadies discriminators that win too early; a step takes about a twentieth longer."""
    mask: Annotated[float, Field(ge=0)] = 0.0
    """Mean of the generators' masks (the sparse loss of Chen 2018); model.generator.kind masked only."""
    values: Annotated[float, Field(ge=0)] = 0.0
    """mr, ct: distance of the values inside the body of made and real samples as distributions (Wasserstein): as much
    bone as there should be. For samples of the same part of the body (`sample.match_position`); needs
    `prepare.foreground`."""
    contrast: Contrast = Contrast()
    structure: Structure = Structure()


class Pairs(Section):
    """A few registered pairs: scans of both domains of one patient, in the same patient coordinates."""

    path: str | tuple[tuple[str, str], ...] | None = None
    """Pairs to train on besides: a .csv with a column for each domain, called by its name (or `a` and `b`; paths are
    relative to the .csv), and `patient` where you have it; or a list of [scan of A, scan of B]. The scans may be in the
    domains too. Pairs of held-out patients are measured instead."""
    validation: str | tuple[tuple[str, str], ...] | None = None
    """Pairs that are only measured, in the same form; their patients are held out of all training."""
    weight: Annotated[float, Field(gt=0)] = 10.0
    """Of the mean absolute error of both directions on one paired sample for every unpaired one; that of the
    adversarial loss is 1."""

    @field_validator("path", "validation", mode="before")
    @classmethod
    def _two_each(cls, value: Any) -> Any:
        listed = isinstance(value, list | tuple) and len(value) > 0
        if listed and all(isinstance(p, list | tuple) and [type(s) for s in p] == [str, str] for p in value):
            return tuple(tuple(pair) for pair in value)
        if value is not None and not (isinstance(value, str) and value.lower().endswith(".csv")):
            raise ValueError(f"found {value!r}; expected a .csv, or a list of [scan of A, scan of B]")
        return value

    @model_validator(mode="after")
    def _something(self) -> Pairs:
        if self.path is None and self.validation is None:
            raise ValueError("needs `path`, `validation` or both; take the section out if there are no pairs")
        return self


class Train(Section):
    """The schedule and the machine."""

    epochs: Annotated[int, Field(ge=0)] = 100
    """Epochs at the full learning rate."""
    decay_epochs: Annotated[int, Field(ge=0)] = 100
    """Epochs over which it then falls linearly to zero."""
    samples_per_epoch: Count | None = None
    """null: the larger domain's number of slices (or patches)."""
    batch_size: Count = 1
    """Samples of each domain in a step, over all processes together."""
    microbatch: Count | None = None
    """Samples computed at once, gradients added up: less memory, same result. null: what `memory` chooses."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    pool: Annotated[int, Field(ge=0)] = 50
    """Size of the image buffer (Shrivastava 2017); 0 switches it off."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the generators' moving average, which is then what is exported; 0 switches it off."""
    calibrate: bool = False
    """Whether one curve gives the brighter half of the tissue that a generator makes (in CT, bone) the distribution of
    values that the target domain's training scans have (histogram matching), found anew for every model that is
    written. For domains that show the same part of the body: what there is more of in one of them is made more of."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the device has it, else fp32. Last layer and losses are always fp32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of each process. 0: all, or OMP_NUM_THREADS; of small samples, too little work to share, two at most
    (the two directions side by side; more cores are used by more processes, through torchrun). A resumed run is exact
    with the same number."""
    memory: Literal["auto", "batched", "split", "checkpointed"] = "auto"
    """How a step is computed: `batched`, as much at once as the device does well (a GPU all samples, a CPU both
    directions side by side); `split`, one sample and one direction at a time; `checkpointed`, and the generators' inner
    values again in the backward pass (less memory yet, a fifth more time). auto: the first that fits the free memory,
    measured before training."""
    cuda_graph: bool = True
    """GPU: record the step once and replay it, where that is possible; a line tells."""
    seed: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 1
    """Threads that draw samples ahead; 0 draws in the training thread."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the patients held out (rounded down; the same patients in both domains)."""
    log_every: Count = 50
    """Steps between two rows of metrics.csv."""
    preview_every: Count = 500
    """Steps between two previews."""
    checkpoint_every: Count = 1000
    """Steps between two checkpoints and exports, of which the newest two are kept, and two looks for trouble."""
    best: Literal["balance", "agreement", "cycle", "kernel_distance"] | None = "balance"
    """Which checkpoint's models are kept in RUN/best, beside the last ones in RUN. Measured without pairs on 16 fixed
    samples, held out where any are; the mean of both directions, the lowest wins. balance: agreement and likeness to
    the target domain, each relative to having none; agreement: MIND of input and output (the lowest for a network that
    copies); cycle: L1; kernel_distance: of outputs to real samples. null keeps none."""
