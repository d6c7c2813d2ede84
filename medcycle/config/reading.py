"""YAML files and overrides -> Config, with every mistake as ``file:line  key: what was found, what is allowed``."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, ValidationError

from medcycle.config.schema import Config
from medcycle.errors import ConfigError


def shipped() -> dict[str, Path]:
    """The configurations that come with medcycle, by file name."""
    here = Path(__file__).resolve().parent.parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name: str | Path) -> Path:
    """The file of that name, or else the shipped configuration of that name.

    Raises:
        ConfigError: neither exists; lists the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    found = shipped().get(path.name if path.suffix else f"{path.name}.yaml") if path.parent == Path() else None
    if found is None:
        near = difflib.get_close_matches(path.stem, [Path(known).stem for known in shipped()], 1, 0.75)
        hint = f" Did you mean {near[0]}.yaml?" if near else ""
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise ConfigError(f"{name}: {what}.{hint} Shipped configurations: {', '.join(shipped())}")
    return found


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read, override and check a configuration.

    Args:
        path: a YAML file, or the name of a shipped one.
        overrides: ``section.key=value`` each; the value is read as YAML.

    Raises:
        ConfigError: with every mistake, one a line, as ``file:line  key: message``.
    """
    file = find_config(path)
    values, origin, problems = _read(file, ())
    problems += _override(values, overrides, origin)
    config, mistakes = _validate(values, origin, str(file))
    if config is None or problems:
        raise ConfigError("\n".join(sorted(problems + mistakes, key=_line_number)))
    return config


def _read(file: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], Origin, list[str]]:
    """A file's values over those of its `base`, where each stands, and what stands twice.

    Args:
        file: to read.
        above: the files that named it as their base, to notice a circle.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as text: {error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
        origin: Origin = {}
        problems = [f"{file}:{line}  {key}: stands twice; keep one" for key, line in _lines(file, node, (), origin)]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}  is not YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, RecursionError) as error:  # a date that is none; endless nesting, or a section inside itself
        raise ConfigError(f"{file}  is not usable YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}  holds {type(values).__name__}; expected sections: {', '.join(Config.model_fields)}")
    if "base" not in values:
        return values, origin, problems
    named, where = values.pop("base"), origin.pop(("base",))
    if not isinstance(named, str):
        raise ConfigError(f"{where}  base: found {named!r}; expected the name of a configuration file")
    beside = file.parent / named
    try:
        base = beside if beside.is_file() else find_config(named)
    except ConfigError as error:
        raise ConfigError(f"{where}  base: {error}") from None
    if base.resolve() in (file.resolve(), *above):
        raise ConfigError(f"{where}  base: {base} has this file as its own base, directly or through others")
    under, under_origin, under_problems = _read(base, (*above, file.resolve()))
    _merge(under, values, under_origin, ())
    return under, under_origin | origin, under_problems + problems


def _merge(under: dict[str, Any], values: dict[str, Any], origin: Origin, at: tuple[str | int, ...]) -> None:
    """Lay `values` over `under` in place: sections key by key, everything else as a whole."""
    kind = values.get("kind")
    if kind is not None and under.get("kind", kind) != kind:
        under.clear()  # another architecture: the base's settings of the first do not apply to it
    for name, value in values.items():
        key = (*at, name)
        if isinstance(value, dict) and isinstance(under.get(name), dict):
            _merge(under[name], value, origin, key)
            continue
        under[name] = value
        for below in [place for place in origin if place[: len(key)] == key]:  # the lines of what is replaced
            del origin[below]


def _line_number(message: str) -> int:
    """Of a message that starts with ``file:line``; mistakes in overrides, which have none, come last."""
    found = re.match(r".*?:(\d+)  ", message)
    return int(found[1]) if found else sys.maxsize


def parse_config(values: dict[str, Any], name: str = "config") -> Config:
    """Check a configuration given as plain values (from Python, or from a checkpoint).

    Raises:
        ConfigError: with every mistake.
    """
    config, mistakes = _validate(values, {}, name)
    if config is None:
        raise ConfigError("\n".join(mistakes))
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; reading it gives an equal Config."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110)
    return str(text)


def copy_config(name: str, to: Path | None = None) -> Path:
    """Copy a shipped configuration to a file or folder (here by default).

    Raises:
        ConfigError: no such configuration, the target exists, or cannot be written.
    """
    source = shipped().get(name if name.endswith(".yaml") else f"{name}.yaml")
    if source is None:
        raise ConfigError(f"{name}: not a shipped configuration. There are: {', '.join(shipped())}")
    target = to or Path(source.name)
    if target.is_dir():
        target = target / source.name
    content = source.read_bytes()
    made = False
    try:
        with target.open("xb") as file:
            made = True
            file.write(content)
    except FileExistsError:
        raise ConfigError(f"{target}: exists; remove it or name another file") from None
    except OSError as error:
        if made:  # nothing half-written
            target.unlink(missing_ok=True)
        raise ConfigError(f"{target}: cannot be written ({error.strerror})") from None
    return target


Origin: TypeAlias = dict[tuple[str | int, ...], str]


def _lines(file: Path, node: yaml.Node | None, key: tuple[str | int, ...], origin: Origin) -> list[tuple[str, int]]:
    """Fill `origin` with each key's line; return the keys that stand twice, with the line of the second."""
    twice = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            child = (*key, name.value)
            if name.value in seen:
                twice.append((".".join(map(str, child)), name.start_mark.line + 1))
            seen.add(name.value)
            origin[child] = f"{file}:{name.start_mark.line + 1}"
            twice += _lines(file, value, child, origin)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            origin[(*key, index)] = f"{file}:{value.start_mark.line + 1}"
            twice += _lines(file, value, (*key, index), origin)
    return twice


def _override(values: dict[str, Any], overrides: list[str] | tuple[str, ...], origin: Origin) -> list[str]:
    """Apply ``section.key=value`` to `values` in place; return what is wrong with them."""
    problems = []
    for text in overrides:
        name, equals, raw = text.partition("=")
        keys = tuple(name.strip().split("."))
        if not equals or not all(keys):
            problems.append(f"override {text!r}: expected section.key=value, such as train.epochs=20")
            continue
        try:
            value = yaml.safe_load(raw)
        except (yaml.YAMLError, ValueError) as error:
            problems.append(f"override {text!r}: the value is not YAML: {getattr(error, 'problem', error)}")
            continue
        section: Any = values
        for depth, key in enumerate(keys[:-1], 1):
            if section.get(key) is None:
                section[key] = {}
                origin.setdefault(keys[:depth], f"override {text!r}")
            section = section[key]
            if not isinstance(section, dict):
                problems.append(f"override {text!r}: {key} is not a section")
                break
        else:
            if keys[-1] == "kind" and section.get("kind", value) != value:
                section.clear()  # another architecture: the file's settings of the first do not apply to it
            section[keys[-1]] = value
            for below in [key for key in origin if key[: len(keys)] == keys]:  # the lines of what is replaced
                del origin[below]
            origin[keys] = f"override {text!r}"
    return problems


def _validate(values: dict[str, Any], origin: Origin, file: str) -> tuple[Config | None, list[str]]:
    try:
        return Config.model_validate(values), []
    except ValidationError as error:
        return None, [_describe(dict(problem), origin, file) for problem in error.errors()]


def _describe(problem: dict[str, Any], origin: Origin, file: str) -> str:
    """One of pydantic's errors as ``file:line  key: message``."""
    # The tag of a union stands in pydantic's location but not in the file: leave it out.
    key: tuple[str | int, ...] = tuple(p for i, p in enumerate(problem["loc"]) if not _is_tag(problem["loc"], i))
    place = next((origin[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origin), file)
    name = ".".join(map(str, key))
    found = problem.get("input")
    shown = f"found {found!r}" if not isinstance(found, dict | BaseModel) else "found a section"
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        kind_of = next((str(part) for i, part in enumerate(problem["loc"]) if _is_tag(problem["loc"], i)), None)
        message = "unknown key." + _suggest(key, kind_of)
    elif kind == "missing":
        message = "is missing and has no default"
    elif kind == "literal_error":
        near = difflib.get_close_matches(
            str(found), context["expected"].replace("'", "").replace(" or ", ", ").split(", "), 1
        )
        message = f"{shown}; allowed are {context['expected']}" + (f". Did you mean {near[0]!r}?" if near else "")
    elif kind == "union_tag_invalid":
        message = f"kind {context['tag']!r}; allowed are {context['expected_tags']}"
    elif kind == "value_error":
        message = str(context["error"])
    else:
        message = f"{problem['msg'][0].lower()}{problem['msg'][1:]}; {shown}"
    return f"{place}  {name}: {message}" if name else f"{place}  {message}"


def _is_tag(location: tuple[str | int, ...], index: int) -> bool:
    if index > 2 and location[0] == "domains" and location[index - 1] == "path":
        return isinstance(location[index], str)  # "str" or "tuple[str, ...]"
    return (
        index > 1
        and location[index - 2] == "model"
        and location[index - 1] in ("generator", "discriminator")
        and (location[index] in ("resnet", "unet", "patchgan", "pixel"))
    )


def _suggest(key: tuple[str | int, ...], kind: str | None) -> str:
    """The nearest allowed name at this place (in a section of that kind), or the place where this name is allowed."""
    allowed = _fields(key[:-1])
    word = str(key[-1])
    near = difflib.get_close_matches(word, allowed, 1, 0.6)
    if near and near[0] != word:  # the same word: allowed for another kind only
        return f" Did you mean {near[0]!r}?"
    if near:
        return f" It belongs to another kind; kind {kind} has {', '.join(_fields(key[:-1], kind))}"
    elsewhere = [f"{section}.{word}" for section in Config.model_fields if word in _fields((section,))]
    if elsewhere:
        return f" Did you mean {elsewhere[0]!r}?"
    return f" Allowed here: {', '.join(allowed)}"


def _fields(key: tuple[str | int, ...], kind: str | None = None) -> list[str]:
    """Names of the keys allowed in a section of that kind (None: of any)."""
    models: list[Any] = [Config]
    for part in key:
        nested: list[Any] = []
        for model in models:
            field = model.model_fields.get(part)
            if field is not None:
                candidates = getattr(field.annotation, "__args__", None) or (field.annotation,)
                nested += [m for m in candidates if isinstance(m, type) and issubclass(m, BaseModel)]
        models = nested
    if kind is not None:
        models = [model for model in models if model.model_fields["kind"].default == kind]
    return list(dict.fromkeys(name for model in models for name in model.model_fields))
