"""The README's table of speed, from the results kept here: python -m benchmarks.table writes it into README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT

BEGIN, END = "<!-- speed: written by python -m benchmarks.table -->", "<!-- /speed -->"


def table() -> str:
    """Markdown: the training step, and a line each on the rest; of every machine that was measured."""
    lines = []
    for path in sorted(RESULTS.glob("step-*.json")):
        found = _read(path)
        where = found["machine"]
        lines += [
            f"One training step on {_place(where)}, against the original's, written plainly in float32, in turn:",
            "",
            "| images | plain | medcycle, fp32 | medcycle, bf16 |",
            "|---|---|---|---|",
        ]
        for row in found["steps"]:
            seconds, times = row["seconds"], row["times the plain step"]
            cells = " | ".join(f"{seconds[name]:.2f} s ({times[name]:.2f}x)" for name in ("fp32", "bf16"))
            lines.append(f"| {row['case']} | {seconds['plain']:.2f} s | {cells} |")
        lines.append("")
        lines += [f"- {text}" for text in _others(path.stem.removeprefix("step-"))]
    return "\n".join(lines).rstrip() + "\n"


def _others(machine: str) -> list[str]:
    said = []
    if (found := _kept("translate", machine)) is not None:
        row = found["translation"]
        share = row["share of the bare generator's throughput"]
        said.append(
            f"Translating {row['volume']} ({row['generator']}), file to file: {row['planes a second']['whole']} planes "
            f"a second, {share:.0%} of what the bare generator does."
        )
    if (found := _kept("data", machine)) is not None:
        rows = found["data"]["cohorts"]
        rates = " and ".join(f"{row['samples a second']:,} a second from {row['volumes']} volumes" for row in rows)
        said.append(f"Random 256 x 256 slices from the cache: {rates}.")
    if (found := _kept("memory", machine)) is not None:
        rows = found["memory of a step, GiB"]
        said.append(
            "Memory of a step (bf16; split, then checkpointed): "
            + "; ".join(
                f"{name} {' and '.join(str(row['measured']) for row in rows if row['case'] == name)} GiB"
                for name in dict.fromkeys(row["case"] for row in rows)
            )
            + "."
        )
    if (found := _kept("startup", machine)) is not None:
        rows = found["startup seconds"]
        said.append("Starting: " + ", ".join(f"`{k}` {v:.2f} s" for k, v in rows.items() if "nothing" not in k) + ".")
    return said


def _kept(name: str, machine: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}-{machine}.json"
    return _read(path) if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _place(machine: dict[str, Any]) -> str:
    if machine["device"] != "cpu":
        return str(machine["device"])
    return f"{machine['cores']} cores ({machine['processor']}, PyTorch {machine['torch'].partition('+')[0]})"


def inserted(readme: str) -> str:
    """The README with the table of now."""
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(inserted(readme.read_text(encoding="utf-8")), encoding="utf-8")
