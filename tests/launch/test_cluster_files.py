"""The cluster files as they are shipped, and `bdray cluster check`: one sentence for every mistake that costs a start."""

import copy
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from bdray.__main__ import main
from bdray.launch.cluster import check
from bdray.spec import BadInput, Config

ROOT = Path(__file__).parents[2]
FILLED = {
    "<bucket>": "rows-of-mine",
    "<head-profile>": "bdray-head",
    "<worker-profile>": "bdray-worker",
    "<shared-folder>": "/srv/bdray",
    "<head-address>": "10.0.0.1",
    "<worker-address>": "10.0.0.2, 10.0.0.3",
    "<user>": "me",
    "<registry>": "registry.example.com",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a token and an ssh key, in which `ray up` is typed at the root of the repository."""
    folder = tmp_path / "home"
    for name in (".ray/auth_token", ".ssh/id_ed25519"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("secret")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(ROOT)
    return folder


def filled(name: str) -> str:
    """The text of a shipped file with its placeholders filled in."""
    text = (ROOT / name).read_text()
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


def findings(tmp_path: Path, text: str) -> list[str]:
    """What the check says of a text, each with its kind in front."""
    path = tmp_path / "checked.yaml"
    path.write_text(text)
    return [f"{finding.kind}: {finding.text}" for finding in check(path)[0]]


@functools.cache
def _parsed(name: str) -> Config:
    return dict(yaml.safe_load(filled(name)))


def parsed(name: str) -> Config:
    """A shipped file, filled in."""
    return copy.deepcopy(_parsed(name))


def changed(tmp_path: Path, name: str, change: Callable[[Config], Any]) -> list[str]:
    """What the check says of a shipped file, filled in and with a change."""
    config = parsed(name)
    change(config)
    return findings(tmp_path, json.dumps(config))  # which is YAML, and written sooner


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml", "deploy/rayjob.yaml"])
def test_shipped_files_pass_once_filled(tmp_path: Path, name: str) -> None:
    assert findings(tmp_path, filled(name)) == []


@pytest.mark.parametrize(
    ("name", "placeholders"),
    [
        ("cluster.yaml", ["<bucket>", "<head-profile>", "<worker-profile>"]),
        ("cluster.local.yaml", ["<shared-folder>", "<head-address>", "<worker-address>", "<user>"]),
        ("deploy/rayjob.yaml", ["<registry>", "<bucket>"]),
    ],
)
def test_what_is_to_be_filled_in_is_named(name: str, placeholders: list[str]) -> None:
    found = [text for kind, text in check(ROOT / name)[0] if kind == "error"]
    assert len(found) == len(placeholders)
    for text, placeholder in zip(found, placeholders, strict=True):
        assert f"fill in {placeholder}" in text
        line = int(text.split(":")[0].removeprefix("line "))
        assert placeholder in (ROOT / name).read_text().splitlines()[line - 1]


def head(config: Config) -> Config:
    return config["available_node_types"]["head"]


def spot(config: Config) -> Config:
    return config["available_node_types"]["gpu_spot"]


def says(words: str, instead: str) -> Callable[[Config], None]:
    """Every command of a file says other words."""

    def change(config: Config) -> None:
        for field, value in config.items():
            if field.endswith("_commands"):
                config[field] = [command.replace(words, instead) for command in value]

    return change


def opened(protocol: str, first: int, last: int, **whom: Any) -> Callable[[Config], None]:
    """A security group with one more rule."""
    rule = {"IpProtocol": protocol, "FromPort": first, "ToPort": last, **whom}
    return lambda c: c["provider"]["security_group"].update(IpPermissions=[rule])


WORLD = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}

AWS: list[tuple[Callable[[Config], Any], list[str]]] = [
    (
        lambda c: c.update(idle_timeout_minute=3),
        ["error: no field named 'idle_timeout_minute'; did you mean 'idle_timeout_minutes'?"],
    ),
    (
        lambda c: spot(c).update(max_worker=3),
        ["error: no field of available_node_types.gpu_spot named 'max_worker'; did you mean"],
    ),
    (lambda c: c["docker"].update(imagee="x"), ["error: no field of docker named 'imagee'; did you mean 'image'?"]),
    (lambda c: c.update(max_workers="4"), ["error: max_workers: got '4', expected a whole number"]),
    (
        lambda c: head(c)["resources"].update(CPU=0.5),
        ["error: available_node_types.head.resources.CPU: got 0.5, expected a whole"],
    ),
    (
        lambda c: c.update(head_start_ray_commands="ray start"),
        ["error: head_start_ray_commands: got 'ray start', expected a list"],
    ),
    (lambda c: c.pop("cluster_name"), []),
    (lambda c: c.update(head_node_type="nope"), ["error: Ray refuses the file: `head_node_type` must be one of"]),
    (
        lambda c: spot(c).update(min_workers=9, max_workers=9),
        ["error: Ray refuses the file: The specified global `max_workers`", "note: gpu_spot: 9 g6.2xlarge run"],
    ),
    (lambda c: c.pop("provider"), ["error: provider.type: got None, expected aws or local"]),
    (lambda c: c["provider"].update(type="gcp"), ["error: provider.type: got 'gcp', expected aws or local"]),
    (lambda c: c.update(available_node_types=["head"]), ["error: available_node_types: expected"]),
    (lambda c: c["provider"].update(regoin="x"), ["error: no field of provider named 'regoin'; did you mean 'region'?"]),
    (lambda c: c["provider"].pop("region"), ["error: provider.region: got none"]),
    (lambda c: c["provider"].update(availability_zone="us-east-1a"), ["error: provider.availability_zone: got 'us-east-1a'"]),
    (lambda c: spot(c).update(min_workers=3, max_workers=2), ["error: gpu_spot: got min_workers 3 and", "note: gpu_spot: 3"]),
    (lambda c: spot(c).update(min_workers=1), ["note: gpu_spot: 1 g6.2xlarge run, and cost, even with nothing to do"]),
    (lambda c: head(c).pop("resources"), ["warning: the head offers all its CPUs to cells"]),
    (lambda c: head(c)["resources"].update(CPU=4), ["warning: the head offers 4 CPUs to cells"]),
    (says("127.0.0.1", "0.0.0.0"), ["error: head_start_ray_commands: got --dashboard-host=0.0.0.0, expected 127.0.0.1"]),
    (lambda c: c.pop("head_start_ray_commands"), ["error: head_start_ray_commands: got --dashboard-host=0.0.0.0, expected"]),
    (
        opened("tcp", 8265, 8265, **WORLD),
        ["error: provider.security_group: got tcp 8265 to 8265 open to 0.0.0.0/0, expected ssh"],
    ),
    (opened("-1", -1, -1, Ipv6Ranges=[{"CidrIpv6": "::/0"}]), ["error: provider.security_group: got -1 -1 to -1 open to ::/0"]),
    (opened("tcp", 22, 22, **WORLD), ["warning: provider.security_group: got ssh open to 0.0.0.0/0, which is everybody"]),
    (opened("tcp", 22, 22, IpRanges=[{"CidrIp": "203.0.113.0/24", "Description": "0.0.0.0/0"}]), []),
    (
        opened("-1", -1, -1, UserIdGroupPairs=[{"GroupId": "sg-1"}]),
        ["warning: provider.security_group: got -1 -1 to -1 open to the group sg-1, expected ssh alone"],
    ),
    (says("--head ", ""), ["error: head_start_ray_commands: got `ray start` without --head, so it would be no head"]),
    (
        says("--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        ["error: head_start_ray_commands: got `ray start` without --aut"],
    ),
    (says("--address=$RAY_HEAD_IP:6379", ""), ["error: worker_start_ray_commands: got `ray start` without --address"]),
    (says("--address=", "--head --address="), ["error: worker_start_ray_commands: got --head"]),
    (says("--port=6379", "--port=6380"), ["error: worker_start_ray_commands: got port 6379, expected the head's, 6380"]),
    (lambda c: c.update(worker_start_ray_commands=["ray stop"]), ["error: worker_start_ray_commands: got no `ray start`"]),
    (says("RAY_AUTH_MODE=token", ""), ["error: RAY_AUTH_MODE: the head, gpu_spot, gpu_spot_a10g, gpu_on_demand got none"]),
    (lambda c: spot(c).update(worker_setup_commands=[]), ["error: RAY_AUTH_MODE: gpu_spot got none, expected token"]),
    (
        lambda c: c["worker_start_ray_commands"].insert(0, "export RAY_AUTH_MODE=disabled"),
        ["error: RAY_AUTH_MODE: got the head token, gpu_spot disabled"],
    ),
    (says("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"), ["warning: RAY_AUTH_MODE=disabled: whoever reaches a port"]),
    (says("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=tokens"), ["error: RAY_AUTH_MODE: got the head tokens"]),
    (lambda c: c["docker"]["run_options"].append("--env RAY_AUTH_MODE=token"), []),
    (lambda c: c["file_mounts"].pop("~/.ray/auth_token"), ["error: file_mounts: got no token for RAY_AUTH_MODE=token"]),
    (
        lambda c: c["file_mounts"].update({"~/x": "/nowhere/x"}),
        ["error: file_mounts: no '/nowhere/x' on this machine for '~/x'"],
    ),
    (
        lambda c: c["docker"].update(image="rayproject/ray:latest-gpu"),
        ["error: docker.image: got 'rayproject/ray:latest-gpu', which"],
    ),
    (
        lambda c: c["docker"].update(image="registry:5000/mine"),
        ["error: docker.image: got 'registry:5000/mine', which changes"],
    ),
    (lambda c: c["docker"].update(image="registry:5000/mine:1"), []),
    (lambda c: c["docker"].update(image="rayproject/ray@sha256:0123"), []),
    (
        lambda c: c["docker"].update(image="rayproject/ray:2.50.0-py311-gpu"),
        [f"error: docker.image: got Ray 2.50.0, expected {ray.__version__}"],
    ),
    (
        lambda c: c["docker"].update(image=f"rayproject/ray:{ray.__version__}-py312-gpu"),
        ["error: the head and the workers need the"],
    ),
    (
        lambda c: spot(c).update(docker={"worker_image": "mine:latest"}),
        ["error: gpu_spot.docker.worker_image: got 'mine:latest'"],
    ),
    (lambda c: c["available_node_types"].pop("gpu_on_demand"), ["note: every type with a GPU is spot"]),
    (lambda c: c["provider"].pop("cache_stopped_nodes"), ["warning: provider.cache_stopped_nodes is on"]),
    (lambda c: c["auth"].pop("ssh_user"), ["error: auth.ssh_user: got none"]),
    (lambda c: c["auth"].update(ssh_public_key="~/.ssh/none"), ["error: auth.ssh_public_key: no file '~/.ssh/none'"]),
    (says('export BDRAY_STORE="s3://rows-of-mine/bdray"', "true"), ["warning: no BDRAY_STORE"]),
    (says("s3://rows-of-mine/bdray", "/mnt/rows"), ["warning: BDRAY_STORE=/mnt/rows: a folder, which goes with the machines"]),
]
LOCAL: list[tuple[Callable[[Config], Any], list[str]]] = [
    (
        lambda c: c.update(available_node_types={}, head_node_type="x"),
        ["error: available_node_types: with", "error: head_node_type: with"],
    ),
    (
        lambda c: c["provider"]["worker_ips"].append("10.0.0.1"),
        ["error: provider.worker_ips: got the head's own address '10.0.0.1'"],
    ),
    (lambda c: c["provider"]["worker_ips"].append("10.0.0.2"), ["error: provider.worker_ips: got '10.0.0.2' 2 times"]),
    (lambda c: c["provider"].pop("worker_ips"), ["error: provider.worker_ips: got None, expected a list of addresses"]),
    (lambda c: c["provider"].pop("head_ip"), ["error: provider.head_ip: got None, expected an address"]),
    (lambda c: c["provider"].update(worker_ip=["10.0.0.4"]), ["error: no field of provider named 'worker_ip'; did you mean"]),
    (lambda c: c["provider"].update(region="us-west-2"), ["error: no field of provider named 'region'"]),
    (lambda c: c["auth"].update(ssh_private_key="none"), ["error: auth.ssh_private_key: no file 'none' on this machine"]),
    (says("/srv/bdray", "rows"), ["error: BDRAY_STORE: got 'rows', expected a bucket, or a full path"]),
    (says("RAY_AUTH_MODE=token", ""), ["error: RAY_AUTH_MODE: the head, the workers got none"]),
    (lambda c: c.update(min_workers=1), []),
    (lambda c: c.update(initialization_commands=["export RAY_AUTH_MODE=token"]), []),
]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [(name, *case) for name, cases in (("cluster.yaml", AWS), ("cluster.local.yaml", LOCAL)) for case in cases],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, name: str, change: Callable[[Config], Any], expected: list[str]) -> None:
    found = changed(tmp_path, name, change)
    assert len(found) == len(expected), found
    for sentence, words in zip(found, expected, strict=True):
        assert words in sentence


def test_a_missing_token_names_its_cure(tmp_path: Path, home: Path) -> None:
    (home / ".ray/auth_token").unlink()
    (found,) = findings(tmp_path, filled("cluster.yaml"))
    assert found.startswith("error: file_mounts: no '~/.ray/auth_token' on this machine")
    assert "ray get-auth-token --generate" in found


def test_an_own_key_needs_its_name_in_every_type(tmp_path: Path) -> None:
    found = changed(tmp_path, "cluster.yaml", lambda c: c["auth"].update(ssh_private_key="~/.ssh/id_ed25519"))
    expected = "put KeyName into head, gpu_spot, gpu_spot_a10g, gpu_on_demand"
    assert found == [f"error: auth.ssh_private_key: its EC2 key pair is missing; {expected}"]


def test_several_mistakes_are_all_told(tmp_path: Path) -> None:
    def change(config: Config) -> None:
        config["provider"]["regoin"] = "x"
        config["idle_timeout_minute"] = 3
        spot(config).update(max_workers=-1)

    assert [line.split(":")[0] for line in changed(tmp_path, "cluster.yaml", change)] == ["error"] * 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster_name: bdray\nprovider:\n\ttype: aws\n", "line 3, column 1: found character '\\t'"),
        ("cluster_name: bdray\nmax_workers: 2\n  idle: 3\n", "line 3, column 7: mapping values are not allowed here"),
        ("max_workers: 2\nmax_workers: 3\n", "line 2, column 1: 'max_workers' stands here twice"),
        ("provider: {type: aws, region: [}\n", "line 1"),
        ("", "got NoneType, expected fields"),
        ("- a\n", "got list, expected fields"),
    ],
)
def test_what_is_no_yaml_names_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        check(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"no file 'cluster.yml'; did you mean 'cluster.yaml'\?"):
        check(Path("cluster.yml"))
    with pytest.raises(BadInput, match=r"no file 'nowhere/cluster\.yaml'"):
        check(Path("nowhere/cluster.yaml"))
    with pytest.raises(BadInput, match="cannot read 'docs'"):
        check(Path("docs"))


def test_what_would_start_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(filled("cluster.yaml"))
    kinds = "0 to 8 g6.2xlarge (spot), 0 to 8 g5.2xlarge (spot), 0 to 2 g6.2xlarge"
    assert check(path)[1] == f"head m6i.xlarge, up to 8 workers: {kinds}; ray up {path}"
    path.write_text(filled("cluster.local.yaml"))
    assert check(path)[1] == f"head 10.0.0.1, 2 workers; RAY_UP_enable_autoscaler_v2=0 ray up {path}"


def test_the_command_prints_all_and_exits_with_2_only_for_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(filled("cluster.yaml"))
    assert main(["cluster", "check", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"{path}: head m6i.xlarge")
    path.write_text(filled("cluster.yaml").replace("resources: {CPU: 0}", "resources: {}"))
    assert main(["cluster", "check", str(path)]) == 0
    assert capsys.readouterr()[1].startswith(f"warning: {path}: the head offers")
    assert main(["cluster", "check", "cluster.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == "cluster.yaml: 3 errors\n"
    assert [line.split(":")[0] for line in err.splitlines()] == ["bdray"] * 3
    assert main(["cluster", "check", "cluster.yml"]) == 2
    assert capsys.readouterr() == ("", "bdray: no file 'cluster.yml'; did you mean 'cluster.yaml'?\n")


def test_no_network_and_no_cloud_library(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(filled("cluster.yaml"))
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise SystemExit(f'the network was used: {a}')\n"
        "socket.socket.connect = socket.socket.sendto = socket.getaddrinfo = socket.create_connection = refuse\n"
        "from bdray.__main__ import main\n"
        "status = main(['cluster', 'check', sys.argv[1]])\n"
        "loaded = {'boto3', 'torch', 'pandas', 'ray.tune', 'ray.train'} & set(sys.modules)\n"
        "sys.exit(f'slow to import: {loaded}' if loaded else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_rayjob_is_safe_and_ends() -> None:
    spec = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text())["spec"]
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert head["env"][0] == worker["env"][0]
    assert head["env"][0]["name"] == "BDRAY_STORE"
    offered = worker["resources"]["limits"]
    most = {"CPU": workers["maxReplicas"] * offered["cpu"], "GPU": workers["maxReplicas"] * offered["nvidia.com/gpu"]}
    assert head["env"][1] == {"name": "BDRAY_GROWS_TO", "value": ",".join(f"{kind}={count}" for kind, count in most.items())}
