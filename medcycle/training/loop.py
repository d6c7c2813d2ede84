"""The training run: read top to bottom, from the configuration to the exported models."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from medcycle.config import Config, dump_config, parse_config
from medcycle.console import scan_progress
from medcycle.data import BatchLoader
from medcycle.device import is_out_of_memory, resolve_device, resolve_precision
from medcycle.errors import CheckpointError, ConfigError, TrainingError
from medcycle.io.files import refused_leaves_nothing, write_file
from medcycle.training.checkpoint import checkpoints, read_checkpoint, restore_checkpoint
from medcycle.training.cohorts import Cohort, Pairs, data_digest, prepare_domains, samplers
from medcycle.training.graph import Stepper
from medcycle.training.keeper import Keeper
from medcycle.training.memory import choose, set_checkpointing, settings_that_fit
from medcycle.training.pairs import prepare_pairs, with_pairs
from medcycle.training.progress import Journal, SilentJournal
from medcycle.training.runtime import (
    Processes,
    SideBySide,
    computing,
    processes,
    random_state,
    set_random_state,
    share_parameters,
    stop_requests,
)
from medcycle.training.setup import (
    MakeNetwork,
    build_gan,
    check_batch,
    check_sample,
    contrast_curves,
    learning_rate,
    loss_settings,
    side_threads,
    thread_count,
)
from medcycle.training.watch import NotFiniteError, Watch, check_finite

# Settings that may differ when a run is resumed: they change neither the data nor the networks.
FREE = (
    *("domains.a.path", "domains.b.path", "pairs.path", "pairs.validation", "prepare.cache", "prepare.workers"),
    *("train.device", "train.precision", "train.workers", "train.memory", "train.microbatch"),
    "train.cuda_graph",
    *("train.epochs", "train.decay_epochs", "train.learning_rate"),
    *("train.log_every", "train.preview_every", "train.checkpoint_every", "train.best"),
    "train.calibrate",
)


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    run: Path
    step: int
    finished: bool
    seconds: float
    refused: int = 0
    """Scans that could not be used; RUN/refused.txt lists them."""


def train(
    config: Config,
    run: str | Path,
    *,
    resume: bool = False,
    make_generator: MakeNetwork | None = None,
    make_discriminator: MakeNetwork | None = None,
    console: Console | None = None,
    strict: bool = False,
) -> Outcome:
    """Train both directions and export them as RUN/A_to_B.safetensors and RUN/B_to_A.safetensors.

    Args:
        config: what to train on and how.
        run: folder of the run; must not hold one already, unless `resume`.
        resume: go on from the newest checkpoint (a run killed before its first one: from the start), exactly as if
            there had been no interruption.
        make_generator: your own network instead of `model.generator`: called with (in_channels, out_channels), those
            of `sample.context` included; maps (batch, in_channels, *space) to (batch, out_channels, *space) in [-1, 1].
        make_discriminator: likewise: called with (channels,), gives logits of any shape.
        console: where to show progress; the standard error by default.
        strict: stop if a single scan cannot be used; else train on the others and list it in RUN/refused.txt.

    Raises:
        ConfigError, ScanError, CheckpointError, TrainingError: each with what was found and what to do.
    """
    run = Path(run)
    device = resolve_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    threads = config.train.threads or torch.get_num_threads()
    # The run's config.yaml is written first, so that a run that is killed while it prepares can be resumed.
    clean = refused_leaves_nothing(run, "config.yaml", "refused.txt")
    with processes(device.type == "cuda") as process, computing(thread_count(config)), clean:
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
        cohorts, pairs = prepare_with_progress(config, console, strict=strict)
        refused = refusals(cohorts, pairs)
        if process.first:
            process.wait()
            _write_refusals(run, refused)
        unpaired, fixed_sampler = samplers(config, cohorts, device)
        sampler = with_pairs(config, unpaired, pairs)
        digest = data_digest(cohorts, pairs)
        if config.loss.contrast.weight:
            console.print("Fitting the contrast curves to the training scans")
        curves = contrast_curves(config, cohorts)
        names = {key: cohort.domain.name for key, cohort in cohorts.items()}

        # --- State
        channels = unpaired.channels
        make = functools.partial(
            build_gan,
            config,
            channels,
            precision=precision,
            rank=process.rank,
            make_generator=make_generator,
            make_discriminator=make_discriminator,
        )
        like = functools.partial(make, device=torch.device("cpu"))  # to be measured, without content
        gan = make(device=device)
        for held, curve in zip(gan.contrast_curves, curves, strict=False):
            held.copy_(torch.as_tensor(curve.values))
        random = random_state(device)
        memory = choose(config, gan, like, channels, side_threads(config, gan, threads))
        set_random_state(random, device)  # measuring has built other networks
        set_checkpointing(gan, memory.checkpointing)
        if memory.sides:
            gan.both = SideBySide(memory.sides)
        share_parameters(gan.networks)
        if saved is not None:
            restore_checkpoint(saved[0], saved[1], gan, process)
            if process.first:
                _write_config(run, config)
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
        say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
        say(memory.sentence())
        for curve, way in zip(curves, ("{a} to {b}", "{b} to {a}"), strict=False):
            say(curve.sentence(way.format(**names)), style=None if curve.trusted else "yellow")

        # --- Steps
        keeper = Keeper(
            run,
            config,
            gan,
            cohorts,
            digest,
            fixed_sampler,
            process,
            custom=make_generator is not None,
            pairs=pairs,
            curves=curves,
        )
        say(keeper.sentence())
        watch = Watch(names, keeper.prefix, config.loss.adversarial, tell=functools.partial(say, style="bold red"))
        began = time.monotonic()
        step = Stepper(
            gan,
            loss_settings(config, total),
            memory.microbatch,
            record=config.train.cuda_graph,
            process=process,
            tell=say,
        )
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
        journal: Journal | SilentJournal = Journal(run, start, total, console) if process.first else SilentJournal()
        watch.replay(journal.rows())
        with (
            journal,
            loader,
            stop_requests() as asked_to_stop,
            _memory_advice(run, lambda: settings_that_fit(config, memory, gan, like, channels)),
        ):
            while gan.step < total and not stopped:
                epoch = gan.step // steps_per_epoch
                gan.set_learning_rate(learning_rate(config, epoch))
                real_a, real_b, *pair = (images.to(device, non_blocking=True) for images in next(loader))
                values = step(real_a, real_b, *pair)
                sums = {name: sums.get(name, 0) + value for name, value in values.items()}
                count += 1
                journal.tick(gan.step)
                row = gan.step % config.train.log_every == 0 or gan.step == total
                keep = gan.step % config.train.checkpoint_every == 0 or gan.step == total
                stopped = process.any(asked_to_stop(), device)
                if row or keep or stopped or device.type == "cpu":  # reading a number from a GPU makes it wait
                    try:
                        check_finite(sums, values, gan, real_a, real_b, run, process, weights=keep or stopped)
                    except NotFiniteError as broken:
                        journal.record(gan.step, {"epoch": epoch} | watch.stop(gan.step, broken.found))
                        keeper.report(journal.history(), total, watch.episodes)
                        raise
                if row or keep or stopped:
                    means = {name: float(process.mean(value / count)) for name, value in sums.items()}
                    sums, count = {}, 0
                    figures = {"epoch": epoch, "learning_rate": learning_rate(config, epoch)} | means
                    figures |= keeper.validate() if keep else {}
                    figures |= watch.look(gan.step, figures, last=gan.step == total)
                    keeper.keep_best(figures)
                    journal.record(gan.step, figures)
                if gan.step % config.train.preview_every == 0 or gan.step == total:
                    keeper.preview()
                if keep or stopped:
                    keeper.save()
            if start >= total:  # nothing was left to do but what a stop right after the last checkpoint left undone
                keeper.export_both()
            keeper.report(journal.history(), total, watch.episodes)
        seconds = time.monotonic() - began
        if stopped and gan.step < total:
            console.print(f"Stopped after step {gan.step} and saved.")
        return Outcome(run, gan.step, gan.step >= total, seconds, len(refused))


def _open_run(run: Path, config: Config, resume: bool, process: Processes) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, or None for a new run; refuses to mix two runs."""
    # A run that was killed before its first checkpoint goes on from its start.
    begun = (run / "config.yaml").is_file() and not checkpoints(run / "checkpoints")
    if not resume or begun:
        if process.first:
            if checkpoints(run / "checkpoints") or list(run.glob("*.safetensors")):
                raise TrainingError(
                    f"{run}: holds a run already. Go on with it (--resume), or name another folder (--out)."
                )
            # Written first: finds out now, not after hours, whether the folder can be written.
            _write_config(run, config)
        process.wait()
        return None
    path, state = read_checkpoint(run / "checkpoints")
    before, now = _flat(_complete(state["config"])), _flat(config.model_dump(mode="json"))
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key) and not key.startswith(FREE)]
    if changed:
        lines = [f"  {key}: the run has {before.get(key)!r}, now {now.get(key)!r}" for key in changed]
        raise CheckpointError(
            f"{run}: cannot be resumed with other settings. Take these back (config.yaml in the run folder has all), "
            "or start a new run:\n" + "\n".join(lines)
        )
    return path, state


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's configuration with the defaults of keys that are younger than it."""
    try:
        return parse_config(values).model_dump(mode="json")
    except ConfigError:  # it has keys that are no more
        return values


def _write_config(run: Path, config: Config) -> None:
    write_file(run / "config.yaml", "# Resolved configuration of this run, defaults included.\n" + dump_config(config))


def _write_refusals(run: Path, refused: list[str]) -> None:
    if refused:
        write_file(run / "refused.txt", "\n".join(refused) + "\n")
    else:
        (run / "refused.txt").unlink(missing_ok=True)  # of a session before, whose scans have been mended


@contextmanager
def _memory_advice(run: Path, advice: Callable[[], str]) -> Iterator[None]:
    """Turn "out of memory" into the settings that need less of it."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"{run}: out of memory during training.{advice()}") from error


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def refusals(cohorts: dict[str, Cohort], pairs: Pairs | None) -> list[str]:
    """A line for every scan and pair that cannot be used, with its domain and the reason."""
    scans = [
        f"domains.{key} ({cohort.domain.name}): {message}"
        for key, cohort in cohorts.items()
        for _, message in cohort.refused
    ]
    return scans + (pairs.refused if pairs else [])


def prepare_with_progress(
    config: Config, console: Console, *, strict: bool = False
) -> tuple[dict[str, Cohort], Pairs | None]:
    """`prepare_domains` and `prepare_pairs` with a progress bar; lists what is refused at the end."""

    def warn(text: str) -> None:
        console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    with scan_progress("preparing", console) as progress:
        cohorts = prepare_domains(config, progress, warn, strict=strict)
        pairs = prepare_pairs(config, cohorts, progress, warn, strict=strict)
    for key, cohort in cohorts.items():
        console.print(
            f"domain {key} ({cohort.domain.name}): {len(cohort.training)} scans to train on, "
            f"{len(cohort.held_out)} held out",
            highlight=False,
            soft_wrap=True,
        )
    if pairs is not None:
        console.print(
            f"pairs: {len(pairs.training)} to train on, {len(pairs.held_out)} measured", highlight=False, soft_wrap=True
        )
    refused = refusals(cohorts, pairs)
    if refused:
        console.print(
            f"[yellow]warning:[/] {len(refused)} scan(s) cannot be used and are left out (--strict stops here):",
            highlight=False,
            soft_wrap=True,
        )
    for line in refused:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
    return cohorts, pairs
