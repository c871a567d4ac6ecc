"""As much of how AWS decides as the policies of docs/cluster.md use: what is not allowed is denied."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ACCOUNT, BUCKET, REGION = "123456789012", "rows", "us-west-2"
OURS = {"aws:ResourceTag/ray-cluster-name": "bdray", "aws:ResourceTag/ray-node-type": "worker"}
"""On a worker that the cluster started."""

Policy = dict[str, Any]


def written() -> dict[str, Policy]:
    """The head's and the workers' policy of the document, for one account and one bucket."""
    text = (Path(__file__).parents[1] / "docs/cluster.md").read_text()
    blocks = [
        block.replace("ACCOUNT", ACCOUNT).replace("BUCKET", BUCKET)
        for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    ]
    return dict(zip(("head", "worker"), map(json.loads, blocks), strict=True))


def arn(kind: str, name: str = "x-1") -> str:
    """Of something of EC2's in the account; an image is nobody's."""
    return f"arn:aws:ec2:{REGION}:{'' if kind == 'image' else ACCOUNT}:{kind}/{name}"


def allowed(policy: Policy, action: str, resource: str, **context: Any) -> bool:
    """Whether a policy lets an action through; `context` has the request's condition keys, and is matched whatever its case."""
    given = {key.lower(): value for key, value in context.items()}
    return any(_matches(statement, action, resource, given) for statement in policy["Statement"])


def _matches(statement: Policy, action: str, resource: str, given: dict[str, Any]) -> bool:
    assert statement["Effect"] == "Allow"
    assert not {"NotAction", "NotResource", "Principal"} & set(statement)
    return (
        any(fnmatchcase(action.lower(), pattern.lower()) for pattern in _listed(statement["Action"]))
        and any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"]))
        and all(
            _holds(operator, given.get(key.lower()), _listed(expected))
            for operator, pairs in statement.get("Condition", {}).items()
            for key, expected in pairs.items()
        )
    )


def _holds(operator: str, value: Any, expected: list[str]) -> bool:
    """One condition on one key. A key that the request does not have fails all of them but `Null`, and but `ForAllValues`."""
    if operator == "Null":
        return (value is None) == (expected == ["true"])
    if operator == "ForAllValues:StringEquals":
        return all(item in expected for item in _listed(value or []))
    if value is None:
        return False
    if operator in ("StringEquals", "ArnEquals"):
        return value in expected
    if operator == "StringLike":
        return any(fnmatchcase(value, pattern) for pattern in expected)
    raise NotImplementedError(operator)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
