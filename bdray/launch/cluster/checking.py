"""Everything that is wrong with a cluster file: Ray's own schema, and what that schema lets pass. No cloud, no network."""

import contextlib
import copy
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from bdray.launch.cluster import kubernetes, leaks, pods
from bdray.launch.cluster.config import Cluster, Finding
from bdray.launch.cluster.reading import read
from bdray.launch.cluster.rules import RULES
from bdray.spec import BadInput, Config, unknown

PLACEHOLDER = re.compile(r"<[a-z][a-z -]*[a-z]>")
"""What a person has to fill in, such as `<bucket>`."""


def check(path: Path) -> tuple[list[Finding], str]:
    """Everything that is wrong or doubtful in a file for `ray up` or `kubectl apply`, and a line on what it would start.

    Raises BadInput where there is no such file, or no YAML in it.
    """
    text, documents = read(path)
    secrets = [leak for document in documents for leak in leaks.leaks(document)] + leaks.in_comments(text)
    findings = list(_placeholders(text))
    if any(kubernetes.is_kubernetes(document) for document in documents):
        more, started = pods.check_documents(documents), kubernetes.sentence(documents, path)
    elif len(documents) > 1:
        raise BadInput(f"{path}: got {len(documents)} documents, expected one, without a line `---` in it")
    else:
        more, started = _check(documents[0], path)
    said = [Finding(kind, leaks.hidden(text, secrets)) for kind, text in findings + more]
    return list(dict.fromkeys([*leaks.sentences(secrets), *said])), leaks.hidden(started, secrets)


def _check(written: Config, path: Path) -> tuple[list[Finding], str]:
    """A file for `ray up`."""
    if broken := list(_structure(written)):
        return broken, ""
    config, refused = _with_defaults(written)
    faults = _faults(config)
    findings = refused + [finding for fault in faults for finding in _sentences(fault)]
    if refused or any(fault.validator != "additionalProperties" for fault in faults):
        return findings, ""  # fields of wrong types, which no rule could read
    if not faults:
        findings += _validated(config)
    cluster = Cluster(config, written)
    findings += [finding for rule in RULES for finding in rule(cluster)]
    return findings, cluster.sentence(path)


def _placeholders(text: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        told = "" if line.lstrip().startswith("#") else line.partition(" # ")[0]
        for found in PLACEHOLDER.findall(told):
            yield Finding.error(f"line {number}: fill in {found} in `{told.strip()}`")


def _structure(config: Config) -> Iterator[Finding]:
    """What must be there before Ray can fill in its defaults, and what it refuses in a cluster of one's own machines."""
    provider = config.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    if kind == "local":
        yield from _own_machines(config)
    elif kind == "aws":
        kinds = config.get("available_node_types")
        if not isinstance(kinds, dict) or not all(isinstance(fields, dict) for fields in kinds.values()):
            yield Finding.error(
                "available_node_types: expected a type for the head and one for workers, each with a node_config"
            )
    else:
        yield Finding.error(f"provider.type: got {kind!r}, expected aws or local; nothing else is checked here")


def _own_machines(config: Config) -> Iterator[Finding]:
    for field in ("available_node_types", "head_node_type"):
        if field in config:
            yield Finding.error(f"{field}: with provider local there are no types, worker_ips lists the machines; delete it")
    for field, kind in (("head_ip", str), ("worker_ips", list)):
        got = config["provider"].get(field)
        if "coordinator_address" not in config["provider"] and not isinstance(got, kind):
            yield Finding.error(
                f"provider.{field}: got {got!r}, expected {'an address' if kind is str else 'a list of addresses'}"
            )


def _with_defaults(config: Config) -> tuple[Config, list[Finding]]:
    """What `ray up` would work with. Where Ray cannot even read the file: the file, and Ray's reason if its schema has none."""
    config = copy.deepcopy(config)
    for kind in config.get("available_node_types", {}).values():
        kind.setdefault("resources", {})  # Ray asks AWS what the machine has
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return prepare_config(config), []
    except Exception as error:
        reason = " ".join((said.getvalue() or str(error) or type(error).__name__).split())
        return config, [] if _faults(config) else [Finding.error(f"Ray refuses the file: {reason}")]


def _faults(config: Config) -> list[jsonschema.ValidationError]:
    """Everything that Ray's schema has against a file; `ray up` stops at the first."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    return sorted(jsonschema.Draft7Validator(schema).iter_errors(config), key=lambda fault: list(map(str, fault.absolute_path)))


def _sentences(fault: jsonschema.ValidationError) -> Iterator[Finding]:
    where = ".".join(map(str, fault.absolute_path))
    if fault.validator == "additionalProperties":
        known = fault.schema.get("properties", {})
        for name in sorted(map(str, set(fault.instance) - set(known))):
            yield Finding.error(unknown(f"field of {where}" if where else "field", name, known))
    elif fault.validator == "type":
        names = {"integer": "a whole number", "object": "a group of fields", "array": "a list", "string": "a text"}
        kinds = fault.validator_value if isinstance(fault.validator_value, list) else [fault.validator_value]
        expected = " or ".join(names.get(kind, f"a {kind}") for kind in kinds)
        yield Finding.error(f"{where or 'the file'}: got {fault.instance!r}, expected {expected}")
    else:
        yield Finding.error(f"{where or 'the file'}: {fault.message}")


def _validated(config: Config) -> Iterator[Finding]:
    """What Ray checks beyond its schema."""
    try:
        validate_config(config)
    except Exception as error:
        yield Finding.error(f"Ray refuses the file: {' '.join(str(error).split())}")
