"""The policies of docs/cluster.md: all that Ray asks AWS for is allowed, and what the head could be used for is not."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.iam import ACCOUNT, BUCKET, OURS, REGION, Policy, allowed, arn, written

ROOT = Path(__file__).parents[2]
POLICIES = written()
HEAD, WORKER = POLICIES["head"], POLICIES["worker"]
PROFILE = f"arn:aws:iam::{ACCOUNT}:instance-profile/bdray-worker"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/bdray-worker"
LAUNCH = {
    "ec2:InstanceType": "g6.2xlarge",
    "ec2:MetadataHttpTokens": "required",
    "ec2:InstanceProfile": PROFILE,
    "aws:RequestTag/ray-cluster-name": "bdray",
    "aws:RequestTag/ray-node-type": "worker",
}
THEIRS = {"aws:ResourceTag/ray-cluster-name": "others", "aws:ResourceTag/ray-node-type": "worker"}
STATE = {"aws:TagKeys": ["ray-node-status"], "aws:RequestTag/ray-node-status": "up-to-date"}

Request = tuple[str, str, dict[str, Any]]


class Answers:
    """EC2 as it answers to one machine's life. What it is asked is kept, and nothing leaves this process."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.tags: dict[str, str] = {}

    def heard(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        """Called with what was asked for."""
        self.asked.append((model.name, params))
        for specification in params.get("TagSpecifications", []):
            self.tags |= {tag["Key"]: tag["Value"] for tag in specification["Tags"]}

    def answer(self, model: Any, **_: Any) -> tuple[Any, dict[str, Any]]:
        """Called in place of the network."""
        tags = [{"Key": key, "Value": value} for key, value in self.tags.items()]
        machines = [{"InstanceId": "i-1", "State": {"Name": "running"}, "StateReason": {"Message": ""}, "Tags": tags}]
        found: dict[str, dict[str, Any]] = {
            "RunInstances": {"Instances": machines},
            "DescribeInstances": {"Reservations": [{"Instances": machines}]},
        }
        return SimpleNamespace(status_code=200), found.get(model.name, {})


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """What Ray's provider for AWS asks for."""
    from ray.autoscaler._private.aws.utils import resource_cache

    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    resource_cache.cache_clear()
    yield Answers()
    resource_cache.cache_clear()


def requests(action: str, params: dict[str, Any], tags: dict[str, str]) -> Iterator[Request]:
    """What AWS decides on one call of EC2: an action on each resource, with what the request says of it."""
    if action == "RunInstances":
        given = {tag["Key"]: tag["Value"] for spec in params["TagSpecifications"] for tag in spec["Tags"]}
        assert {spec["ResourceType"] for spec in params["TagSpecifications"]} == {"instance"}
        context = {f"aws:RequestTag/{key}": value for key, value in given.items()}
        context |= {
            "ec2:InstanceType": params["InstanceType"],
            "ec2:MetadataHttpTokens": params["MetadataOptions"]["HttpTokens"],
        }
        context |= {"ec2:InstanceProfile": f"arn:aws:iam::{ACCOUNT}:instance-profile/{params['IamInstanceProfile']['Name']}"}
        yield "ec2:RunInstances", arn("instance"), context
        yield "ec2:CreateTags", arn("instance"), {"ec2:CreateAction": "RunInstances", "aws:TagKeys": list(given)}
        yield "ec2:RunInstances", arn("image", params["ImageId"]), {"ec2:Owner": "amazon"}
        yield "ec2:RunInstances", arn("security-group"), {"aws:ResourceTag/ray-cluster-name": "bdray"}
        yield "ec2:RunInstances", arn("key-pair", params["KeyName"]), {}
        for kind in ("network-interface", "subnet", "volume"):
            yield "ec2:RunInstances", arn(kind), {}
        yield "iam:PassRole", ROLE, {"iam:PassedToService": "ec2.amazonaws.com"}
    else:
        context = {f"aws:ResourceTag/{key}": value for key, value in tags.items()}
        context |= {"aws:TagKeys": [tag["Key"] for tag in params.get("Tags", [])]}
        for name in params.get("Resources", params.get("InstanceIds", [])):
            yield f"ec2:{action}", arn("instance", name), context
        if action.startswith("Describe"):
            yield f"ec2:{action}", "*", {}


def test_all_that_ray_asks_for_is_allowed(ec2: Answers) -> None:
    pytest.importorskip("boto3")
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_FILE_MOUNTS_CONTENTS, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_RUNTIME_CONFIG

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text().replace("<worker-profile>", "bdray-worker"))
    node = config["available_node_types"]["gpu_spot"]["node_config"]
    node |= {"SubnetIds": ["subnet-1"], "KeyName": f"ray-autoscaler_{REGION}"}
    provider = AWSNodeProvider({"region": REGION, "cache_stopped_nodes": False}, config["cluster_name"])
    for client in (provider.ec2.meta.client, provider.ec2_fail_fast.meta.client):
        client.meta.events.register("provide-client-params.ec2", ec2.heard)
        client.meta.events.register("before-call.ec2", ec2.answer)

    provider.create_node(node, {TAG_RAY_NODE_KIND: "worker", TAG_RAY_NODE_STATUS: "uninitialized"}, 1)
    (name,) = provider.non_terminated_nodes({})
    states = {TAG_RAY_NODE_STATUS: "up-to-date", TAG_RAY_RUNTIME_CONFIG: "0123", TAG_RAY_FILE_MOUNTS_CONTENTS: "4567"}
    provider._create_tags({state: [name] for state in states.items()})
    provider.terminate_nodes([name])

    assert [action for action, _ in ec2.asked] == [
        "RunInstances",
        "DescribeInstances",
        *["CreateTags"] * 3,
        "TerminateInstances",
    ]
    for action, params in ec2.asked:
        for request, resource, context in requests(action, params, ec2.tags):
            assert allowed(HEAD, request, resource, **context), (request, resource, context)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_store_is_read_and_written(policy: Policy) -> None:
    for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
        assert allowed(policy, f"s3:{action}", f"arn:aws:s3:::{BUCKET}/bdray/rows/x.parquet")
    for prefix in ("bdray", "bdray/", "bdray/rows/"):
        assert allowed(policy, "s3:ListBucket", f"arn:aws:s3:::{BUCKET}", **{"s3:prefix": prefix})


ATTACKS: dict[str, Request] = {
    "tag another's machine as ours": ("ec2:CreateTags", arn("instance"), {**THEIRS, "aws:TagKeys": ["ray-cluster-name"]}),
    "tag a machine without tags": ("ec2:CreateTags", arn("instance"), {"aws:TagKeys": ["ray-cluster-name"]}),
    "say the state of another's machine": ("ec2:CreateTags", arn("instance"), {**THEIRS, **STATE}),
    "rename our machine": ("ec2:CreateTags", arn("instance"), {**OURS, "aws:TagKeys": ["ray-cluster-name"]}),
    "make a worker of ours a head": ("ec2:CreateTags", arn("instance"), {**OURS, "aws:TagKeys": ["ray-node-type"]}),
    "hide a name among states": ("ec2:CreateTags", arn("instance"), {**OURS, "aws:TagKeys": ["ray-node-status", "Name"]}),
    "tag by another creation": ("ec2:CreateTags", arn("instance"), {"ec2:CreateAction": "CreateVolume", **STATE}),
    "tag a volume": ("ec2:CreateTags", arn("volume"), {"ec2:CreateAction": "RunInstances", **STATE}),
    "end another's machine": ("ec2:TerminateInstances", arn("instance"), THEIRS),
    "end a machine without tags": ("ec2:TerminateInstances", arn("instance"), {}),
    "end the head": ("ec2:TerminateInstances", arn("instance"), {**OURS, "aws:ResourceTag/ray-node-type": "head"}),
    "stop another's machine": ("ec2:StopInstances", arn("instance"), THEIRS),
    "start one for another cluster": (
        "ec2:RunInstances",
        arn("instance"),
        {**LAUNCH, "aws:RequestTag/ray-cluster-name": "others"},
    ),
    "start a head": ("ec2:RunInstances", arn("instance"), {**LAUNCH, "aws:RequestTag/ray-node-type": "head"}),
    "start a large one": ("ec2:RunInstances", arn("instance"), {**LAUNCH, "ec2:InstanceType": "p5.48xlarge"}),
    "start one with other rights": (
        *("ec2:RunInstances", arn("instance")),
        {**LAUNCH, "ec2:InstanceProfile": PROFILE.replace("worker", "admin")},
    ),
    "start one that tells its rights": ("ec2:RunInstances", arn("instance"), {**LAUNCH, "ec2:MetadataHttpTokens": "optional"}),
    "start a stranger's image": ("ec2:RunInstances", arn("image"), {"ec2:Owner": "999999999999"}),
    "start one in an open group": ("ec2:RunInstances", arn("security-group"), {}),
    "start one elsewhere": ("ec2:RunInstances", arn("instance").replace(REGION, "eu-west-1"), LAUNCH),
    "pass the head's role": ("iam:PassRole", ROLE.replace("worker", "head"), {"iam:PassedToService": "ec2.amazonaws.com"}),
    "pass the role to another service": ("iam:PassRole", ROLE, {"iam:PassedToService": "lambda.amazonaws.com"}),
    "pass the role to nobody": ("iam:PassRole", ROLE, {}),
    "pass a role of another account": (
        "iam:PassRole",
        ROLE.replace(ACCOUNT, "999999999999"),
        {"iam:PassedToService": "ec2.amazonaws.com"},
    ),
    "write rights": ("iam:PutRolePolicy", ROLE, {}),
    "open a port": ("ec2:AuthorizeSecurityGroupIngress", arn("security-group"), {}),
    "read other parameters": ("ssm:GetParameters", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/password", {}),
    **{
        f"{action} of {key}": (f"s3:{action}", f"arn:aws:s3:::{BUCKET}/{key}", {})
        for action in ("GetObject", "PutObject", "DeleteObject")
        for key in ("other/secret", "bdray", "bdray-other/x", "bdray2")
    },
    "read another bucket": ("s3:GetObject", "arn:aws:s3:::other/bdray/x", {}),
    "list the whole bucket": ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {}),
    "list from the top": ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": ""}),
    "list another folder": ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": "other/"}),
    "list a folder of a like name": ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": "bdray-other/"}),
    "delete the bucket": ("s3:DeleteBucket", f"arn:aws:s3:::{BUCKET}", {}),
    "open the bucket": ("s3:PutBucketPolicy", f"arn:aws:s3:::{BUCKET}", {}),
    "open an object": ("s3:PutObjectAcl", f"arn:aws:s3:::{BUCKET}/bdray/x", {}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_the_head_could_be_used_for_is_denied(name: str) -> None:
    action, resource, context = ATTACKS[name]
    assert not allowed(HEAD, action, resource, **context)
    assert not allowed(WORKER, action, resource, **context)


def test_workers_have_the_store_and_nothing_else() -> None:
    assert {action.split(":")[0] for statement in WORKER["Statement"] for action in _listed(statement["Action"])} == {"s3"}


def test_the_policies_are_for_what_the_shipped_file_starts() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    kinds = {kind["node_config"]["InstanceType"] for name, kind in config["available_node_types"].items() if name != "head"}
    for kind in kinds:
        assert allowed(HEAD, "ec2:RunInstances", arn("instance"), **{**LAUNCH, "ec2:InstanceType": kind})
    (start,) = (statement for statement in HEAD["Statement"] if statement["Sid"] == "StartWorkersOfThisCluster")
    assert set(start["Condition"]["StringEquals"]["ec2:InstanceType"]) == kinds
    assert start["Condition"]["StringEquals"]["aws:RequestTag/ray-cluster-name"] == config["cluster_name"]
    assert config["provider"]["region"] == REGION


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
