"""What a run keeps: checkpoints, exported models, previews, the report; and the diagnosis when a loss breaks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import medcycle
from medcycle.agreement import agreement_range
from medcycle.config import Config
from medcycle.data.loader import Sampler
from medcycle.data.unpaired import ALL
from medcycle.errors import TrainingError
from medcycle.io.files import write_file
from medcycle.model import DomainInfo, Model, save_model
from medcycle.training.card import CARD, digest, last_figures, model_card
from medcycle.training.checkpoint import save_checkpoint
from medcycle.training.cohorts import Cohort, Pairs, samples_as_translated
from medcycle.training.losses import l1
from medcycle.training.pairs import PairedErrors
from medcycle.training.preview import Plane, preview
from medcycle.training.runtime import Processes
from medcycle.training.setup import generator_arguments
from medcycle.training.step import CycleGAN

# Not told to whom a model is given: file names may name patients.
PRIVATE: dict[str, Any] = {
    "domains": {"a": {"path", "patient", "series"}, "b": {"path", "patient", "series"}},
    "prepare": {"cache"},
    "pairs": {"path", "validation"},
}
FIXED_SAMPLES = 4  # shown in previews and measured in validation
AGREEMENT_SAMPLES = 32  # whose structure agreement a model keeps


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
    ) -> None:
        self.run, self.config, self.gan, self.cohorts, self.digest = run, config, gan, cohorts, digest
        self.process, self.custom, self.sampler = process, custom, fixed
        self.agreements: dict[str, dict[str, Any] | None] = {}  # of the models written last, by their source
        self.pairs = pairs
        preparations = cohorts["a"].preparation, cohorts["b"].preparation
        self.paired_errors = PairedErrors(config, pairs.held_out if pairs else [], preparations)
        self.fixed = [tuple(torch.as_tensor(x).to(gan.device) for x in fixed.batch(n, 1)) for n in range(FIXED_SAMPLES)]

    @torch.no_grad()
    def cycle(self, n: int) -> dict[str, Tensor | None]:
        """Everything the exported generators make of one fixed pair of samples."""
        gan, (real_a, real_b) = self.gan, self.fixed[n]
        a_to_b, b_to_a = gan.average_a_to_b.eval(), gan.average_b_to_a.eval()
        fake_b, fake_a = a_to_b(real_a), b_to_a(real_b)
        same = self.config.loss.identity > 0
        pictures = {
            "real_a": real_a, "fake_b": fake_b, "cycle_a": b_to_a(fake_b), "same_a": b_to_a(real_a) if same else None,
            "real_b": real_b, "fake_a": fake_a, "cycle_b": a_to_b(fake_a), "same_b": a_to_b(real_b) if same else None,
        }  # fmt: skip
        for network in (gan.a_to_b, gan.b_to_a):
            network.train()
        return pictures

    def validate(self) -> dict[str, float]:
        """Cycle and identity loss on fixed samples of held-out patients (none held out: nothing); paired errors."""
        paired = self.paired_errors(self.gan) if self.process.first else {}
        if not self.process.first or not all(cohort.held_out for cohort in self.cohorts.values()):
            return paired
        found: dict[str, list[float]] = {}
        for n in range(FIXED_SAMPLES):
            images = self.cycle(n)
            for domain in "ab":
                for name, image in (("cycle", images[f"cycle_{domain}"]), ("identity", images[f"same_{domain}"])):
                    if image is not None:
                        real = images[f"real_{domain}"]
                        found.setdefault(f"validation_{name}_{domain}", []).append(float(l1(image, real)))  # type: ignore[arg-type]
        return {name: float(np.mean(values)) for name, values in found.items()} | paired

    def preview(self) -> None:
        """Write previews/step-N.png."""
        if self.process.first:
            write_file(self.run / "previews" / f"step-{self.gan.step:08d}.png", self.picture())

    def picture(self) -> bytes:
        """The fixed samples through both directions, as a PNG."""
        rows: list[tuple[str, list[Plane | None], bool]] = []
        a, b = self.config.domains.a, self.config.domains.b
        for n in range(2):
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

    def export_both(self) -> None:
        """Write both generators as model files, and their card."""
        if self.process.first:
            for source, target, network in (
                ("a", "b", self.gan.average_a_to_b),
                ("b", "a", self.gan.average_b_to_a),
            ):
                self.export(source, target, network)
            self.write_card()

    def export(self, source: str, target: str, network: torch.nn.Module) -> None:
        """Write RUN/SOURCE_to_TARGET.safetensors."""
        first, second = self.cohorts[source], self.cohorts[target]
        planes = self.config.sample.planes
        arguments = generator_arguments(self.config, planes * first.channels, planes * second.channels)
        model = Model(
            network=network,
            arguments={"kind": "custom"} if self.custom else arguments,
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
            },
        )
        save_model(self.run / f"{first.domain.name}_to_{second.domain.name}.safetensors", model)

    def agreement(self, source: str, target: str, network: torch.nn.Module) -> dict[str, Any] | None:
        """The range of structure agreement over held-out samples (else training ones).

        None for pictures, and for planes of all directions: translation fuses them, so that one alone compares ill.
        """
        first, second = self.cohorts[source], self.cohorts[target]
        if "image" in (first.domain.modality, second.domain.modality) or self.config.sample.axes == ALL:
            return None
        scans = first.held_out or first.training
        samples = samples_as_translated(self.config, scans, AGREEMENT_SAMPLES)
        found = agreement_range(
            network,
            (torch.as_tensor(sample).to(self.gan.device) for sample in samples),
            (first.channels, second.channels),
            self.config.sample.planes,
        )
        of = f"{len(scans)} {'held-out' if first.held_out else 'training'} scan(s)"
        self.agreements[source] = None if found is None else found | {"of": of}
        return self.agreements[source]

    def write_card(self) -> None:
        """Write RUN/MODEL_CARD.md."""
        facts = {
            "Steps": f"{self.gan.step} of batches of {self.config.train.batch_size}, in {self.gan.precision}",
            "Generator": "custom" if self.custom else json.dumps(self.config.model.generator.model_dump()),
            "Configuration": f"config.yaml, digest {digest(self.config.model_dump(mode='json', exclude=PRIVATE))}",
            "Scans and split": f"digest {self.digest}",
            "medcycle": medcycle.__version__,
        }
        figures = last_figures(self.run / "metrics.csv")
        write_file(self.run / CARD, model_card(self.config, self.cohorts, self.agreements, figures, facts))

    def report(self, curves: dict[str, tuple[list[int], list[float]]], total: int) -> None:
        """Write report.html: pictures first, then curves and facts."""
        from medcycle.evaluation.report import write_training_report

        a, b = self.cohorts["a"], self.cohorts["b"]
        refused = len(a.refused) + len(b.refused)
        write_training_report(
            self.run / "report.html",
            title=f"{a.domain.name} <-> {b.domain.name}",
            pictures=[("Rows: one domain each; columns: real, translated, back again, identity", self.picture())],
            curves=curves,
            facts={
                "Steps": f"{self.gan.step} of {total}",
                "Scans": f"{len(a.training)} {a.domain.name}, {len(b.training)} {b.domain.name}; held out "
                f"{len(a.held_out)} and {len(b.held_out)}"
                + (f"; {refused} refused, see refused.txt" if refused else ""),
                **({"Pairs": f"{len(self.pairs.training)}; measured {len(self.pairs.held_out)}"} if self.pairs else {}),
                "Generator": json.dumps(self.config.model.generator.model_dump()) if not self.custom else "custom",
                "Loss": json.dumps(self.config.loss.model_dump()),
                "Precision": self.gan.precision,
                "medcycle": medcycle.__version__,
            },
        )


def check_finite(
    sums: dict[str, Tensor],
    values: dict[str, Tensor],
    gan: CycleGAN,
    real_a: Tensor,
    real_b: Tensor,
    run: Path,
    process: Processes,
    *,
    weights: bool,
) -> None:
    """Stop, with a diagnosis, when a loss since the last row, or (if asked) a weight, is NaN or infinite."""
    finite = bool(torch.isfinite(torch.stack(list(sums.values()))).all())
    if not process.any(not finite or (weights and bool(_sick_weights(gan))), gan.device):
        return
    folder = run / f"diagnosis-step-{gan.step:08d}-rank{process.rank}"
    now = {name: float(value) for name, value in values.items()}
    sick = _sick_weights(gan)
    samples = {"real_a": real_a.float().cpu().numpy(), "real_b": real_b.float().cpu().numpy()}
    facts = {
        "step": gan.step,
        "losses": {name: value if np.isfinite(value) else str(value) for name, value in now.items()},
        "precision": gan.precision,
        "weights not finite": sick,
        "samples": {
            name: {"min": float(x.min()), "max": float(x.max()), "std": float(x.std())} for name, x in samples.items()
        },
    }
    write_file(folder / "diagnosis.json", json.dumps(facts, indent=2))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, real_a=samples["real_a"], real_b=samples["real_b"])
    write_file(folder / "samples.npz", buffer.getvalue())
    broken = [name for name, value in sums.items() if not torch.isfinite(value)] or (["weights"] if sick else [])
    raise TrainingError(
        f"Step {gan.step}: not finite: {', '.join(broken) or 'a loss in another process'}. {folder} holds the losses, "
        "the samples and which weights are broken; no checkpoint was written after it. The checkpoints before it are "
        "sound: go on with --resume and train.precision=fp32 or a lower train.learning_rate, and look for odd scans "
        "with `medcycle inspect`."
    )


def _sick_weights(gan: CycleGAN) -> list[str]:
    """Names of the parameters and buffers that hold a NaN or an infinity."""
    return [
        f"{name}.{key}"
        for name, network in gan.networks.items()
        for key, tensor in network.state_dict().items()
        if not torch.isfinite(tensor).all()
    ]
