"""The whole job on phantom scans: write, train, translate, evaluate, report; no download, minutes on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from medcycle.config import load_config
from medcycle.console import print_result
from medcycle.data import write_cohort
from medcycle.evaluation import ct_baselines, evaluate
from medcycle.inference import Translator, translate_paths
from medcycle.io import find_scans
from medcycle.training.checkpoint import checkpoints
from medcycle.training.loop import train


def run_demo(out: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Path:
    """Run the demo in a folder; run again after an interruption, it goes on where it was.

    Args:
        out: made if missing. Holds scans/, run/, sct/ (NIfTI), sct-dicom/ and evaluation/ at the end.
        overrides: of quick.yaml.

    Returns:
        The report's path.

    Raises:
        MedcycleError: as the single commands do.
    """
    out = Path(out)
    console = Console(stderr=True)

    console.rule("1 of 4: phantom heads, MR of some and CT of others, as DICOM and NIfTI")
    scans = out / "scans"
    if not scans.is_dir():
        write_cohort(out / "scans.part").rename(scans)  # an interrupted writing is begun again

    console.rule("2 of 4: training on unpaired scans (quick.yaml)")
    folders = {
        "domains.a.path": scans / "train" / "mr",
        "domains.b.path": scans / "train" / "ct",
        "prepare.cache": out / "cache",
    }
    # Quoted: values are read as YAML, and a folder may be called anything.
    quoted = [f"{key}={json.dumps(str(folder))}" for key, folder in folders.items()]
    config = load_config("quick.yaml", [*quoted, *overrides])
    run = out / "run"
    outcome = train(config, run, resume=bool(checkpoints(run / "checkpoints")), console=console)
    if not outcome.finished:
        raise KeyboardInterrupt

    console.rule("3 of 4: translating the MR of held-out heads to CT, NIfTI and DICOM")
    translator = Translator.load(run, to="ct")
    translate_paths(translator, scans / "test" / "mr", out / "sct", overwrite=True)
    translate_paths(translator, scans / "test" / "mr_dicom", out / "sct-dicom", overwrite=True)

    console.rule("4 of 4: scoring against the heads' true CT")
    test = scans / "test"
    result = evaluate(
        out / "sct",
        test / "ct",
        test / "mask",
        out=out / "evaluation",
        inputs=test / "mr",
        baselines=ct_baselines(find_scans(scans / "train" / "ct")),
    )
    print_result(result)
    report = out / "evaluation" / "report.html"
    print(f"Training took {outcome.seconds / 60:.1f} min. Pictures and figures: {report}")
    return report
