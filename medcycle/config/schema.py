"""A configuration as a whole: its sections, and what one asks of another."""

from __future__ import annotations

from pydantic import model_validator

from medcycle.config.networks import Architecture, MaskedConfig, UnetConfig, VitConfig
from medcycle.config.section import Section
from medcycle.config.sections import Domain, Domains, Loss, Pairs, Prepare, Sample, Train

NEEDS_BODY = "needs the body: domains of mr or ct, and prepare.foreground: true (null is false between two ct domains)"


class Config(Section):
    """The whole of a training run."""

    domains: Domains
    prepare: Prepare = Prepare()
    sample: Sample = Sample()
    model: Architecture = Architecture()
    loss: Loss = Loss()
    pairs: Pairs | None = None
    """null: none."""
    train: Train = Train()

    def inverted(self, domain: Domain) -> bool:
        """Whether a domain's scans are inverted inside the body."""
        return domain.modality == "mr" and (self.prepare.invert if domain.invert is None else domain.invert)

    @model_validator(mode="after")
    def _together(self) -> Config:
        problems = []
        augment = self.sample.augment
        inverted = self.prepare.invert or any(self.inverted(domain) for domain in (self.domains.a, self.domains.b))
        if inverted and self.prepare.foreground is False:
            problems.append("prepare.invert needs prepare.foreground: air around the body would become the brightest")
        for key, domain in (("a", self.domains.a), ("b", self.domains.b)):
            if domain.invert is not None and domain.modality != "mr":
                problems.append(f"domains.{key}.invert is for modality mr; HU and pictures are taken as they are")
        if inverted and any((augment.bias_field, augment.motion, augment.ghosting, augment.spike)):
            problems.append("sample.augment's bias_field, motion, ghosting and spike need prepare.invert: false")
        if self.prepare.invert and "image" in (self.domains.a.modality, self.domains.b.modality):
            problems.append(
                "prepare.invert needs mr and ct: in pictures (modality image) nothing tells air from tissue"
            )
        if self.loss.body_only and not self._bodies():
            problems.append(f"loss.body_only {NEEDS_BODY}")
        if self.loss.values and not self._bodies():
            problems.append(f"loss.values {NEEDS_BODY}")
        if self.loss.contrast.weight and not self._bodies():
            problems.append(f"loss.contrast {NEEDS_BODY}")
        if self.loss.contrast.weight and self.prepare.orientation is None:
            problems.append("loss.contrast needs prepare.orientation, such as RAS: regions are told along the axes")
        if self.train.calibrate and not self._bodies():
            problems.append(f"train.calibrate {NEEDS_BODY}")
        if self.prepare.floor > -1 and not self._bodies():
            problems.append(f"prepare.floor {NEEDS_BODY}")
        if self.prepare.floor > -1 and any((augment.bias_field, augment.motion, augment.ghosting, augment.spike)):
            problems.append("sample.augment's bias_field, motion, ghosting and spike need prepare.floor: -1")
        if self.prepare.cavities and not inverted:
            problems.append("prepare.cavities is for prepare.invert: true; without it, air inside is dark anyway")
        if self.pairs is not None and self.pictures:
            problems.append(
                "pairs are of scans (modality mr or ct, or 3D samples); pictures have no patient coordinates"
            )
        problems += self._resizing()
        problems += self._of_scans()
        if not self._axes_in_order():
            problems.append(
                "sample.axes takes the axes for left-right, front-back and up-down, in this order; prepare.orientation "
                f"{self.prepare.orientation} has another. Take RAS, LPS or the like"
            )
        if self.train.epochs + self.train.decay_epochs == 0:
            problems.append("train.epochs + train.decay_epochs is 0: nothing would be trained")
        if len(self.sample.size) == 2 and self.sample.axes == "sagittal" and self.sample.augment.flip:
            problems.append("sample.augment.flip would swap front and back in sagittal planes; set it to 0")
        problems += self._penalties()
        problems += self._padding()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _penalties(self) -> list[str]:
        """What the discriminator and the generator must be for some of the losses."""
        problems = []
        if self.model.discriminator.norm == "batch":
            if self.loss.adversarial == "wgan-gp":
                problems.append(
                    "loss.adversarial wgan-gp needs a discriminator without batch norm (Gulrajani 2017, sec. 4)"
                )
            if self.loss.r1:
                problems.append("loss.r1 needs a discriminator without batch norm, which mixes the samples' gradients")
        generator = self.model.generator
        if self.loss.mask and not isinstance(generator, MaskedConfig):
            problems.append(
                f"loss.mask is the mean of a generator's mask, and model.generator.kind {generator.kind} has none; "
                "take kind masked, or loss.mask 0"
            )
        return problems

    def _resizing(self) -> list[str]:
        """Only pictures are resized, and a sample must fit into what comes out."""
        resize, size = self.sample.resize, self.sample.size
        if resize is None:
            return []
        if not self.pictures:
            return [
                "sample.resize needs modality image in both domains and a sample.size of two numbers; set "
                "prepare.spacing for scans"
            ]
        if any(r < s for r, s in zip(resize, size, strict=True)):
            return [f"sample.resize {list(resize)} is smaller than sample.size {list(size)}"]
        return []

    def _bodies(self) -> bool:
        """Whether both domains' scans have air set outside the body."""
        modalities = {self.domains.a.modality, self.domains.b.modality}
        set_to_air = modalities != {"ct"} if self.prepare.foreground is None else self.prepare.foreground
        return "image" not in modalities and set_to_air

    def _of_scans(self) -> list[str]:
        """Only planes that are cut out of scans have neighbours and other directions."""
        asked = ["sample.context"] if self.sample.context else []
        asked += ["sample.axes all"] if self.sample.axes == "all" else []
        modalities = (self.domains.a.modality, self.domains.b.modality)
        if not asked or (len(self.sample.size) == 2 and "image" not in modalities):
            return []
        why = "3D patches show all that anyway" if len(self.sample.size) == 3 else "pictures are single"
        return [f"{' and '.join(asked)}: only 2D samples of mr and ct (a sample.size of two numbers); {why}"]

    @property
    def pictures(self) -> bool:
        """Whether both domains are pictures, of which 2D samples are cut."""
        return self.domains.a.modality == self.domains.b.modality == "image" and len(self.sample.size) == 2

    def _padding(self) -> list[str]:
        """U-Nets pad every sample to a multiple of 2**downs: refuse what would be mostly padding."""
        generator, size = self.model.generator, self.sample.size
        if not isinstance(generator, UnetConfig | VitConfig) or 2**generator.downs <= max(size):
            return []
        largest = max(size).bit_length() - 1
        return [
            f"model.generator.downs {generator.downs} pads samples to a multiple of {2**generator.downs} voxels, more "
            f"than sample.size {list(size)} has; "
            + (f"take downs of at most {largest}, or larger samples" if largest >= 2 else "take larger samples")
        ]

    def _axes_in_order(self) -> bool:
        """Whether 2D samples are the planes that sample.axes names; 3D patches are no planes."""
        codes = self.prepare.orientation
        if len(self.sample.size) == 3 or codes is None:
            return True
        return all(code in pair for code, pair in zip(codes, ("RL", "AP", "SI"), strict=True))
