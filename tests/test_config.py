"""The configuration: defaults, overrides, and messages that say where and what to do."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medcycle.config import Config, copy_config, dump_config, find_config, load_config, parse_config, shipped
from medcycle.errors import ConfigError

GOOD = """\
domains:
  a: {name: mr, path: data/mr, modality: mr}
  b: {name: ct, path: data/ct, modality: ct}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refuse(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text), overrides)
    return str(caught.value).splitlines()


def test_every_key_has_a_default_but_the_domains(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.loss.cycle == 10
    assert config.train.betas == (0.5, 0.999)
    assert config.model.generator.kind == "resnet"
    assert config.model.generator.blocks == 9


def test_all_mistakes_at_once_with_line_and_nearest_name(tmp_path: Path) -> None:
    lines = refuse(
        tmp_path,
        GOOD.replace("modality: mr}", "modality: mri}")
        + "sampel: {}\nloss:\n  cycel: 3\n  identity: -1\nmodel:\n  generator: {kind: resnet, block: 6}\n",
        "train.epoch=3",
        "train.seed=many",
    )
    text = "\n".join(lines)
    assert len(lines) == 7
    file = tmp_path / "c.yaml"
    assert f"{file}:2  domains.a.modality: found 'mri'; allowed are 'mr', 'ct' or 'image'. Did you mean 'mr'?" in lines
    assert f"{file}:4  sampel: unknown key. Did you mean 'sample'?" in lines
    assert f"{file}:6  loss.cycel: unknown key. Did you mean 'cycle'?" in lines
    assert f"{file}:7  loss.identity: " in text
    assert "greater than or equal to 0; found -1" in text
    assert f"{file}:9  model.generator.block: unknown key. Did you mean 'blocks'?" in lines
    assert "override 'train.epoch=3'  train.epoch: unknown key. Did you mean 'epochs'?" in lines
    assert "override 'train.seed=many'  train.seed: " in text


def test_a_key_of_another_section_is_pointed_to(tmp_path: Path) -> None:
    assert "Did you mean 'train.learning_rate'?" in refuse(tmp_path, GOOD + "loss: {learning_rate: 1}\n")[0]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "c.yaml:5  loss: stands twice; keep one" in refuse(tmp_path, GOOD + "loss: {}\nloss: {cycle: 5}\n")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("domains: [", "c.yaml:1  is not YAML"),
        ("- a\n- b\n", "expected sections: domains"),
        ("", "expected sections: domains"),
        ("domains: {a: {name: x, path: p, modality: ct}}", "domains.b: is missing"),
        (GOOD.replace("name: ct", "name: mr"), "a.name and b.name are both 'mr'"),
        (GOOD.replace("name: ct", "name: ../ct"), "domains.b.name"),
        (GOOD + "prepare: {spacing: [1, 1]}", "needs three numbers in mm"),
        (GOOD + "prepare: {orientation: RRA}", "left-right"),
        (GOOD + "prepare: {orientation: ASR}", "prepare.orientation ASR has another. Take RAS"),
        (GOOD.replace("modality: ct", "modality: image") + "prepare: {invert: true}", "prepare.invert needs mr and ct"),
        (GOOD.replace("path: data/mr", "path: 5"), "c.yaml:2  domains.a.path: input should be a valid string; found 5"),
        ("domains: &all\n  a: *all\n", "is not usable YAML"),
        (GOOD + "prepare: {window: [100, 100]}", "low < high"),
        (GOOD + "prepare: {stretch: [-2000, 200]}", "stretch [-2000.0, 200.0] must lie inside the window [-1024.0, "),
        (GOOD + "sample: {size: [64]}", "two numbers (slices) or three (patches)"),
        (
            GOOD + "sample: {size: [64, 32]}\nmodel: {generator: {kind: unet}}",
            "model.generator.downs 8 pads samples to a multiple of 256 voxels, more than sample.size [64, 32] has; "
            "take downs of at most 6",
        ),
        (GOOD + "sample: {size: [3, 3]}\nmodel: {generator: {kind: unet, downs: 2}}", "take larger samples"),
        (GOOD + "sample: {context: -1}", "sample.context: "),
        (
            GOOD + "sample: {context: 1, size: [16, 16, 16]}",
            "sample.context: only 2D samples of mr and ct (a sample.size of two numbers); 3D patches show all that",
        ),
        (
            GOOD.replace("modality: mr", "modality: image") + "sample: {context: 1, axes: all}",
            "sample.context and sample.axes all: only 2D samples of mr and ct (a sample.size of two numbers); pictures",
        ),
        (GOOD + "sample: {axes: all, size: [16, 16, 16]}", "sample.axes all: only 2D samples"),
        (GOOD + "sample: {axes: all}\nprepare: {orientation: ASR}", "prepare.orientation ASR has another. Take RAS"),
        (GOOD + "train: {epochs: 0, decay_epochs: 0}", "nothing would be trained"),
        (GOOD + "train: {learning_rate: .nan}", "train.learning_rate"),
        (GOOD + "model: {discriminator: {kind: patchgn}}", "allowed are 'patchgan', 'pixel'"),
        (
            GOOD + "model: {generator: {kind: unet, blocks: 6}}",
            "blocks: unknown key. It belongs to another kind; kind unet has kind, filters, downs, norm, dropout",
        ),
        (GOOD + "model: {generator: {downs: 6}}", "kind resnet has kind, filters, blocks, norm, dropout, upsample"),
        (GOOD + "model: {discriminator: {norm: batch}}\nloss: {adversarial: wgan-gp}", "without batch norm"),
        (GOOD + "model: {discriminator: {norm: batch}}\nloss: {r1: 1}", "loss.r1 needs a discriminator without batch"),
        (GOOD + "loss: {mask: 1}", "model.generator.kind resnet has none; take kind masked, or loss.mask 0"),
        (
            GOOD + "sample: {size: [8, 8]}\nmodel: {generator: {kind: vit}}",
            "model.generator.downs 4 pads samples to a multiple of 16 voxels, more than sample.size [8, 8] has; take "
            "downs of at most 3",
        ),
        (GOOD + "pairs: {}", "pairs: needs `path`, `validation` or both"),
        (GOOD + "pairs:\n  path: folder", "c.yaml:5  pairs.path: found 'folder'; expected a .csv, or a list of [scan"),
        (
            GOOD + "pairs: {path: [[a.nii, b.nii], [c.nii]]}",
            "pairs.path: found [['a.nii', 'b.nii'], ['c.nii']]; expected",
        ),
        (GOOD + "pairs: {path: []}", "pairs.path: found []; expected"),
        (GOOD + "pairs: {path: p.csv, weight: 0}", "pairs.weight: input should be greater than 0"),
        (GOOD + "pairs: {path: p.csv, wieght: 1}", "pairs.wieght: unknown key. Did you mean 'weight'?"),
        (
            GOOD.replace("modality: mr", "modality: image").replace("modality: ct", "modality: image")
            + "pairs: {path: p.csv}",
            "pictures have no patient coordinates",
        ),
        (GOOD.replace("path: data/mr", "path: data/mr, patient: '('"), "is not a regular expression"),
        (GOOD.replace("path: data/mr", "path: data/mr, patient: 'x'"), "exactly one group"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(refuse(tmp_path, text))


def test_overrides_are_read_as_yaml_and_win(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "train: {epochs: 3}\n")
    config = load_config(path, ["train.epochs=7", "sample.size=[64, 32, 16]", "prepare.spacing=null"])
    assert (config.train.epochs, config.sample.size, config.prepare.spacing) == (7, (64, 32, 16), None)


def test_pairs_are_a_table_or_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load_config(path).pairs is None
    table = load_config(path, ["pairs.path=pairs.csv"])
    assert table.pairs is not None
    assert (table.pairs.path, table.pairs.validation, table.pairs.weight) == ("pairs.csv", None, 10)
    listed = load_config(path, ["pairs.validation=[[a.nii, b.nii]]"])
    assert listed.pairs is not None
    assert listed.pairs.validation == (("a.nii", "b.nii"),)
    for config in (table, listed):
        assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_a_mistake_in_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "prepare:\n  spacing: [1, 1, 1]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["prepare.spacing=[2, 2, x]"])
    assert str(caught.value).startswith("override 'prepare.spacing=[2, 2, x]'  prepare.spacing.2: ")


def test_a_copy_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(self: Path, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
        file = real(self, mode, *arguments, **settings)
        if mode[0] != "x":
            return file
        file.close()
        return Full()

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConfigError, match="cannot be written \\(No space left"):
        copy_config("quick", tmp_path / "c.yaml")
    assert list(tmp_path.iterdir()) == []


def test_patches_may_have_their_axes_in_any_order(tmp_path: Path) -> None:
    load_config(write(tmp_path, GOOD + "prepare: {orientation: ASR}\nsample: {size: [64, 64, 64]}"))
    load_config(write(tmp_path, GOOD + "prepare: {orientation: LPI}"))


def test_as_many_halvings_as_the_sample_has(tmp_path: Path) -> None:
    load_config(write(tmp_path, GOOD + "sample: {size: [64, 32]}\nmodel: {generator: {kind: unet, downs: 6}}"))


def test_another_kind_drops_the_settings_of_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "model: {generator: {kind: resnet, blocks: 4}}\n")
    config = load_config(path, ["model.generator.kind=unet", "model.generator.downs=3"])
    assert config.model.generator.model_dump() == {
        "kind": "unet", "filters": 64, "downs": 3, "norm": "instance", "dropout": 0.0, "upsample": "transposed",
        "position": False,
    }  # fmt: skip


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train..epochs=3", "train.epochs.x=3", "train.epochs=[1"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    assert override in "\n".join(refuse(tmp_path, GOOD + "train: {epochs: 3}\n", override))


def test_the_resolved_configuration_reads_back_equal(tmp_path: Path) -> None:
    for path in shipped().values():
        config = load_config(path)
        assert load_config(write(tmp_path, dump_config(config))) == config
        assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_shipped_configurations_open_with_their_command() -> None:
    assert {"mri2ct.yaml", "mri2ct-3d.yaml", "harmonize.yaml", "horse2zebra.yaml", "quick.yaml"} <= set(shipped())
    for name, path in shipped().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert first.endswith((f"medcycle train --config {name}", f"medcycle benchmark {path.stem}"))


def test_the_published_sets_are_trained_in_the_precision_of_the_original() -> None:
    from medcycle.data.download import DATASETS

    assert {load_config(f"{name}.yaml").train.precision for name in DATASETS} == {"fp32"}


def test_a_shipped_configuration_is_found_by_name_and_a_local_file_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("mri2ct.yaml") == find_config("mri2ct") == shipped()["mri2ct.yaml"]
    (tmp_path / "mri2ct.yaml").write_text(GOOD)
    assert find_config("mri2ct.yaml") == Path("mri2ct.yaml")
    with pytest.raises(ConfigError, match=r"Did you mean mri2ct.yaml\?"):
        find_config("mr2ct.yaml")


def test_copy_never_overwrites(tmp_path: Path) -> None:
    written = copy_config("quick", tmp_path)
    assert written.read_text() == shipped()["quick.yaml"].read_text()
    with pytest.raises(ConfigError, match="exists"):
        copy_config("quick.yaml", tmp_path)
    with pytest.raises(ConfigError, match="not a shipped configuration"):
        copy_config("nothing", tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        copy_config("quick", tmp_path / "no" / "folder" / "c.yaml")


keys = st.sampled_from(["domains", "a", "b", "train", "model", "generator", "kind", "epochs", "size", "x", "loss"])
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["resnet", "ct"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=4),
    max_leaves=12,
)


@given(tree=st.dictionaries(keys, trees, max_size=5))
def test_any_tree_is_a_configuration_or_a_config_error(tree: dict[str, Any]) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_config(tree), Config)


def test_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, medcycle.config, medcycle.cli; print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- base -----------------------------------------------------------------------------------------------------------


def test_a_base_lies_under_the_file(tmp_path: Path) -> None:
    (tmp_path / "under.yaml").write_text(
        GOOD + "model: {generator: {kind: resnet, blocks: 6, filters: 8}}\ntrain: {epochs: 7, betas: [0.1, 0.2]}\n"
    )
    text = "base: under.yaml\ndomains: {a: {name: t1}}\ntrain: {betas: [0.3, 0.4]}\n"
    config = load_config(write(tmp_path, text), ["model.generator.filters=4"])
    assert (config.domains.a.name, config.domains.a.path, config.domains.b.name) == ("t1", "data/mr", "ct")
    assert (config.train.epochs, config.train.betas) == (7, (0.3, 0.4))
    assert config.model.generator.model_dump()["blocks"] == 6
    assert config.model.generator.filters == 4


def test_another_kind_forgets_the_settings_of_the_base_kind(tmp_path: Path) -> None:
    (tmp_path / "under.yaml").write_text(GOOD + "model: {generator: {kind: resnet, blocks: 6}}\n")
    text = "base: under.yaml\nsample: {size: [64, 64]}\nmodel: {generator: {kind: unet, downs: 5}}\n"
    assert load_config(write(tmp_path, text)).model.generator.model_dump()["downs"] == 5


def test_mistakes_name_the_file_they_stand_in(tmp_path: Path) -> None:
    (tmp_path / "under.yaml").write_text(GOOD + "loss: {cycel: 1}\n")
    lines = refuse(tmp_path, "base: under.yaml\ntrain: {epoch: 3}\n")
    assert any(line.startswith(f"{tmp_path / 'under.yaml'}:4  loss.cycel: unknown key") for line in lines)
    assert any(line.startswith(f"{tmp_path / 'c.yaml'}:2  train.epoch: unknown key") for line in lines)


def test_a_shipped_configuration_can_be_a_base(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "base: horse2zebra.yaml\nsample: {resize: null}\n"))
    assert config.sample.resize is None
    assert config.train.epochs == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: c.yaml\n", "has this file as its own base"),
        ("base: nowhere.yaml\n", "no such file"),
        ("base: nosuch.yaml\n", "no such file"),
        ("base: mine.yaml\n", "no such file"),
        ("base: [a.yaml]\n", "expected the name of a configuration file"),
    ],
)
def test_a_base_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    (line,) = refuse(tmp_path, text)
    assert line.startswith(f"{tmp_path / 'c.yaml'}:1  base: ")
    assert message in line
    assert "Did you mean" not in line


def test_only_pictures_are_resized(tmp_path: Path) -> None:
    (line,) = refuse(tmp_path, GOOD + "sample: {resize: [300, 300]}\n")
    assert "sample.resize needs modality image in both domains" in line
    (line,) = refuse(tmp_path, "base: horse2zebra.yaml\n", "sample.resize=[200, 300]")
    assert "sample.resize [200, 300] is smaller than sample.size [256, 256]" in line


def test_one_domain_alone_may_be_inverted(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), ["domains.a.invert=true"])
    assert [config.inverted(domain) for domain in (config.domains.a, config.domains.b)] == [True, False]
    config = load_config(write(tmp_path, GOOD), ["prepare.invert=true", "domains.a.invert=false"])
    assert not config.inverted(config.domains.a)
    assert "domains.b.invert is for modality mr" in "\n".join(refuse(tmp_path, GOOD, "domains.b.invert=true"))
    refused = refuse(tmp_path, GOOD, "domains.a.invert=true", "prepare.foreground=false")
    assert "prepare.invert needs prepare.foreground" in "\n".join(refused)
