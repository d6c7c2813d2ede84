"""The command line: one thin function a command, which imports what it needs; no logic."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medcycle.errors import ConfigError, MedcycleError
from medcycle.notices import is_first_process, show_warnings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Unpaired translation between medical image domains: MR to CT synthesis, scanner harmonization. "
    "Research use only.",
)
configs = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, copy and check configurations.")
app.add_typer(configs, name="config")

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="A YAML file, or the name of a shipped one.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Stop if a single scan cannot be used; else go on without it, and list it.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Override any key.")]

# What to do after Ctrl-C, by command.
_GOES_ON = "Run the same command again: it goes on where it was."
_AFTER_STOP = {
    "train": "Run the same command again; once a checkpoint is saved, with --resume.",
    "translate": "Finished files are kept, none is half-written. Translate the rest, or all again with --overwrite.",
    **dict.fromkeys(("prepare", "download", "benchmark", "demo"), _GOES_ON),
}


def main() -> None:
    """Run the command line; a MedcycleError, or a file system's refusal, becomes its message and exit code 2."""
    # Read when torch is imported: OpenMP threads that spin while they wait starve whatever else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    show_warnings()
    try:
        app()
    except MedcycleError as error:
        print(f"medcycle: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # what only looking at a path can raise: no permission for its folder, too long a name
        print(f"medcycle: error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        # typer makes an exit code of Ctrl-C, without a word.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            advice = _AFTER_STOP.get("".join(sys.argv[1:2]), "Run the same command again.")
            print(f"medcycle: stopped. {advice}", file=sys.stderr)
            sys.exit(130)
        raise


def _size(text: str) -> tuple[int, int]:
    """Two numbers of pixels from "256x256", or one from "256" for both."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise ConfigError(f"--resize {text}: expected WIDTHxHEIGHT in pixels, such as 256x256")
    return int(numbers[0]), int(numbers[-1])


def _version(show: bool) -> None:
    if show:
        from medcycle import __version__

        typer.echo(f"medcycle {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
def train(
    config: ConfigOption,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME of the configuration.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint, exactly.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")] = False,
    strict: StrictOption = False,
) -> None:
    """Train both directions from two folders of unpaired scans."""
    from medcycle.config import load_config

    settings = load_config(config, overrides or [])
    folder = out or Path("runs") / Path(config).stem
    first = is_first_process()  # of those that torchrun started: it speaks for all
    if dry_run:
        from medcycle.training.plan import plan

        facts = plan(settings) | {"run folder": f"{folder} (nothing written)"}
        if first:
            typer.echo("\n".join(f"{name + ':':<22} {fact}" for name, fact in facts.items()))
        return
    from medcycle.training.loop import train as run_training

    outcome = run_training(settings, folder, resume=resume, strict=strict)
    if not outcome.finished:
        if first:
            typer.echo("Go on with the same command and --resume.", err=True)
        sys.exit(130)
    if first:
        typer.echo(f"Done: {outcome.step} steps. Models, previews and report.html are in {outcome.run}")
        if outcome.refused:
            typer.echo(f"{outcome.refused} scan(s) could not be used: {outcome.run / 'refused.txt'}", err=True)


@app.command()
def prepare(config: ConfigOption, overrides: Overrides = None, strict: StrictOption = False) -> None:
    """Prepare the scans of a configuration ahead of training (training does it by itself)."""
    from rich.console import Console

    from medcycle.config import load_config
    from medcycle.training.loop import prepare_with_progress

    settings = load_config(config, overrides or [])
    prepare_with_progress(settings, Console(stderr=True), strict=strict)
    typer.echo(f"Prepared scans are in {settings.prepare.cache}")


@app.command()
def inspect(
    target: Annotated[
        list[str],
        typer.Argument(help="A configuration and SECTION.KEY=VALUE overrides; or files, folders, globs of scans."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Also write the audit: a page (.html), or all of it (.json).")
    ] = None,
) -> None:
    """Audit scans before training: geometry, intensities, what would be refused, suspicions."""
    from medcycle.console import print_audit, scan_progress
    from medcycle.training.plan import audit_targets

    if out is not None and out.suffix.lower() not in (".html", ".json"):
        raise ConfigError(f"--out {out}: an audit is written as .html (a page) or .json")
    with scan_progress("inspecting") as progress:
        found = audit_targets(target, progress)
    print_audit(found)
    if out is not None:
        import json

        from medcycle.evaluation.audit_page import audit_page
        from medcycle.io.files import write_file

        write_file(out, json.dumps(found.to_dict(), indent=2) if out.suffix.lower() == ".json" else audit_page(found))
    if any(scan.refused for domain in found.domains for scan in domain.scans):
        sys.exit(2)


@app.command()
def translate(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A scan, picture, video, DICOM folder, folder of many, glob.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A file (out.nii.gz, out.mp4), or a folder (of scans, or a DICOM series)."),
    ],
    model: Annotated[Path, typer.Option(help="A run folder, a .safetensors model, or the original's .pth.")],
    to: Annotated[str | None, typer.Option(help="Name of the domain to translate to; default b, from a.")] = None,
    format: Annotated[str | None, typer.Option(help="For many scans: nii.gz, mha, nrrd, png, mp4, mkv, dicom.")] = None,  # noqa: A002
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    series: Annotated[str | None, typer.Option(help="DICOM: which series of the folder.")] = None,
    resample_gaps: Annotated[
        bool, typer.Option("--resample-gaps", help="DICOM: accept missing or uneven slices, interpolated.")
    ] = False,
    deidentify: Annotated[
        bool,
        typer.Option(
            "--deidentify",
            help="DICOM: without patient, staff, institution, dates and the originals' UIDs (PS3.15 basic profile). "
            "Pixels and the names of files and folders stay.",
        ),
    ] = False,
    deterministic_uids: Annotated[
        bool,
        typer.Option(
            "--deterministic-uids", help="DICOM: UIDs and dates made from the source's: the same bytes again."
        ),
    ] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="At once; default 8 planes or 1 patch.")] = None,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="3D: overlap of the windows.")] = 0.5,
    statistics: Annotated[
        str, typer.Option(help="3D: what instance and group norms go by: the scan (equal for all tiles), or each tile.")
    ] = "scan",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.")] = "auto",
    axes: Annotated[
        str | None, typer.Option(help="A model of all directions: axial, coronal or sagittal planes alone.")
    ] = None,
    resize: Annotated[str | None, typer.Option(help="Pictures: WIDTHxHEIGHT to resize to first, as 256x256.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Frames a second of a video made of pictures; default 25.")
    ] = None,
    residual: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR|_SUFFIX",
            help="Also write |F(G(x)) - x|, what the way there and back changes, in the input's unit: into a file, a "
            "folder, or beside each output (_residual). DICOM: as .nii.gz.",
        ),
    ] = None,
    quality: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Add a row of each scan's structure agreement.")
    ] = None,
) -> None:
    """Translate scans, pictures, videos; the output has the input's grid and is written by the output's name.

    A line a scan tells how well the structure of input and output agree, and whether that is usual for the model.

    A DICOM series made from DICOM keeps its patient and study; one made from any other file gets an invented patient,
    whose ID is the name of the output folder.
    """
    from medcycle.console import scan_and_step_progress
    from medcycle.inference import Translator, translate_paths

    translator = Translator.load(
        model,
        to=to,
        device=device,
        batch_size=batch_size,
        overlap=overlap,
        statistics=statistics,
        precision=precision,
        resize=None if resize is None else _size(resize),
        axes=axes,
    )
    with scan_and_step_progress("translating") as (progress, steps):
        written = translate_paths(
            translator,
            source,
            out,
            format=format,
            overwrite=overwrite,
            series=series,
            resample_gaps=resample_gaps,
            deidentify=deidentify,
            deterministic_uids=deterministic_uids,
            rate=rate,
            residual=residual,
            quality=quality,
            tell=lambda name, figures: typer.echo(figures.line(name)),
            progress=progress,
            steps=steps,
        )
    what = "file" if translator.model.source.preparation.modality == "image" else "scan"
    typer.echo(f"{len(written)} {what}(s) written to {out}")


@app.command("check-tiling")
def check_tiling(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, or a .safetensors model.")],
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="A scan of the model's source domain.")],
    to: Annotated[str | None, typer.Option(help="Name of the domain to translate to; default b, from a.")] = None,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Overlap of the tiles.")] = 0.5,
    out: Annotated[Path | None, typer.Option(help="Also write the figures, as .json.")] = None,
    series: Annotated[str | None, typer.Option(help="DICOM: which series of the folder.")] = None,
    resample_gaps: Annotated[
        bool, typer.Option("--resample-gaps", help="DICOM: accept missing or uneven slices, interpolated.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Tiles at once; default 1.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.")] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if a warning is given.")] = False,
) -> None:
    """Compare a 3D model's tiled output with that of the scan at once, in the target's unit, inside the body.

    A mean above 10 HU (1 % of the range, for other units) is warned of.
    """
    from medcycle.console import scan_progress
    from medcycle.inference import Translator
    from medcycle.inference.tiling import check_tiling as check

    if out is not None and out.suffix.lower() != ".json":
        raise ConfigError(f"--out {out}: the figures are written as .json")
    translator = Translator.load(
        model, to=to, device=device, batch_size=batch_size, overlap=overlap, precision=precision
    )
    with scan_progress("checking") as progress:
        found = check(translator, translator.read(scan, series=series, resample_gaps=resample_gaps), progress)
    typer.echo("\n".join(found.lines()))
    if found.advice():
        typer.echo(f"warning: {found.advice()}", err=True)
    if out is not None:
        found.save(out)
    if strict and found.advice():
        sys.exit(1)


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Option(help="Folder (or file) of translated scans.")],
    reference: Annotated[
        Path | None, typer.Option(help="Folder (or file) of the truth, same names; fid: of real pictures.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Folder (or file) of masks, same names.")] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="The inputs: for the report's pictures, and for flicker.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(help="Pairs: synthrad2023, synthrad2025, anatomy, basic. Others: fid, cityscapes, flicker."),
    ] = "synthrad2023",
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.csv, metrics.json and report.html.")] = None,
    resample_gaps: Annotated[
        bool, typer.Option("--resample-gaps", help="DICOM: accept missing or uneven slices, interpolated.")
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="fid: inception-2015-12-05.pt; else fetched once.")] = None,
) -> None:
    """Score translated scans against the truth, pictures as a set, labels, or a video's flicker."""
    from medcycle.console import print_result, scan_progress
    from medcycle.evaluation import evaluate as score

    with scan_progress("evaluating") as progress:
        result = score(
            prediction, reference, mask, metrics, out, source, progress, resample_gaps=resample_gaps, weights=weights
        )
    print_result(result)
    if out is not None:
        typer.echo(f"Written: {', '.join(str(file) for file in result.files)}")


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="A data set of the CycleGAN paper, such as horse2zebra.")],
    to: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="Another server's address of the zip, or a zip already here.")] = None,
    sha256: Annotated[str | None, typer.Option(help="The checksum that the zip must have.")] = None,
) -> None:
    """Fetch a natural-image data set; run again after an interruption, it goes on where it was."""
    from medcycle.console import byte_progress
    from medcycle.data.download import download as fetch

    with byte_progress(f"downloading {name}") as progress:
        folder = fetch(name, to, url=url, sha256=sha256, progress=progress)
    typer.echo(f"{name} is in {folder}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a .safetensors model.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the files.")],
    to: Annotated[str, typer.Option(help="upstream: the original program's .pth files.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Write a run's networks for another program."""
    if to != "upstream":
        raise ConfigError(f"--to {to}: allowed is upstream, the original program's .pth files")
    from medcycle.inference.export import export_upstream

    for path in export_upstream(run, out, overwrite=overwrite):
        typer.echo(f"Wrote {path}")


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="A data set, miniature (made here), or a folder of your own.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder to work in; default runs/benchmark-NAME.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data"),
    budget: Annotated[str | None, typer.Option(help="A shorter schedule of about this time: 90s, 30m, 2h.")] = None,
    weights: Annotated[Path | None, typer.Option(help="inception-2015-12-05.pt; else fetched once.")] = None,
    url: Annotated[str | None, typer.Option(help="Another address of the data set's zip, or a zip here.")] = None,
) -> None:
    """Train the published schedule, translate both test sets, and print FID, KID, IS beside the published ones."""
    from medcycle.benchmark import parse_budget, run_benchmark

    seconds = None if budget is None else parse_budget(budget)
    folder = out or Path("runs") / f"benchmark-{Path(name).name}"
    run_benchmark(name, folder, data=data, budget=seconds, weights=weights, overrides=overrides or [], url=url)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to work in.")] = Path("demo"),
) -> None:
    """Phantom scans, training, translation, evaluation and report: the whole job in minutes on a CPU."""
    from medcycle.demo import run_demo

    run_demo(out)


@configs.command("list")
def config_list() -> None:
    """Show the shipped configurations."""
    from medcycle.config import shipped

    for name, path in shipped().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        typer.echo(f"{name:<20} {first.lstrip('# ')}")


@configs.command("copy")
def config_copy(
    name: Annotated[str, typer.Argument(help="A shipped configuration.")],
    to: Annotated[Path | None, typer.Argument(help="File or folder; default the same name here.")] = None,
) -> None:
    """Copy a shipped configuration here to edit it."""
    from medcycle.config import copy_config

    typer.echo(f"Wrote {copy_config(name, to)}")


@configs.command("check")
def config_check(config: Annotated[str, typer.Argument()], overrides: Overrides = None) -> None:
    """Check a configuration and show it with every default."""
    from medcycle.config import dump_config, load_config

    typer.echo(dump_config(load_config(config, overrides or [])), nl=False)
