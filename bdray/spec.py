"""Spec: a named, typed, frozen description of one thing, its dict form, its key; the folder is the registry.

A member of a folder is one module with one public Spec class: `bdray/attacks/blend.py` holds `Blend`, and `blend` is its
name in dicts, on the command line and in the rows. Types and ranges are checked by pydantic; what a person sees of a
failed check is one sentence with what was got, what was expected and the cure.
"""

import difflib
import functools
import hashlib
import importlib
import inspect
import json
import math
import os
import pkgutil
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PydanticUserError,
    ValidationError,
    model_validator,
)

from bdray.wording import quoted, sentence, shown

Config = dict[str, Any]
"""A spec as JSON values, defaults spelled out; `name` says which member of a folder it is."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A share of a whole, 0 to 1."""
LARGEST_NUMBER = 1e38
"""Of a field that is no whole number: tensors of float32 take nothing beyond 3.4e38."""
Positive = Annotated[float, Field(gt=0, le=LARGEST_NUMBER)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST_NUMBER)]
LARGEST = 2**63 - 1
"""The largest whole number that torch, NumPy and Parquet hold."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
"""A number of things, at least one."""
BatchSize = Annotated[int, Field(ge=2, le=LARGEST)]
"""Samples a step; one alone has no batch statistics."""
Amount = Annotated[int, Field(ge=0, le=LARGEST)]
"""A number of things, none allowed."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Whole, and no larger than a column of the rows holds."""

_T = TypeVar("_T")
Several = Annotated[tuple[_T, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
"""A list in a config and on the command line; inside a spec a tuple, which can be hashed."""


def member(name: str) -> Any:
    """A field's default that names a member of its contract's folder."""
    return Field(default=name, validate_default=True)


class Later(NamedTuple):
    """Marks a field that was added to a spec that has rows and victims: `wobble: Annotated[Share, Later(0.0)] = 0.0`. Where the
    field has this value the key is what it was before there was the field. `born` is the value that does what was done
    then, and never changes, whatever becomes of the default."""

    born: Any


class Aside:
    """Marks a field on which no result depends, as the size of a cache: no key knows it."""


class BadInput(ValueError):
    """What a person typed cannot be done; the text is one sentence: got, expected, cure. The command line exits with 2.

    Whatever is put into the sentence, it stays one line without control characters, of a length that can be read."""

    def __init__(self, text: str) -> None:
        super().__init__(sentence(text))


class GaveUp(RuntimeError):
    """A part of an experiment cannot go on with what it found, as a defense that takes no sample for clean: the row fails with
    this text, one sentence. That is a result, and no fault of the program."""


class Typed:
    """A number on the command line; a field that takes texts takes the word itself, `007` and not 7."""

    word: str


class Incompatible(BadInput):
    """Two specs that are fine alone make no sense together; a sweep records such a pair as `skipped`, with this reason."""


def unknown(kind: str, got: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(got[:100], known, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known) or '(nothing)'}"
    return f"no {kind} named {quoted(got)}; {cure}"


LONGEST_PATH, LONGEST_NAME = 1_000, 255
"""Bytes. Linux takes names of 255, and in paths four times as many as this, with the folder that a path is relative to."""


def _path(text: str) -> str:
    """Without what changes nothing: `./pets`, `pets/` and `pets` are one path, and one experiment. `..` and links stay."""
    if re.search("[\x00-\x1f\x7f\ud800-\udfff]", text):
        raise BadInput(f"got the path {quoted(text)}, expected UTF-8 without control characters; rename what it stands for")
    _check_length(text)
    return str(PurePosixPath("/" + text.lstrip("/") if text.startswith("/") else text)) if text else text


FilePath = Annotated[str, AfterValidator(_path)]
"""A file or folder as a person writes it, `~` included, which is looked up where the path is used, by `at_home`."""


def at_home(path: str) -> str:
    """A path with the home folder in place of `~`, which a shell leaves as it is in `--out=~/x`. Raises BadInput for the home
    of nobody, and for what is too long to be a path."""
    _check_length(path)
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path and not os.path.lexists(path):
        user = path.split("/")[0]
        raise BadInput(f"got {quoted(path)}, but {user} is nobody's home folder here; write ./{user} for a folder of that name")
    return expanded


def _check_length(path: str) -> None:
    """Other functions of the system raise for such a path, each an error of its own."""
    sizes = [len(part.encode(errors="surrogatepass")) for part in path.split("/")]
    if sum(sizes) > LONGEST_PATH or max(sizes) > LONGEST_NAME:
        raise BadInput(
            f"got the path {quoted(path)}, of {sum(sizes):,} bytes, expected at most {LONGEST_PATH:,}, and {LONGEST_NAME} in a "
            "name of it; give another"
        )


_MEMBERS: dict[tuple[type, str], Any] = {}
"""Those that were asked for, by contract and name: a sweep builds many settings of one defense."""


class Spec(BaseModel):
    """Frozen and keyword-only. A *contract* sets `folder`; its members are the modules of that package."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    folder: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    """What a person calls a member of the folder: 'attack', 'data set'."""
    presets: ClassVar[dict[str, Config]] = {}
    """Values of a member's fields that somebody published, by name; written out literally, since `bdray list` imports none."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise BadInput(_sentence(type(self), error)) from None

    @classmethod
    def names(cls) -> list[str]:
        """Every member of the contract's folder, one per module, sorted."""
        package = importlib.import_module(cls.folder)
        return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))

    @classmethod
    def member(cls, name: str) -> type[Self]:
        """The class of one member. Raises BadInput with the nearest name where there is none, and for a module that is none
        yet: not Python, not one class, or without what its contract wants of all."""
        if (cls, name) not in _MEMBERS:
            if name not in cls.names():
                raise BadInput(unknown(cls.kind, name, cls.names()))
            try:
                module = importlib.import_module(f"{cls.folder}.{name}")
            except SyntaxError as error:
                raise BadInput(f"{error.filename}, line {error.lineno}: {error.msg}; mend it") from None
            except PydanticUserError as error:  # of a field without a type
                raise BadInput(f"{cls.folder}.{name}: {error.message}") from None
            found = [
                c
                for c in vars(module).values()
                if isinstance(c, type) and issubclass(c, cls) and c.__module__ == module.__name__ and c.__name__[0] != "_"
            ]
            if len(found) != 1:
                raise BadInput(f"{module.__name__} defines {len(found)} {cls.kind}s; a member is one module with one class")
            unsaid = sorted(name for name in found[0].__class_vars__ if not hasattr(found[0], name))
            if lacking := [*unsaid, *sorted(found[0].__abstractmethods__)]:
                raise BadInput(
                    f"{module.__name__}: {found[0].__name__} has no {' and no '.join(lacking)}, expected in every {cls.kind}; "
                    f"write it as the base class in {inspect.getsourcefile(cls)} says"
                )
            _MEMBERS[cls, name] = found[0]
        return _MEMBERS[cls, name]

    @classmethod
    def of(cls, config: Config | str) -> Self:
        """Build from `"nft"` or `{"name": "nft", "lr": 0.01}`, nested specs included. Raises BadInput.

        Beside a name, `"preset"` names one of the member's presets, whose values stand in for its defaults: what comes out is
        the same spec, with the same key, as with these values written out.
        """
        chosen = cls
        if cls._is_contract() and isinstance(config, str):
            config = {"name": config}
        if not isinstance(config, dict):
            got = quoted(config) if isinstance(config, str) else shown(config)
            raise BadInput(f"{cls.kind or cls.__name__.lower()}: got {got}, expected a group of fields")
        config = dict(config)
        cls._check_names(config)
        if cls._is_contract():
            name = config.pop("name", None)
            if not isinstance(name, str):
                raise BadInput(f"{cls.kind}: got no name, expected one of {', '.join(cls.names())}")
            chosen = cls.member(name)
            if "preset" in config:
                preset = str(config.pop("preset"))
                if preset not in chosen.presets:
                    raise BadInput(unknown(f"preset of {name}", preset, chosen.presets))
                config = {**chosen.presets[preset], **config}
        return chosen(**config)

    @classmethod
    def _is_contract(cls) -> bool:
        return bool(cls.folder) and "folder" in vars(cls)

    @classmethod
    def _contract(cls) -> "type[Spec] | None":
        return next((c for c in cls.__mro__ if issubclass(c, Spec) and c._is_contract()), None)

    @property
    def name(self) -> str:
        """The module's name: what a person types and a row stores."""
        return type(self).__module__.rpartition(".")[2]

    def config(self) -> Config:
        """The inverse of `of`: JSON values, every default spelled out, so that the dict alone repeats the experiment."""
        head: Config = {"name": self.name} if self._contract() else {}
        for field in type(self).model_fields:
            value = getattr(self, field)
            head[field] = value.config() if isinstance(value, Spec) else list(value) if isinstance(value, tuple) else value
        return head

    def identity(self) -> Config:
        """What of `config()` tells it from others: without the `Later` fields that have their `born` value, and without
        those that are `Aside`."""
        return self.identity_of(self.config())

    @classmethod
    def identity_of(cls, config: Config) -> Config:
        """The same of a dict in the form of `config()`, also one that an older version wrote and that lacks later fields.
        Builds and checks nothing: what this version does not know is left as it stands."""
        if cls._is_contract():
            name = config.get("name")
            if not isinstance(name, str) or name not in cls.names():
                return dict(config)
            return cls.member(name).identity_of(config)
        later, inner = _marks(cls)
        return {
            field: inner[field].identity_of(value) if field in inner and isinstance(value, dict) else value
            for field, value in config.items()
            if field not in later or later[field] not in ("", json.dumps(value, sort_keys=True))
        }

    def key(self) -> str:
        """16 hex digits of the hash of `identity()`: the same on every machine."""
        return key_of(self.identity())

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Where a field is typed by a contract, a name or a dict with a name becomes the member."""
        if cls._is_contract() and isinstance(value, str | dict):
            return cls.of(value)
        if isinstance(value, dict):
            cls._check_names(value)
            value = {field: cls._named(field, inner) for field, inner in cls._filled(value).items()}
        return handler(value)

    @classmethod
    def _filled(cls, fields: Config) -> Config:
        """The fields as they were given, and what follows from them where they say nothing."""
        return fields

    @classmethod
    def _check_names(cls, fields: Config) -> None:
        """Raise BadInput for a field that Python calls something else than a text."""
        for field in fields:
            if not isinstance(field, str):
                raise BadInput(f"{cls.kind or cls.__name__.lower()}: got a field named {shown(field)}, expected a text")

    @classmethod
    def _named(cls, field: str, value: Any) -> Any:
        """A nested dict without a name means the field's default member: `attack.rate=0.05` alone keeps the attack. A number
        that was typed where a text is expected is the text that was typed."""
        info = cls.model_fields.get(field)
        if isinstance(value, Typed) and info is not None and info.annotation is str:
            return value.word
        if isinstance(value, dict) and "name" not in value and info is not None and isinstance(info.default, str):
            return {"name": info.default, **value}
        return value


@functools.cache
def _marks(cls: type[Spec]) -> tuple[dict[str, str], dict[str, type[Spec]]]:
    """Of a class's fields those that came later, with the JSON of their `born` values, or the empty text for one that is
    `Aside`, and those that are specs themselves."""
    later: dict[str, str] = {}
    inner: dict[str, type[Spec]] = {}
    for field, info in cls.model_fields.items():
        for mark in info.metadata:
            if isinstance(mark, Later):
                later[field] = json.dumps(mark.born, sort_keys=True)
            elif isinstance(mark, Aside):
                later[field] = ""
        if isinstance(info.annotation, type) and issubclass(info.annotation, Spec):
            inner[field] = info.annotation
    return later, inner


def least_share(count: int) -> float:
    """The smallest share of two digits that, rounded as every share is, is one of so many samples and not none."""
    step = 10.0 ** (math.floor(math.log10(0.5 / count)) - 1)
    share = math.ceil(0.5 / count / step) * step
    return share if round(share * count) else share + step


def check_some(field: str, share: float, count: int, does: str) -> None:
    """Raise BadInput for a share above 0 that is none of so many training samples; `does` is what happens to one, 'poisons'."""
    if share and count and not round(share * count):
        raise BadInput(
            f"{field}: got {share:g}, that is 0 of {count} training samples; at least {least_share(count):.2g} {does} one; "
            "raise it, or set it to 0"
        )


def key_of(config: Config) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of a dict."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Pydantic's messages, in the words of the person who typed the value.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_unicode": "a text in UTF-8",
    "tuple_type": "a list",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "one of {expected}",
    "model_type": "a group of fields",
    "model_attributes_type": "a group of fields",
}


def _sentence(cls: type[Spec], error: ValidationError) -> str:
    """The first failed check as one sentence."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # a nested spec's or a validator's own sentence
        return str(first["ctx"]["error"])
    owner = cls.__module__.rpartition(".")[2] if cls._contract() else cls.__name__.lower()
    path = [str(part) for part in first["loc"] if isinstance(part, str) and (part.isidentifier() or part == first["loc"][-1])]
    holder = cls
    for part in path[:-1]:
        inner = holder.model_fields[part].annotation if part in holder.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, Spec)):
            break
        holder, owner = inner, part
    field = next((p for p in reversed(path) if p in holder.model_fields), path[-1] if path else "")
    if first["type"] == "extra_forbidden":
        return unknown(f"field of {owner}", path[-1], holder.model_fields)
    if first["type"] == "missing":
        return f"{owner}.{field}: got nothing, expected a value; it has no default"
    expected = _EXPECTED.get(first["type"], first["msg"].lower()).format(**first.get("ctx", {}))
    got, kind = first["input"], first["type"]
    cure = ""
    if kind == "string_type" and not isinstance(got, Spec):
        cure = "; what is in double quotes is one, as in '\"2024\"'"
    if kind in ("model_type", "model_attributes_type") and isinstance(got, list | tuple):
        cure = "; a list of them is a grid, which `bdray sweep` takes"
    return f"{owner}.{field}: got {shown(got)}, expected {_range(holder, field, got) or expected}{cure}"


def _beyond(got: Any, bound: float) -> bool:
    return isinstance(got, int | float) and got > bound


def _range(cls: type[Spec], field: str, got: Any) -> str:
    """'a number, at least 0 and at most 1' from the field's own bounds; empty where it has none. The bounds that all
    numbers have are only told to who went beyond them."""
    info = cls.model_fields.get(field)
    if info is None or info.annotation not in (int, float):
        return ""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = [
        f"{words[a]} {v}"
        for m in info.metadata
        for a in words
        if (v := getattr(m, a, None)) is not None and (v not in (LARGEST, LARGEST_NUMBER) or _beyond(got, v))
    ]
    noun = "a whole number" if info.annotation is int else "a number"
    return f"{noun}, {' and '.join(bounds)}" if bounds else noun
