"""Mistakes in a file for KubeRay, one function each: pods without walls, who reaches them, and what goes on costing."""

import re
import shlex
from collections.abc import Callable, Iterator

import ray

from bdray.launch.cluster import containers, leaks
from bdray.launch.cluster.access import records
from bdray.launch.cluster.commands import Command, check_commands
from bdray.launch.cluster.config import Finding
from bdray.launch.cluster.kubernetes import CLUSTERS, FIELDS, Job, fields, listed, structure
from bdray.launch.cluster.machines import MANY
from bdray.spec import Config, unknown

OUTSIDE = ("LoadBalancer", "NodePort", "ExternalName")
"""Types of a service that is reached from outside of the cluster of Kubernetes."""
OWNERS = re.compile(r"admin|root|^default$|^system:", re.IGNORECASE)


def names(job: Job) -> Iterator[Finding]:
    """A misspelt field is dropped, and with it what it was to forbid."""
    groups = {
        "headGroupSpec": [fields(job.cluster, "headGroupSpec")],
        "workerGroupSpecs": [group for _, group in job.groups[1:]],
    }
    groups |= {name: [fields(job.cluster, name)] for name in ("authOptions", "autoscalerOptions")}
    groups |= {"cluster": [job.cluster]} | ({job.kind: [job.spec]} if job.kind in FIELDS else {})
    for kind, found in groups.items():
        for name in sorted({str(name) for group in found for name in group} - FIELDS[kind]):
            yield Finding.error(unknown(f"field of {'the ' if kind == 'cluster' else ''}{kind}", name, FIELDS[kind]))


def authentication(job: Job) -> Iterator[Finding]:
    """KubeRay asks for no token unless it is told to."""
    mode = fields(job.cluster, "authOptions").get("mode")
    if mode == "disabled":
        yield Finding.warning("authOptions.mode: disabled, so whoever reaches a pod runs code on it; expected token")
    elif mode != "token":
        yield Finding.error(f"authOptions.mode: got {mode!r}, so whoever reaches a pod may run code on it; expected token")
    for where, name, value in job.environment:
        if name == "RAY_AUTH_MODE" and value != "token":
            yield Finding.error(f"{where}: got RAY_AUTH_MODE={value}, against authOptions; delete it")


def walls(job: Job) -> Iterator[Finding]:
    """What a pod shares with its machine."""
    for pod in job.pods:
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(field) not in (None, False):
                yield Finding.error(f"{pod.where}: got {field}, which shares the machine with every cell; delete it")
        for volume in records(pod.spec.get("volumes")):
            if "hostPath" in volume:
                path = fields(volume, "hostPath").get("path")
                yield Finding.error(f"{pod.where}: got the machine's folder {path!r} as a volume; use a claim or an emptyDir")
            if leaks.secret_name(str(fields(volume, "nfs").get("path", ""))):
                yield Finding.warning(f"{pod.where}: got a shared folder of secrets as a volume; use a secret")
        for where, context in [(pod.where, pod.spec), *pod.containers]:
            yield from _security(where, fields(context, "securityContext"))
        if pod.spec.get("nodeName"):
            yield Finding.warning(
                f"{pod.where}: got nodeName, which goes past the scheduler and its limits; use a nodeSelector"
            )
        for toleration in records(pod.spec.get("tolerations")):
            if not toleration.get("key") or re.search(r"control-plane|master", str(toleration.get("key"))):
                yield Finding.warning(
                    f"{pod.where}: tolerates every machine, those that run Kubernetes too; name a key such as nvidia.com/gpu"
                )
    for name, group in job.groups:
        noted = fields(group, "template", "metadata", "annotations")
        for key, value in noted.items():
            if "unconfined" in str(value).lower():
                yield Finding.error(f"{name}: got the annotation {key}: {value}, which takes the pod's walls down; delete it")


def _security(where: str, context: Config) -> Iterator[Finding]:
    """A `securityContext` of a pod or of a container."""
    for field in ("privileged", "allowPrivilegeEscalation"):
        if context.get(field) not in (None, False):
            yield Finding.error(
                f"{where}: got {field}, which gives every cell the machine; delete it, limits are enough for a GPU"
            )
    added = fields(context, "capabilities").get("add")
    if added:
        yield Finding.error(f"{where}: got the capabilities {added}, rights over the machine that no cell needs; delete them")
    if context.get("runAsUser") == 0 or context.get("runAsGroup") == 0 or context.get("runAsNonRoot") is False:
        yield Finding.warning(f"{where}: runs as root; expected a plain user, such as 1000 of Ray's images")
    for field in ("seccompProfile", "appArmorProfile"):
        if fields(context, field).get("type") == "Unconfined":
            yield Finding.error(f"{where}: got {field} Unconfined, which takes the container's walls down; delete it")
    if context.get("procMount") not in (None, "Default") or fields(context, "windowsOptions").get("hostProcess"):
        yield Finding.error(f"{where}: got a part of the machine in its securityContext; delete it")
    if context.get("sysctls"):
        yield Finding.warning(f"{where}: got sysctls, settings of the machine's kernel; delete them")


def reached(job: Job) -> Iterator[Finding]:
    """Who reaches the head from outside."""
    head = fields(job.cluster, "headGroupSpec")
    yield from service("headGroupSpec.serviceType", {"type": head.get("serviceType")})
    yield from service("headGroupSpec.headService", fields(head, "headService", "spec"))
    yield from service("serveService", fields(job.spec, "serveService", "spec"))
    if head.get("enableIngress"):
        yield Finding.error(
            "headGroupSpec.enableIngress: opens the dashboard to the outside; delete it, use `kubectl port-forward`"
        )
    for where, container in job.containers:
        for port in records(container.get("ports")):
            if port.get("hostPort"):
                yield Finding.error(f"{where}: got hostPort {port['hostPort']}, which opens the port on the machine; delete it")
    for name, group in job.groups:
        for field, value in fields(group, "rayStartParams").items():
            if field == "node-ip-address" or field == "ray-debugger-external" or "auth" in str(value).lower():
                yield Finding.error(f"{name}.rayStartParams: got {field}, which KubeRay or authOptions decide; delete it")
            elif field == "dashboard-host" and fields(job.cluster, "authOptions").get("mode") != "token":
                yield Finding.error(
                    f"{name}.rayStartParams: got {field} {value}, which asks nobody for a token; set authOptions.mode: token"
                )


def service(where: str, spec: Config) -> Iterator[Finding]:
    if spec.get("type") in OUTSIDE:
        yield Finding.error(
            f"{where}: got {spec['type']}, which is reached from outside; expected ClusterIP, and `kubectl port-forward`"
        )
    if spec.get("externalIPs") or spec.get("loadBalancerIP"):
        yield Finding.error(f"{where}: got addresses of the outside; delete them, use `kubectl port-forward`")


def rights(job: Job) -> Iterator[Finding]:
    """What a pod may ask of Kubernetes."""
    for pod in job.pods:
        account = pod.spec.get("serviceAccountName", pod.spec.get("serviceAccount"))
        if account is not None and OWNERS.search(str(account)):
            yield Finding.error(
                f"{pod.where}: got the service account {account!r}, with others' rights; make one that may use the bucket alone"
            )
    if str(fields(job.document, "metadata").get("namespace")) in ("kube-system", "kube-public", "kube-node-lease"):
        yield Finding.error("metadata.namespace: got one of Kubernetes itself, with its secrets; name one of your own")


def commands(job: Job) -> Iterator[Finding]:
    """What every command may not do: those of containers, of hooks, of the job and of its environment."""
    found = [("entrypoint", job.spec.get("entrypoint")), ("runtimeEnvYAML", job.spec.get("runtimeEnvYAML"))]
    for where, container in job.containers:
        for field in ("command", "args"):
            found.append((f"{where}.{field}", container.get(field)))
        for hook in ("postStart", "preStop"):
            found.append((f"{where}.{hook}", fields(container, "lifecycle", hook, "exec").get("command")))
    texts = [(where, _joined(words)) for where, words in found if words]
    yield from check_commands(Command(where, text) for where, text in texts)
    for where, text in texts:
        if re.search(r"\bRAY_AUTH_MODE\b(?!=[\"']?token\b)", text):
            yield Finding.error(f"{where}: got a command on RAY_AUTH_MODE, which authOptions sets; delete it")


def _joined(words: object) -> str:
    """A command as one text; of `sh -c TEXT`, the text."""
    if not isinstance(words, list):
        return str(words)
    texts = [str(word) for word in words]
    return "\n".join(texts) if any(" " in text for text in texts) else shlex.join(texts)


def images(job: Job) -> Iterator[Finding]:
    """The same image tomorrow, and of this Ray."""
    for where, container in job.containers:
        if isinstance(container.get("image"), str) and "<" not in container["image"]:
            yield from containers.image(f"{where}.image", container["image"], public=False)
    version = job.cluster.get("rayVersion")
    if version is not None and str(version) != ray.__version__:
        yield Finding.error(f"rayVersion: got {version}, expected {ray.__version__}, the one installed here")


def store(job: Job) -> Iterator[Finding]:
    """One bucket for all, on a way that nobody listens to."""
    given = {value for _, name, value in job.environment if name == "BDRAY_STORE"}
    for uri in sorted(given):
        if "://" not in uri and not any(pod.spec.get("volumes") for pod in job.pods):
            yield Finding.warning(f"BDRAY_STORE={uri}: a folder, which goes with its pod; expected a bucket, s3://...")
        yield from leaks.store(uri)
    if len(given) > 1:
        yield Finding.error(f"BDRAY_STORE: got {', '.join(sorted(given))}, expected one for the head and all workers")
    if not given and not re.search(r"--store\b", str(job.spec.get("entrypoint"))):
        yield Finding.warning("no BDRAY_STORE: rows stay in a pod unless each sweep names a --store; put it into env")


def money(job: Job) -> Iterator[Finding]:
    """What goes on costing."""
    if job.kind == "RayJob" and not job.spec.get("clusterSelector") and job.spec.get("shutdownAfterJobFinishes") is not True:
        yield Finding.warning(
            "shutdownAfterJobFinishes is off: the cluster goes on costing when the sweep is done; set it to true"
        )
    seconds = {"ttlSecondsAfterFinished": job.spec.get("ttlSecondsAfterFinished")}
    seconds["autoscalerOptions.idleTimeoutSeconds"] = fields(job.cluster, "autoscalerOptions").get("idleTimeoutSeconds")
    seconds |= {f"{name}.idleTimeoutSeconds": group.get("idleTimeoutSeconds") for name, group in job.groups}
    for field, number in seconds.items():
        if isinstance(number, int | float) and number > 3600:
            yield Finding.warning(f"{field}: got {number}, expected 3600 at the most; idle machines cost as busy ones do")
    for name, group in job.groups[1:]:
        most, least = group.get("maxReplicas"), max(group.get("minReplicas", 0), group.get("replicas", 0))
        if most is None or most > MANY:
            yield Finding.warning(f"{name}.maxReplicas: got {'none' if most is None else most}, expected {MANY} at the most")
        elif least > most:
            yield Finding.error(f"{name}: got {least} replicas and maxReplicas {most}; lower the first")
        if least:
            yield Finding.note(f"{name}: {least} pods run, and cost, even with nothing to do")
    for pod in job.pods[: len(job.groups)]:
        first = records(pod.spec.get("containers"))[:1]
        if first and not fields(first[0], "resources", "limits"):
            where = f"{pod.where}.{first[0].get('name', 'container')}"
            yield Finding.warning(
                f"{where}: got no resources.limits, so that a cell may take the whole machine; name cpu and memory"
            )


RULES: tuple[Callable[[Job], Iterator[Finding]], ...] = (
    *(names, authentication, walls, reached, rights, commands, images, store, money),
)


def check_documents(documents: list[Config]) -> list[Finding]:
    """Everything that is wrong or doubtful in a file for `kubectl apply`."""
    found: list[Finding] = []
    for document in listed(documents):
        kind = str(document.get("kind"))
        if kind in CLUSTERS:
            broken = list(structure(Job(kind, document)))
            found += broken or [finding for rule in RULES for finding in rule(Job(kind, document))]
        elif kind == "Secret" and (document.get("data") or document.get("stringData")):
            found.append(
                Finding.error("Secret: its values stand in the file; make it with `kubectl create secret`, and delete it here")
            )
        elif kind == "Service":
            found += service("Service", fields(document, "spec"))
        else:
            found.append(Finding.note(f"kind {kind}: expected {', '.join(CLUSTERS)}; this document is not checked"))
    return found
