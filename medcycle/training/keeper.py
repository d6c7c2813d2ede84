"""What a run keeps: checkpoints, exported models, the best among them, previews, the report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import medcycle
from medcycle.agreement import agreement_range
from medcycle.config import Config
from medcycle.data.augment import AIR
from medcycle.data.loader import Sampler
from medcycle.data.unpaired import ALL
from medcycle.errors import ModelError
from medcycle.io.files import write_file
from medcycle.model import CALIBRATION, DomainInfo, Model, read_header, save_model
from medcycle.networks.calibrated import CalibratedGenerator
from medcycle.training.calibration import calibrated
from medcycle.training.card import CARD, digest, last_figures, model_card, whose_scans
from medcycle.training.checkpoint import save_checkpoint
from medcycle.training.cohorts import Cohort, Pairs, samples_as_translated
from medcycle.training.contrast import ContrastCurve
from medcycle.training.pairs import PairedErrors
from medcycle.training.preview import Plane, preview
from medcycle.training.runtime import Processes
from medcycle.training.setup import generator_arguments
from medcycle.training.signs import DIRECTIONS, SAMPLES, Signs
from medcycle.training.step import CycleGAN, body
from medcycle.training.watch import Episode

# Not told to whom a model is given: file names may name patients.
PRIVATE: dict[str, Any] = {
    "domains": {"a": {"path", "patient", "series"}, "b": {"path", "patient", "series"}},
    "prepare": {"cache"},
    "pairs": {"path", "validation"},
}
AGREEMENT_SAMPLES = 32  # whose structure agreement a model keeps
BEST = "best"  # folder of the best models, in the run's
SHOWN = 2  # fixed samples in a preview


class Keeper:
    """Writes what a run keeps: checkpoints, exported models, previews, the report."""

    def __init__(
        self,
        run: Path,
        config: Config,
        gan: CycleGAN,
        cohorts: dict[str, Cohort],
        digest: str,
        fixed: Sampler,
        process: Processes,
        *,
        custom: bool,
        pairs: Pairs | None = None,
        curves: Sequence[ContrastCurve] = (),
    ) -> None:
        self.run, self.config, self.gan, self.cohorts, self.digest = run, config, gan, cohorts, digest
        self.process, self.custom, self.pairs, self.contrast_curves = process, custom, pairs, curves
        self._calibrated: tuple[int, tuple[nn.Module, nn.Module]] | None = None  # of which step
        self.agreements: dict[str, dict[str, Any] | None] = {}  # of the models written last, by their source
        preparations = cohorts["a"].preparation, cohorts["b"].preparation
        self.paired_errors = PairedErrors(config, pairs.held_out if pairs else [], preparations)
        self.held_out = all(cohort.held_out for cohort in cohorts.values())
        self.prefix = "validation_" if self.held_out else "seen_"
        """Of the signs' columns: measured on patients who are held out, or on scans that are trained on."""
        if process.first:
            pictures = any(cohort.domain.modality == "image" for cohort in cohorts.values())
            self.signs = Signs(fixed, gan.device, air=not pictures)
            self.best = self._best_so_far()

    @contextmanager
    def exported(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """The generators of A to B and of B to A as models hold them now: averaged, calibrated, in evaluation mode."""
        gan = self.gan
        found = gan.average_a_to_b.eval(), gan.average_b_to_a.eval()
        if self.config.train.calibrate:
            if self._calibrated is None or self._calibrated[0] != gan.step:
                a, b = self.cohorts["a"], self.cohorts["b"]
                how = gan.device, gan.precision
                a_to_b, b_to_a = found
                pair = calibrated(a_to_b, self.config, a, b, *how), calibrated(b_to_a, self.config, b, a, *how)
                self._calibrated = gan.step, pair
            found = self._calibrated[1]
        try:
            yield found
        finally:
            for network in (gan.a_to_b, gan.b_to_a):  # which may be their own averages
                network.train()

    @torch.no_grad()
    def cycle(self, n: int) -> dict[str, Tensor | None]:
        """Everything the exported generators make of one fixed pair of samples.

        With loss.body_only the body alone, in air, as training and translation have it.
        """
        real_a, real_b = self.signs.pair(n)
        body_only, same = self.config.loss.body_only, self.config.loss.identity > 0

        def inside(made: Tensor, real: Tensor) -> Tensor:
            return torch.where(body(real), made, AIR) if body_only else made

        with self.exported() as (a_to_b, b_to_a):
            fake_b, fake_a = inside(a_to_b(real_a), real_a), inside(b_to_a(real_b), real_b)
            return {
                "real_a": real_a, "fake_b": fake_b, "cycle_a": inside(b_to_a(fake_b), real_a),
                "real_b": real_b, "fake_a": fake_a, "cycle_b": inside(a_to_b(fake_a), real_b),
                "same_a": inside(b_to_a(real_a), real_a) if same else None,
                "same_b": inside(a_to_b(real_b), real_b) if same else None,
            }  # fmt: skip

    @torch.no_grad()
    def judged(self, n: int) -> dict[str, Tensor | None]:
        """The same, and what the discriminators answer to the real and the generated ones together."""
        images = self.cycle(n)
        for domain, critic in (("a", self.gan.discriminator_a), ("b", self.gan.discriminator_b)):
            critic.eval()  # or batch norm would take notice of these images
            images[f"scores_{domain}"] = torch.cat([critic(images[f"{kind}_{domain}"]) for kind in ("real", "fake")])
            critic.train()
        return images

    def validate(self) -> dict[str, float]:
        """The signs and the paired errors, by column."""
        if not self.process.first:
            return {}
        found = self.signs.measure(self.judged, self.config.train.best)
        columns = {f"{self.prefix}{name}": value for name, value in found.items()}
        with self.exported() as networks:
            columns |= self.paired_errors(*networks, self.gan.device)
        return columns

    def keep_best(self, figures: dict[str, float]) -> None:
        """Write RUN/best if the score among these is the best so far."""
        if not self.process.first:
            return
        score = figures.get(f"{self.prefix}score", math.nan)
        if score < self.best[0]:
            self.best = score, self.gan.step
            self.export_both(self.run / BEST, figures, best={"criterion": self.config.train.best, "score": score})

    def _best_so_far(self) -> tuple[float, int]:
        """Score and step of RUN/best, where both its files are of the same step of this run's past; else infinity."""
        found = []
        for source, target in (("a", "b"), ("b", "a")):
            try:
                facts = read_header(self.model_path(source, target, self.run / BEST))["provenance"]
                found.append((facts["best"]["criterion"], facts["data"], facts["best"]["score"], facts["steps"]))
            except (ModelError, KeyError, TypeError):
                return math.inf, 0
        criterion, data, score, step = found[0]
        same = found[0] == found[1] and (criterion, data) == (self.config.train.best, self.digest)
        return (score, step) if same and step <= self.gan.step else (math.inf, 0)

    def preview(self) -> None:
        """Write previews/step-N.png."""
        if self.process.first:
            write_file(self.run / "previews" / f"step-{self.gan.step:08d}.png", self.picture())

    def picture(self) -> bytes:
        """The fixed samples through both directions, as a PNG."""
        rows: list[tuple[str, list[Plane | None], bool]] = []
        a, b = self.config.domains.a, self.config.domains.b
        for n in range(SHOWN):
            images = {k: None if v is None else self._shown(v[0]) for k, v in self.cycle(n).items()}
            ras = self.config.prepare.orientation == "RAS"
            upright_a, upright_b = ras and a.modality != "image", ras and b.modality != "image"
            rows.append((a.name, [images[k] for k in ("real_a", "fake_b", "cycle_a", "same_a")], upright_a))
            rows.append((b.name, [images[k] for k in ("real_b", "fake_a", "cycle_b", "same_b")], upright_b))
        return preview(rows)

    def _shown(self, sample: Tensor) -> Plane:
        """What a preview shows of a sample: all of it, or the middle one of the planes that are its channels."""
        planes = self.config.sample.planes
        shown: Plane = sample.unflatten(0, (planes, -1))[planes // 2].float().cpu().numpy()
        return shown

    def save(self) -> None:
        """Write a checkpoint, then export both generators."""
        values = self.config.model_dump(mode="json")
        save_checkpoint(self.run / "checkpoints", self.gan, values, self.digest, self.process)
        self.export_both()

    def export_both(self, folder: Path | None = None, figures: dict[str, float] | None = None, **facts: Any) -> None:
        """Write both generators as model files, and their card, into the run's folder, or a folder in it.

        Args:
            folder: where; the run's own if None.
            figures: measured of these; None takes the newest of metrics.csv.
            facts: to be recorded in the files.
        """
        if self.process.first:
            with self.exported() as networks:
                for (source, target), network in zip(DIRECTIONS, networks, strict=True):
                    self.export(source, target, network, folder or self.run, facts)
            self.write_card(networks, folder or self.run, None if figures is None else self._written(figures))

    def _written(self, figures: dict[str, float]) -> dict[str, str]:
        """As metrics.csv will have them."""
        return {"step": str(self.gan.step)} | {name: f"{value:.6g}" for name, value in figures.items()}

    def model_path(self, source: str, target: str, folder: Path) -> Path:
        """FOLDER/SOURCE_to_TARGET.safetensors."""
        return folder / f"{self.cohorts[source].domain.name}_to_{self.cohorts[target].domain.name}.safetensors"

    def export(self, source: str, target: str, network: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
        """Write FOLDER/SOURCE_to_TARGET.safetensors."""
        first, second = self.cohorts[source], self.cohorts[target]
        planes = self.config.sample.planes
        arguments = generator_arguments(self.config, planes * first.channels, planes * second.channels)
        arguments = {"kind": "custom"} if self.custom else arguments
        if isinstance(network, CalibratedGenerator):
            arguments |= {CALIBRATION: len(network.made)}
        model = Model(
            network=network,
            arguments=arguments,
            source=DomainInfo(first.domain.name, first.preparation),
            target=DomainInfo(second.domain.name, second.preparation),
            sample=self.config.sample.model_dump(mode="json", include={"axes", "size", "resize", "context"}),
            provenance={
                "direction": f"{source}_to_{target}",
                "steps": self.gan.step,
                "scans": {c.domain.name: len(c.training) for c in (first, second)},
                **({"pairs": len(self.pairs.training)} if self.pairs else {}),
                "sites": {c.domain.name: c.sites for c in (first, second) if c.sites},
                "data": self.digest,
                "agreement": self.agreement(source, target, network),
                "config": self.config.model_dump(mode="json", exclude=PRIVATE),
            }
            | facts,
        )
        save_model(self.model_path(source, target, folder), model)

    def agreement(self, source: str, target: str, network: nn.Module) -> dict[str, Any] | None:
        """The range of structure agreement over held-out samples (else training ones).

        None for pictures. Of planes of all directions, which translation fuses, the axial ones are measured alone.
        """
        first, second = self.cohorts[source], self.cohorts[target]
        if "image" in (first.domain.modality, second.domain.modality):
            return None
        scans = first.held_out or first.training
        axes = "axial" if self.config.sample.axes == ALL else None
        samples = samples_as_translated(self.config, scans, AGREEMENT_SAMPLES, axes=axes)
        found = agreement_range(
            network,
            (torch.as_tensor(sample).to(self.gan.device) for sample in samples),
            (first.channels, second.channels),
            self.config.sample.planes,
        )
        of = f"{len(scans)} {'held-out' if first.held_out else 'training'} scan(s)"
        self.agreements[source] = None if found is None else found | {"of": of}
        return self.agreements[source]

    def write_card(self, networks: Sequence[nn.Module], folder: Path, figures: dict[str, str] | None) -> None:
        """Write FOLDER/MODEL_CARD.md of both directions' generators, with the newest figures unless some are given."""
        facts = {
            "Steps": f"{self.gan.step} of batches of {self.config.train.batch_size}, in {self.gan.precision}",
            "Generator": "custom" if self.custom else json.dumps(self.config.model.generator.model_dump()),
            "Configuration": f"config.yaml, digest {digest(self.config.model_dump(mode='json', exclude=PRIVATE))}",
            "Scans and split": f"digest {self.digest}",
            "medcycle": medcycle.__version__,
        }
        names = {key: cohort.domain.name for key, cohort in self.cohorts.items()}
        for (source, target), curve in zip(DIRECTIONS, self.contrast_curves, strict=False):
            facts[f"Contrast curve, {names[source]} to {names[target]}"] = (
                f"{curve.worth}; values from -1 to 1 become " + ", ".join(f"{value:.2f}" for value in curve.values)
            )
        if self.config.train.calibrate:
            curves = [
                f"{names[source]} to {names[target]}"
                for (source, target), network in zip(DIRECTIONS, networks, strict=True)
                if isinstance(network, CalibratedGenerator)
            ]
            facts["Calibrated to the tissue of the target's training scans"] = ", ".join(curves) or "no curve was found"
        figures = last_figures(self.run / "metrics.csv") if figures is None else figures
        write_file(folder / CARD, model_card(self.config, self.cohorts, self.agreements, figures, facts, self.pairs))

    def sentence(self) -> str:
        """What the signs are measured on, and when."""
        every, whose = self.config.train.checkpoint_every, whose_scans(self.cohorts)
        return f"Every {every} steps: signs of trouble on {SAMPLES} fixed samples of {whose}"

    def report(
        self, curves: dict[str, tuple[list[int], list[float]]], total: int, episodes: Sequence[Episode] = ()
    ) -> None:
        """Write report.html: pictures first, then alarms, curves and facts."""
        from medcycle.evaluation.report import write_training_report

        if not self.process.first:
            return
        a, b = self.cohorts["a"], self.cohorts["b"]
        refused = len(a.refused) + len(b.refused)
        write_training_report(
            self.run / "report.html",
            title=f"{a.domain.name} <-> {b.domain.name}",
            pictures=[("Rows: one domain each; columns: real, translated, back again, identity", self.picture())],
            curves={name: curve for name, curve in curves.items() if not name.startswith("alarm_")},
            alarms=[(e.kind.title, e.begin, e.end, e.found, e.kind.advice) for e in episodes],
            facts={
                "Steps": f"{self.gan.step} of {total}",
                "Scans": f"{len(a.training)} {a.domain.name}, {len(b.training)} {b.domain.name}; held out "
                f"{len(a.held_out)} and {len(b.held_out)}"
                + (f"; {refused} refused, see refused.txt" if refused else ""),
                **({"Pairs": f"{len(self.pairs.training)}; measured {len(self.pairs.held_out)}"} if self.pairs else {}),
                "Signs": self.sentence()
                + ("" if self.held_out else "; hence the columns seen_...")
                + "; kernel distance on features of medcycle-standin-v1",
                "Best model": f"{BEST}/, of step {self.best[1]} by {self.config.train.best} ({self.best[0]:.4g})"
                if self.best[1]
                else "none kept",
                "Generator": json.dumps(self.config.model.generator.model_dump()) if not self.custom else "custom",
                "Loss": json.dumps(self.config.loss.model_dump()),
                "Precision": self.gan.precision,
                "medcycle": medcycle.__version__,
            },
        )
