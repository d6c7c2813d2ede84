"""The training run: read top to bottom, from the configuration to the exported models."""

from __future__ import annotations

import io
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

import medcycle
from medcycle.config import Config, dump_config
from medcycle.console import scan_progress
from medcycle.data import BatchLoader, UnpairedSampler
from medcycle.device import resolve_device, resolve_precision
from medcycle.errors import CheckpointError, TrainingError
from medcycle.io.files import write_file
from medcycle.model import DomainInfo, Model, save_model
from medcycle.training.checkpoint import checkpoints, read_checkpoint, restore_checkpoint, save_checkpoint
from medcycle.training.losses import l1
from medcycle.training.preview import Plane, preview
from medcycle.training.progress import Journal
from medcycle.training.runtime import Processes, processes, share_parameters, stop_requests
from medcycle.training.setup import (
    Cohort,
    MakeNetwork,
    build_gan,
    check_batch,
    check_sample,
    data_digest,
    generator_arguments,
    learning_rate,
    loss_settings,
    prepare_domains,
    samplers,
)
from medcycle.training.step import CycleGAN, training_step

# Settings that may differ when a run is resumed: they change neither the data nor the networks.
FREE = (
    *("domains.a.path", "domains.b.path", "prepare.cache", "prepare.workers"),
    *("train.device", "train.precision", "train.workers", "train.checkpointing"),
    *("train.epochs", "train.decay_epochs", "train.learning_rate"),
    *("train.log_every", "train.preview_every", "train.checkpoint_every"),
)
FIXED_SAMPLES = 4  # shown in previews and measured in validation


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    run: Path
    step: int
    finished: bool
    seconds: float


def train(
    config: Config,
    run: str | Path,
    *,
    resume: bool = False,
    make_generator: MakeNetwork | None = None,
    make_discriminator: MakeNetwork | None = None,
    console: Console | None = None,
) -> Outcome:
    """Train both directions and export them as RUN/A_to_B.safetensors and RUN/B_to_A.safetensors.

    Args:
        config: what to train on and how.
        run: folder of the run; must not hold one already, unless `resume`.
        resume: go on from the newest checkpoint, exactly as if there had been no interruption.
        make_generator: your own network instead of `model.generator`: called with (in_channels, out_channels); maps
            (batch, in_channels, *space) to (batch, out_channels, *space) in [-1, 1].
        make_discriminator: likewise: called with (channels,), gives logits of any shape.
        console: where to show progress; the standard error by default.

    Raises:
        ConfigError, ScanError, CheckpointError, TrainingError: each with what was found and what to do.
    """
    run = Path(run)
    device = resolve_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    with processes(device.type == "cuda") as process:
        if device.type == "cuda" and process.world > 1:
            device = torch.device("cuda", process.local_rank)
        console = (console or Console(stderr=True)) if process.first else Console(quiet=True)
        check_batch(config, process.world)
        if make_discriminator is None:
            check_sample(config)
        saved = _open_run(run, config, resume, process)

        # --- Data: the first process prepares, the others then read its cache.
        if not process.first:
            process.wait()
        cohorts = prepare_with_progress(config, console)
        if process.first:
            process.wait()
        sampler, fixed_sampler = samplers(config, cohorts)
        digest = data_digest(cohorts)

        # --- State
        channels = cohorts["a"].channels, cohorts["b"].channels
        gan = build_gan(
            config,
            channels,
            device,
            precision,
            rank=process.rank,
            make_generator=make_generator,
            make_discriminator=make_discriminator,
        )
        share_parameters(gan.networks)
        if saved is not None:
            restore_checkpoint(saved[0], saved[1], gan, process)
            if saved[1]["data"] != digest:
                warnings.warn(
                    f"{run}: the scans or their split have changed since this run was started; it goes on with the "
                    "scans of now, not as it would have without the interruption",
                    stacklevel=2,
                )
        batch_size = config.train.batch_size
        steps_per_epoch = -(-(config.train.samples_per_epoch or sampler.samples_per_epoch) // batch_size)
        total = steps_per_epoch * (config.train.epochs + config.train.decay_epochs)
        console.print(
            f"Training {config.domains.a.name} <-> {config.domains.b.name} on {device} in {precision}: step "
            f"{gan.step} of {total} ({steps_per_epoch} an epoch), {process.world} process(es), run {run}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )

        # --- Steps
        keeper = _Keeper(run, config, gan, cohorts, digest, fixed_sampler, process, custom=make_generator is not None)
        losses, began = loss_settings(config), time.monotonic()
        microbatch = config.train.microbatch or (1 if device.type == "cpu" and gan.batch_independent else None)
        sums: dict[str, Tensor] = {}
        count, start, stopped = 0, gan.step, False
        loader = BatchLoader(
            sampler,
            batch_size,
            start,
            config.train.workers,
            device.type == "cuda",
            rank=process.rank,
            world=process.world,
        )
        journal: Journal | Any = Journal(run, start, total, console) if process.first else _Silent()
        with journal, loader, stop_requests() as asked_to_stop:
            while gan.step < total and not stopped:
                epoch = gan.step // steps_per_epoch
                gan.set_learning_rate(learning_rate(config, epoch))
                real_a, real_b = (images.to(device, non_blocking=True) for images in next(loader))
                values = training_step(gan, real_a, real_b, losses, microbatch)
                sums = {name: sums.get(name, 0) + value for name, value in values.items()}
                count += 1
                journal.tick(gan.step)
                row = gan.step % config.train.log_every == 0 or gan.step == total
                keep = gan.step % config.train.checkpoint_every == 0 or gan.step == total
                stopped = process.any(asked_to_stop(), device)
                if row or keep or stopped or device.type == "cpu":  # reading a number from a GPU makes it wait
                    _check_finite(sums, values, gan, real_a, real_b, run, process)
                if row or keep or stopped:
                    means = {name: float(process.mean(value / count)) for name, value in sums.items()}
                    sums, count = {}, 0
                    extra = keeper.validate() if keep else {}
                    journal.record(
                        gan.step, {"epoch": epoch, "learning_rate": learning_rate(config, epoch)} | means | extra
                    )
                if gan.step % config.train.preview_every == 0 or gan.step == total:
                    keeper.preview()
                if keep or stopped:
                    keeper.save()
            if start >= total:  # nothing was left to do but what a stop right after the last checkpoint left undone
                keeper.export_both()
            if process.first:
                keeper.report(journal.history(), total)
        seconds = time.monotonic() - began
        if stopped and gan.step < total:
            console.print(f"Stopped after step {gan.step} and saved. Go on with the same command and --resume.")
        return Outcome(run, gan.step, gan.step >= total, seconds)


def _open_run(run: Path, config: Config, resume: bool, process: Processes) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, or None for a new run; refuses to mix two runs."""
    if not resume:
        if process.first:
            if checkpoints(run / "checkpoints") or list(run.glob("*.safetensors")):
                raise TrainingError(
                    f"{run}: holds a run already. Go on with it (--resume), or name another folder (--out)."
                )
            # Written first: finds out now, not after hours, whether the folder can be written.
            write_file(
                run / "config.yaml", "# Resolved configuration of this run, defaults included.\n" + dump_config(config)
            )
        process.wait()
        return None
    path, state = read_checkpoint(run / "checkpoints")
    before, now = _flat(state["config"]), _flat(config.model_dump(mode="json"))
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key) and not key.startswith(FREE)]
    if changed:
        lines = [f"  {key}: the run has {before.get(key)!r}, now {now.get(key)!r}" for key in changed]
        raise CheckpointError(
            f"{run}: cannot be resumed with other settings. Take these back (config.yaml in the run folder has all), "
            "or start a new run:\n" + "\n".join(lines)
        )
    return path, state


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def prepare_with_progress(config: Config, console: Console) -> dict[str, Cohort]:
    """`prepare_domains` with a progress bar."""
    with scan_progress("preparing", console) as progress:
        cohorts = prepare_domains(
            config,
            progress,
            lambda text: console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True),
        )
    for key, cohort in cohorts.items():
        console.print(
            f"domain {key} ({cohort.domain.name}): {len(cohort.training)} scans to train on, "
            f"{len(cohort.held_out)} held out",
            highlight=False,
            soft_wrap=True,
        )
    return cohorts


class _Silent:
    """Stands in for the journal in all processes but the first."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tick(self, step: int) -> None:
        pass

    def record(self, step: int, values: dict[str, float]) -> None:
        pass


class _Keeper:
    """Writes what a run keeps: checkpoints, exported models, previews, the report."""

    def __init__(
        self,
        run: Path,
        config: Config,
        gan: CycleGAN,
        cohorts: dict[str, Cohort],
        digest: str,
        fixed: UnpairedSampler,
        process: Processes,
        *,
        custom: bool,
    ) -> None:
        self.run, self.config, self.gan, self.cohorts, self.digest = run, config, gan, cohorts, digest
        self.process, self.custom = process, custom
        self.fixed = [
            tuple(torch.from_numpy(x).to(gan.device) for x in fixed.batch(n, 1)) for n in range(FIXED_SAMPLES)
        ]

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
        """Cycle and identity loss on fixed samples of held-out patients (none held out: nothing)."""
        if not self.process.first or not all(cohort.held_out for cohort in self.cohorts.values()):
            return {}
        found: dict[str, list[float]] = {}
        for n in range(FIXED_SAMPLES):
            images = self.cycle(n)
            for domain in "ab":
                for name, image in (("cycle", images[f"cycle_{domain}"]), ("identity", images[f"same_{domain}"])):
                    if image is not None:
                        real = images[f"real_{domain}"]
                        found.setdefault(f"validation_{name}_{domain}", []).append(float(l1(image, real)))  # type: ignore[arg-type]
        return {name: float(np.mean(values)) for name, values in found.items()}

    def preview(self) -> None:
        """Write previews/step-N.png."""
        if self.process.first:
            write_file(self.run / "previews" / f"step-{self.gan.step:08d}.png", self.picture())

    def picture(self) -> bytes:
        """The fixed samples through both directions, as a PNG."""
        rows: list[tuple[str, list[Plane | None], bool]] = []
        a, b = self.config.domains.a, self.config.domains.b
        for n in range(2):
            images = {k: None if v is None else v[0].float().cpu().numpy() for k, v in self.cycle(n).items()}
            ras = self.config.prepare.orientation == "RAS"
            upright_a, upright_b = ras and a.modality != "image", ras and b.modality != "image"
            rows.append((a.name, [images[k] for k in ("real_a", "fake_b", "cycle_a", "same_a")], upright_a))
            rows.append((b.name, [images[k] for k in ("real_b", "fake_a", "cycle_b", "same_b")], upright_b))
        return preview(rows)

    def save(self) -> None:
        """Write a checkpoint, then export both generators."""
        values = self.config.model_dump(mode="json")
        save_checkpoint(self.run / "checkpoints", self.gan, values, self.digest, self.process)
        self.export_both()

    def export_both(self) -> None:
        """Write both generators as model files."""
        if self.process.first:
            for source, target, network in (
                ("a", "b", self.gan.average_a_to_b),
                ("b", "a", self.gan.average_b_to_a),
            ):
                self.export(source, target, network)

    def export(self, source: str, target: str, network: torch.nn.Module) -> None:
        """Write RUN/SOURCE_to_TARGET.safetensors."""
        first, second = self.cohorts[source], self.cohorts[target]
        arguments = generator_arguments(self.config, first.channels, second.channels)
        model = Model(
            network=network,
            arguments={"kind": "custom"} if self.custom else arguments,
            source=DomainInfo(first.domain.name, first.preparation),
            target=DomainInfo(second.domain.name, second.preparation),
            sample={"axes": self.config.sample.axes, "size": list(self.config.sample.size)},
            provenance={
                "direction": f"{source}_to_{target}",
                "steps": self.gan.step,
                "scans": {c.domain.name: len(c.training) for c in (first, second)},
                "data": self.digest,
                "config": dump_config(self.config),
            },
        )
        save_model(self.run / f"{first.domain.name}_to_{second.domain.name}.safetensors", model)

    def report(self, curves: dict[str, tuple[list[int], list[float]]], total: int) -> None:
        """Write report.html: pictures first, then curves and facts."""
        from medcycle.evaluation.report import write_training_report

        a, b = self.cohorts["a"], self.cohorts["b"]
        write_training_report(
            self.run / "report.html",
            title=f"{a.domain.name} <-> {b.domain.name}",
            pictures=[("Rows: one domain each; columns: real, translated, back again, identity", self.picture())],
            curves=curves,
            facts={
                "Steps": f"{self.gan.step} of {total}",
                "Scans": f"{len(a.training)} {a.domain.name}, {len(b.training)} {b.domain.name}; held out "
                f"{len(a.held_out)} and {len(b.held_out)}",
                "Generator": json.dumps(self.config.model.generator.model_dump()) if not self.custom else "custom",
                "Loss": json.dumps(self.config.loss.model_dump()),
                "Precision": self.gan.precision,
                "medcycle": medcycle.__version__,
            },
        )


def _check_finite(
    sums: dict[str, Tensor],
    values: dict[str, Tensor],
    gan: CycleGAN,
    real_a: Tensor,
    real_b: Tensor,
    run: Path,
    process: Processes,
) -> None:
    """Stop, with a diagnosis, when a loss of this or an earlier step is NaN or infinite."""
    finite = bool(torch.isfinite(torch.stack(list(sums.values()))).all())
    if not process.any(not finite, gan.device):
        return
    folder = run / f"diagnosis-step-{gan.step:08d}-rank{process.rank}"
    now = {name: float(value) for name, value in values.items()}
    sick = [
        f"{name}.{key}"
        for name, network in gan.networks.items()
        for key, tensor in network.state_dict().items()
        if not torch.isfinite(tensor).all()
    ]
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
    broken = [name for name, value in sums.items() if not torch.isfinite(value)]
    raise TrainingError(
        f"Step {gan.step}: not finite: {', '.join(broken) or 'a loss in another process'}. {folder} holds the losses, "
        "the samples and which weights are broken; no checkpoint was written after it. The checkpoints before it are "
        "sound: go on with --resume and train.precision=fp32 or a lower train.learning_rate, and look for odd scans "
        "with `medcycle inspect`."
    )
