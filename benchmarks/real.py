"""Real pairs: python -m benchmarks.real --data DATA [--only harvard open-ms] [--steps 2000] [--seeds 1] [--out JSON]

DATA holds harvard-mr-ct (slices of eight patients, MR and CT as displayed) and open-ms (T1 and FLAIR of two patients,
and their lesions), which are not part of this repository. The classic model and mri2ct.yaml or mr2mr.yaml ("new")
train with the same sizes and steps, unpaired, and are scored on other patients.

Of open-ms, the T1 and the FLAIR to train on are of one patient, and the other is tested. "pair" is told so besides;
"classic-apart" and "apart" (the new one) train on T1 of the tested patient and FLAIR of the other, so that no patient
is in both domains. Two lines have no network: "curve" is the first guess that mr2mr.yaml begins with (`loss.contrast`),
and "told" the best function of the values of T1, fitted to the tested patient's own FLAIR: all that T1 says of FLAIR
without its place.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.machine import keep
from benchmarks.training import RESNET, UNET, run_training
from medcycle.config import load_config
from medcycle.evaluation.lesions import lesion_contrasts
from medcycle.inference import Translator, translate_paths
from medcycle.io import read_volume, write_volume
from medcycle.prepare import find_foreground
from medcycle.training.cohorts import Cohort, prepare_domains
from medcycle.training.setup import contrast_curves
from medcycle.volume import Volume

Array = npt.NDArray[Any]

SIZES = [
    *("model.discriminator.filters=32", "train.learning_rate=3e-4", "train.ema=0.998"),
    *("train.samples_per_epoch=100", "train.validation=0"),
    *("train.preview_every=1000", "train.checkpoint_every=1000", "train.log_every=100", "train.threads=1"),
]
CLASSIC = ("classic.yaml", [RESNET])
MODELS = {
    "harvard": {"classic": CLASSIC, "new": ("mri2ct.yaml", [UNET])},
    "open-ms": dict.fromkeys(("classic", "classic-apart"), CLASSIC)
    | dict.fromkeys(("new", "apart", "pair"), ("mr2mr.yaml", [UNET])),
}
UNTRAINED = ("curve", "told")  # of open-ms

# --- Harvard: CT as displayed, grey values, where 0 is air, fat and scalp, 100 the brain, and 255 bone ----------------

GREY = (0, 255)  # of the pictures, taken for
HU = (-1000, 2000)
RIM = 240  # grey: brighter is the skull
TESTED = ("case16", "case32", "case41")  # every third patient; the others are trained on


def harvard_scans(data: Path, scans: Path) -> None:
    """The slices of each patient as one volume: scans/train/mr, scans/train/ct, scans/test/mr, scans/test/ct."""
    for case in sorted({path.name.partition("_")[0] for path in (data / "mr").glob("*.png")}):
        for kind in ("mr", "ct"):
            planes = [np.asarray(Image.open(path).convert("L")) for path in sorted((data / kind).glob(f"{case}_*.png"))]
            grey = np.stack([plane.T for plane in planes], axis=2)[None].astype(np.float32)
            values = np.interp(grey, GREY, HU).astype(np.float32) if kind == "ct" else grey
            # Pictures are seen from below, the nose up.
            volume = Volume(values, np.diag([-1.0, -1.0, 5.0, 1.0]), "HU" if kind == "ct" else "a.u.")
            write_volume(volume, scans / ("test" if case in TESTED else "train") / kind / f"{case}.nii.gz")


def harvard_score(scans: Path, made_in: Path, pictures: Path) -> dict[str, float]:
    """Means over the unseen patients: SSIM and mean absolute error of grey values in the head, Dice of the rim."""
    rows, shown = [], []
    for name in (f"{case}.nii.gz" for case in TESTED):
        mr, ct, sct = (read_volume(folder / name) for folder in (scans / "test" / "mr", scans / "test" / "ct", made_in))
        true, made = (np.interp(volume.array[0], HU, GREY) for volume in (ct, sct))
        head = find_foreground(mr.array, mr.affine, "mr") | find_foreground(ct.array, ct.affine, "ct")  # no headrest
        maps = [_ssim(made[..., k], true[..., k], 255) for k in range(true.shape[2])]
        mine, theirs = head & (made > RIM), head & (true > RIM)
        rows.append({
            "ssim": float(np.stack(maps, axis=2)[head].mean()),
            "mae": float(np.abs(made - true)[head].mean()),
            "dice_rim": float(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum())),
        })  # fmt: skip
        for k in (true.shape[2] // 3, 2 * true.shape[2] // 3):
            grey = mr.array[0, ..., k] * (255 / np.percentile(mr.array, 99.8))
            shown.append(np.concatenate([plane.T for plane in (grey, true[..., k], made[..., k])]))
    _picture(pictures, np.concatenate(shown, axis=1))
    return _means(rows)


# --- open-ms: T1 to FLAIR, trained on one patient, measured on the other ----------------------------------------------

PATIENTS = ("patient07", "patient19")
SMALLEST = 20  # voxels (mm^3) of a lesion that counts


def ms_score(data: Path, patient: str, made_path: Path, pictures: Path) -> dict[str, float]:
    """In the brain, both images with mean 0 and standard deviation 1: MAE, SSIM, correlation; contrast of lesions."""
    from scipy.ndimage import label

    t1, flair, lesions = (read_volume(data / patient / f"{name}.nii.gz") for name in ("T1", "FLAIR", "lesions"))
    brain = find_foreground(t1.array, t1.affine, "mr") & (t1.array[0] > 0)
    true, made = (_standard(volume.array[0], brain) for volume in (flair, read_volume(made_path)))
    low, high = np.percentile(true[brain], (0.5, 99.5))
    numbers, count = label(lesions.array[0] > 0)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    numbers[(sizes < SMALLEST)[numbers]] = 0
    # What shells are made of: no lesion, however small, but what is like it.
    tissue = brain & ~((lesions.array[0] > 0) & (numbers == 0))
    found = list(lesion_contrasts(made, true, numbers, tissue, flair.spacing).values())
    bright = [contrast for contrast in found if contrast.true > 0]
    k = int(np.argmax((numbers > 0).sum((0, 1))))
    seen = [(image[..., k] - low) / (high - low) * 255 for image in (_standard(t1.array[0], brain), true, made)]
    _picture(pictures, np.rot90(np.concatenate(seen)))
    return {
        "mae": float(np.abs(made - true)[brain].mean()),
        "ssim": float(_ssim(made, true, high - low)[brain].mean()),
        "correlation": float(np.corrcoef(made[brain], true[brain])[0, 1]),
        "lesions": float(len(bright)),
        "lesions_kept": sum(contrast.seen for contrast in bright) / len(bright),
        "contrast": statistics.mean(c.made for c in bright) / statistics.mean(c.true for c in bright),
    }


def _ssim(made: Array, true: Array, span: float) -> Array:
    """The map of SSIM (Wang 2004)."""
    from skimage.metrics import structural_similarity

    how: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    found: Array = structural_similarity(made, true, data_range=span, **how)[1]
    return found


def _standard(image: Array, where: Array) -> Array:
    """Mean 0 and standard deviation 1 where it is asked, 0 elsewhere."""
    inside = image[where]
    return np.where(where, (image - inside.mean()) / inside.std(), 0)


def _picture(path: Path, grey: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(path)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.mean(row[key] for row in rows) for key in rows[0]}


# --- Both -------------------------------------------------------------------------------------------------------------


def settings_of(run: Path, steps: int, seed: int, a: tuple[str, Path, str], b: tuple[str, Path, str]) -> list[str]:
    """Where the scans lie, as (name, path, modality) of both domains, for how long to train, and the seed."""
    both = zip("ab", (a, b), strict=True)
    places = [f"domains.{key}={{name: {name}, path: {path}, modality: {what}}}" for key, (name, path, what) in both]
    epochs = steps // 100
    schedule = [f"train.epochs={epochs - epochs // 2}", f"train.decay_epochs={epochs // 2}"]
    return [*places, f"prepare.cache={run.parent / 'cache'}", *schedule, f"train.seed={seed}", *SIZES]


def harvard(data: Path, work: Path, model: str, steps: int, more: list[str], seed: int) -> dict[str, Any]:
    config, own = MODELS["harvard"][model]
    scans, run = work / "harvard-scans", work / f"harvard-{model}-{seed}"
    domains = ("mr", scans / "train" / "mr", "mr"), ("ct", scans / "train" / "ct", "ct")
    settings = settings_of(run, steps, seed, *domains)
    # Slices lie too far apart for other planes.
    settings += ["prepare.spacing=[2, 2, null]", "sample.axes=axial", "sample.size=[112, 128]", *own, *more]
    minutes = run_training(config, run, settings)
    translate_paths(Translator.load(run, to="ct"), scans / "test" / "mr", run / "sct", overwrite=True)
    found = harvard_score(scans, run / "sct", run.with_suffix(".png"))
    return {"data": "harvard", "model": model, "seed": seed, "minutes": minutes, **found}


def open_ms(data: Path, work: Path, model: str, steps: int, more: list[str], seed: int) -> dict[str, Any]:
    rows = {tested: one_patient(data, work, model, steps, more, seed, tested) for tested in PATIENTS}
    return {"data": "open-ms", "model": model, "seed": seed, **_means(list(rows.values())), "patients": rows}


def one_patient(
    data: Path, work: Path, model: str, steps: int, more: list[str], seed: int, tested: str
) -> dict[str, float]:
    config, own = MODELS["open-ms"]["new" if model in UNTRAINED else model]
    (trained,) = (patient for patient in PATIENTS if patient != tested)
    run = work / f"open-ms-{model}-tested-{tested}-{seed}"
    t1, flair = data / (tested if model.endswith("apart") else trained) / "T1.nii.gz", data / trained / "FLAIR.nii.gz"
    settings = settings_of(run, steps, seed, ("t1", t1, "mr"), ("flair", flair, "mr"))
    settings += ["prepare.spacing=[1, 1, 1]", "sample.size=[96, 96]", *own, *more]
    if model == "pair":
        settings.append(f"pairs={{path: [[{t1}, {flair}]]}}")
    minutes, made, told = 0.0, run / "flair.nii.gz", {}
    if model in ("curve", "apart"):
        cohorts = prepare_domains(wanted := load_config(config, settings), None, print)
        curve = contrast_curves(wanted, cohorts)[0]
        told["explained"] = curve.explained  # of the regions, as the training says
    if model in UNTRAINED:
        image = by_curve(cohorts, curve.values, data / tested) if model == "curve" else by_values(data / tested)
        made.unlink(missing_ok=True)
        write_volume(image, made)
    else:
        minutes = run_training(config, run, settings)
        Translator.load(run, to="flair").file(data / tested / "T1.nii.gz", made)
    return {"minutes": minutes} | ms_score(data, tested, made, run.with_suffix(".png")) | told


def by_curve(cohorts: dict[str, Cohort], curve: Array, patient: Path) -> Volume:
    """FLAIR of a patient's T1 by the contrast curve of the training scans, which no pair has gone into."""
    prepared = cohorts["a"].preparation(read_volume(patient / "T1.nii.gz"))
    values = np.interp(prepared.array, np.linspace(-1, 1, len(curve)), curve).astype(np.float32)
    return cohorts["b"].preparation.restore(values, prepared.state)


def by_values(patient: Path) -> Volume:
    """The mean FLAIR of all voxels with about the same T1, of one and the same patient."""
    t1, flair = (read_volume(patient / f"{name}.nii.gz") for name in ("T1", "FLAIR"))
    brain = t1.array > 0
    bins = np.digitize(t1.array, np.quantile(t1.array[brain], np.linspace(0, 1, 201)[1:-1]))
    means = np.bincount(bins[brain], flair.array[brain]) / np.maximum(np.bincount(bins[brain]), 1)
    return flair.replace(array=np.where(brain, means[bins], 0).astype(np.float32))


SETS: dict[str, Callable[..., dict[str, Any]]] = {"harvard": harvard, "open-ms": open_ms}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a table for each data set: means over the seeds."""
    parts = []
    for name in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == name]
        columns = [key for key, value in mine[0].items() if isinstance(value, float)]
        lines = ["| " + " | ".join([name, "seeds", *columns]) + " |", "|---" * (len(columns) + 2) + "|"]
        for model in dict.fromkeys(row["model"] for row in mine):
            found = [{key: row[key] for key in columns} for row in mine if row["model"] == model]
            values = [f"{value:.3g}" for value in _means(found).values()]
            lines.append("| " + " | ".join([model, str(len(found)), *values]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of harvard-mr-ct and open-ms")
    parser.add_argument("--work", type=Path, default=Path("runs/real"))
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--steps", type=int, default=2000, help="a multiple of 100")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="section.key=value", help="overrides of mri2ct.yaml, mr2mr.yaml"
    )
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args()
    folders = {"harvard": options.data / "harvard-mr-ct", "open-ms": options.data / "open-ms"}
    if "harvard" in options.only and not (options.work / "harvard-scans").is_dir():
        part = options.work / "harvard-scans.part"
        harvard_scans(folders["harvard"], part)
        part.rename(options.work / "harvard-scans")
    jobs = [
        functools.partial(
            SETS[name],
            folders[name],
            options.work,
            model,
            options.steps,
            options.set if model in ("new", "apart", "pair") else [],
            seed,
        )
        for name in options.only
        for seed in range(options.seeds)
        for model in (*MODELS[name], *(UNTRAINED if name == "open-ms" and not seed else ()))
    ]
    with ThreadPoolExecutor(options.at_once) as pool:
        rows = list(pool.map(lambda job: job(), jobs))
    print(table(rows))
    keep(options.out, "means over unseen patients", {"steps": options.steps, "set": options.set, "runs": rows})


if __name__ == "__main__":
    main()
