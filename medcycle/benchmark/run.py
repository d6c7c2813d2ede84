"""A benchmark, read top to bottom: data, training, translation of both test sets, figures beside the published ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from medcycle.benchmark.pictures import grid
from medcycle.benchmark.published import Published, context_of, other_pictures, tasks_of
from medcycle.benchmark.record import PLAN, facts_of, open_plan
from medcycle.benchmark.schedule import label, steps_of
from medcycle.benchmark.scores import Animals, Names, choose_extractor, distances, halves, passes
from medcycle.benchmark.sets import MINIATURE, DataSet, identity, open_data_set
from medcycle.benchmark.table import Direction, print_benchmark, report_facts
from medcycle.config import Config, load_config
from medcycle.data import read_picture
from medcycle.data.textures import PARTS
from medcycle.device import resolve_device
from medcycle.errors import ConfigError
from medcycle.evaluation.distances import counts_note
from medcycle.evaluation.features import Extractor, Features, features_of_folder
from medcycle.evaluation.report import write_training_report
from medcycle.inference import Translator, translate_paths
from medcycle.io import find_scans, read_volume, scan_name, write_volume
from medcycle.io.files import refused_leaves_nothing, staged, stored, write_file
from medcycle.training.checkpoint import checkpoints
from medcycle.training.loop import train

SHOWN = 4  # rows of the picture grid


def run_benchmark(
    name: str,
    out: str | Path,
    *,
    data: str | Path = "data",
    budget: float | None = None,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    url: str | None = None,
) -> Path:
    """Train on a data set, translate its test sets at the final epoch, and measure; run again, it goes on.

    Args:
        name: a published data set (``medcycle.data.download.DATASETS``), "miniature", or a folder of one's own with
            trainA, trainB, testA and testB, called X2Y for domains X and Y.
        out: made if missing. Holds run/, fake_A/ and fake_B/ (and real_A/, real_B/ where the test pictures are
            resized), grid.png, report.html and benchmark.json at the end.
        data: folder of the data sets.
        budget: seconds of training; shortens the schedule, and every figure is labelled so. None: the whole schedule.
        weights: the file inception-2015-12-05.pt. None fetches it once; without it, a stand-in network is used and
            named, and no figure is called FID.
        overrides: ``section.key=value`` of the configuration.
        url: where to download from instead.

    Returns:
        The path of benchmark.json.

    Raises:
        MedcycleError: as the single commands do; and where `out` holds another benchmark.
        KeyboardInterrupt: stopped in training, and saved.
    """
    out = Path(out)
    with refused_leaves_nothing(out, PLAN, "real_A", "real_B", "cache", "calibration"):
        return _run(name, out, Path(data), budget, weights, overrides, url)


def _run(
    name: str,
    out: Path,
    data: Path,
    budget: float | None,
    weights: str | Path | None,
    overrides: Sequence[str],
    url: str | None,
) -> Path:
    console = Console(stderr=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a benchmark runs in one process. Train with torchrun and `medcycle train` for several.")
    plan = open_plan(out, identity(name), budget, overrides)

    console.rule(f"1 of 4: the pictures of {name}")
    chosen = open_data_set(name, data, overrides, out / "cache", url=url, console=console)
    settings = [*chosen.settings, *overrides]
    published, config = load_config(chosen.config, chosen.settings), load_config(chosen.config, settings)
    plan.save()
    # Measured first: a picture or a weights file that cannot be used is found before the training.
    device = str(resolve_device(config.train.device))
    extractor, why = choose_extractor(None if weights is None else Path(weights), device, fetch=name != MINIATURE)
    real = _real_pictures(chosen, config, out)
    measured = {domain: features_of_folder(folder, extractor) for domain, folder in real.items()}
    animals = Animals.of(chosen.folder) if name == MINIATURE else None

    console.rule(f"2 of 4: training ({chosen.config})")
    config = load_config(chosen.config, [*settings, *plan.fit(chosen.config, settings, console)])
    run, before = out / "run", plan.trained()
    outcome = train(config, run, resume=bool(checkpoints(run / "checkpoints")), console=console)
    plan.add_session(before, outcome.step, outcome.seconds)
    if not outcome.finished:
        raise KeyboardInterrupt
    called = label(outcome.step, steps_of(published), config.train.batch_size, published.train.batch_size)

    console.rule("3 of 4: translating both test sets with the final epoch's models")
    ways = _ways(config, run, real, out)
    for way in ways:
        with staged(way.fake) as draft:
            translate_paths(way.translator, way.source, draft, format="png")

    console.rule("4 of 4: figures")
    tasks = tasks_of(name, config.domains.a.name, config.domains.b.name)
    directions = [_measure(way, task, measured, extractor, animals) for way, task in zip(ways, tasks, strict=True)]
    facts = facts_of(plan, called, config, device, extractor, outcome.step, steps_of(published))
    notes = [why] if why else []
    notes += [f"changed from {chosen.config}: {', '.join(overrides)}"] if overrides else []
    precision = facts["training"]["precision"]
    notes += [f"trained in {precision}; the original trains in fp32"] if precision != "fp32" else []
    notes += other_pictures(name, [len(find_scans(chosen.folder / part)) for part in PARTS])
    pairs = [(len(measured[way.domain].names), len(measured[way.target].names)) for way in ways]
    notes += dict.fromkeys(counts_note(*pair, extractor) for pair in pairs)
    notes += context_of(name)
    facts |= {"directions": {d.task: d.to_dict() for d in directions}, "notes": notes}
    picture = _grid(ways, config)
    write_file(out / "grid.png", picture)
    write_training_report(
        out / "report.html",
        title=f"{chosen.name}: {called}",
        pictures=[("The first test pictures, both ways", picture)],
        curves={},
        facts=report_facts(directions, called, notes) | {"Feature network": extractor.name},
    )
    write_file(out / "benchmark.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    print_benchmark(chosen.name, called, extractor.name, directions, notes)
    print(f"{outcome.step:,} steps: {facts['training']['speed']}. Pictures and figures: {out / 'report.html'}")
    return out / "benchmark.json"


@dataclass(frozen=True)
class _Way:
    """One direction: from the test pictures `source` of domain `domain` ("A" or "B") to `fake`, of the other."""

    domain: str
    target: str
    translator: Translator
    source: Path
    fake: Path


def _ways(config: Config, run: Path, real: dict[str, Path], out: Path) -> list[_Way]:
    """A to B, then B to A, by the run's exported models: the final epoch's."""
    found = []
    for domain, target, to in (("A", "B", config.domains.b.name), ("B", "A", config.domains.a.name)):
        translator = Translator.load(
            run,
            to=to,
            device=config.train.device,
            precision=config.train.precision,
            resize=_test_size(config),
        )
        target_domain = translator.model.target  # its pictures are written as the original's program writes them
        translator.model.target = replace(target_domain, preparation=replace(target_domain.preparation, truncate=True))
        found.append(_Way(domain, target, translator, real[domain], out / f"fake_{target}"))
    return found


def _measure(
    way: _Way,
    task: tuple[str, tuple[Published, ...]],
    measured: Mapping[str, Features],
    extractor: Extractor,
    animals: Animals | None,
) -> Direction:
    """The figures of one direction, of its baselines, and the miniature's verdict."""
    names, target = Names.of(extractor), measured[way.target]
    ours = distances(features_of_folder(way.fake, extractor), target, names)
    same = distances(measured[way.domain], target, names)
    passed = None
    if animals is not None:
        ours |= animals.figures(way.fake, f"test{way.domain}")
        same |= animals.figures(way.source, f"test{way.domain}")
        passed = passes(ours) if way.domain == "A" else None
    return Direction(task[0], ours, same, halves(target, names), len(target.names), task[1], passed)


def _test_size(config: Config) -> tuple[int, int] | None:
    """Width and height of test pictures: the original resizes them to what it cuts in training."""
    width, height, *_ = config.sample.size
    return (width, height) if config.sample.resize is not None else None


def _real_pictures(chosen: DataSet, config: Config, out: Path) -> dict[str, Path]:
    """Folders of the test pictures as they are translated and compared: resized, where the configuration resizes."""
    size = _test_size(config)
    if size is None:
        return {"A": chosen.folder / "testA", "B": chosen.folder / "testB"}
    for domain in "AB":
        with staged(out / f"real_{domain}") as draft:
            draft.mkdir()
            for path in find_scans(chosen.folder / f"test{domain}"):
                volume = read_volume(path)
                write_volume(volume.replace(array=read_picture(path, size)), draft / f"{scan_name(path)}.png")
    return {"A": out / "real_A", "B": out / "real_B"}


def _grid(ways: list[_Way], config: Config) -> bytes:
    """Real, translated and translated back, of both domains side by side."""
    names = {"A": config.domains.a.name, "B": config.domains.b.name}
    captions: list[str] = []
    columns: list[list[Any]] = []
    for way, back in ((ways[0], ways[1]), (ways[1], ways[0])):
        captions += [f"{names[way.domain]}: real", f"as {names[way.target]}", f"back to {names[way.domain]}"]
        files = sorted(find_scans(way.fake))[:SHOWN]
        columns.append([read_picture(path, _test_size(config)) for path in find_scans(way.source)[: len(files)]])
        columns.append([read_picture(path) for path in find_scans(way.fake)[:SHOWN]])
        columns.append([stored(back.translator(path)) for path in find_scans(way.fake)[:SHOWN]])
    return grid(captions, list(zip(*columns, strict=False)))
