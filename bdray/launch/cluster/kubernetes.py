"""A file for KubeRay as its rules see it: the job, its cluster, its pods and their containers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bdray.launch.cluster.access import records
from bdray.launch.cluster.config import Finding
from bdray.spec import Config

CLUSTERS = {"RayJob": "rayClusterSpec", "RayCluster": "", "RayService": "rayClusterConfig"}
"""The kinds that KubeRay starts a cluster for, and where in `spec` that cluster is described."""
FIELDS = {
    "RayJob": {
        *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
        *("submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode"),
        *("entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"),
        *("preRunningDeadlineSeconds", "shutdownAfterJobFinishes", "suspend"),
    },
    "cluster": {
        *("upgradeStrategy", "authOptions", "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations"),
        *("enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"),
    },
    "authOptions": {"enableK8sTokenAuth", "secretName", "mode"},
    "autoscalerOptions": {
        *("resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode", "version"),
        *("env", "envFrom", "volumeMounts"),
    },
    "headGroupSpec": {
        *("template", "headService", "enableIngress", "resources", "labels", "rayStartParams", "serviceType"),
    },
    "workerGroupSpecs": {
        *("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "resources", "labels"),
        *("rayStartParams", "template", "scaleStrategy", "numOfHosts"),
    },
}
"""KubeRay's published types: docs.ray.io, KubeRay CRD API reference (1.6.2 and 1.7.1), generated from
ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go of github.com/ray-project/kuberay."""


class Pod(NamedTuple):
    """The `spec` of a pod, and where it stands."""

    where: str
    spec: Config

    @property
    def containers(self) -> list[tuple[str, Config]]:
        """Each with where it stands; those that only run at the start too."""
        found = []
        for field in ("containers", "initContainers", "ephemeralContainers"):
            for number, container in enumerate(records(self.spec.get(field))):
                found.append((f"{self.where}.{container.get('name', f'{field}[{number}]')}", container))
        return found


@dataclass(frozen=True)
class Job:
    """One document of a kind of KubeRay's."""

    kind: str
    document: Config

    @property
    def spec(self) -> Config:
        """What is asked for."""
        return fields(self.document, "spec")

    @property
    def cluster(self) -> Config:
        """The cluster of Ray in it."""
        return fields(self.spec, CLUSTERS[self.kind]) if CLUSTERS[self.kind] else self.spec

    @property
    def groups(self) -> list[tuple[str, Config]]:
        """The head's group and the workers', each with its name."""
        workers = [(str(group.get("groupName", "workers")), group) for group in records(self.cluster.get("workerGroupSpecs"))]
        return [("head", fields(self.cluster, "headGroupSpec")), *workers]

    @property
    def pods(self) -> list[Pod]:
        """Every pod that is described."""
        found = [Pod(name, fields(group, "template", "spec")) for name, group in self.groups]
        found.append(Pod("submitter", fields(self.spec, "submitterPodTemplate", "spec")))
        found.append(Pod("autoscaler", {"containers": [{"name": "container", **fields(self.cluster, "autoscalerOptions")}]}))
        return found

    @property
    def containers(self) -> list[tuple[str, Config]]:
        """Every container of every pod, with where it stands."""
        return [container for pod in self.pods for container in pod.containers]

    @property
    def environment(self) -> list[tuple[str, str, str]]:
        """Where, name and value of each variable that has its value in the file."""
        found = [(where, entry) for where, container in self.containers for entry in records(container.get("env"))]
        return [(where, str(entry.get("name")), str(entry["value"])) for where, entry in found if "value" in entry]


def fields(value: object, *names: str) -> Config:
    """The group of fields below these names; an empty one where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def is_kubernetes(document: Config) -> bool:
    """Whether a document is one for `kubectl apply`."""
    return "apiVersion" in document or "kind" in document


def listed(documents: list[Config]) -> list[Config]:
    """The documents, and in place of a `List` what is in it."""
    found: list[Config] = []
    for document in documents:
        found += records(document.get("items")) if document.get("kind") == "List" else [document]
    return found


def sentence(documents: list[Config], path: Path) -> str:
    """What `kubectl apply` would start, and how it is typed."""
    told = []
    for document in listed(documents):
        if (kind := str(document.get("kind"))) in CLUSTERS:
            workers = [
                f"{group.get('minReplicas', 0)} to {group.get('maxReplicas', 'any')} {name}"
                for name, group in Job(kind, document).groups[1:]
            ]
            name = fields(document, "metadata").get("name")
            told.append(f"{kind} {name}: a head, {', '.join(workers) or 'no'} workers")
    return "; ".join([*told, f"kubectl apply -f {path}"])


def structure(job: Job) -> Iterator[Finding]:
    """What the rules below read must be there, and be of its type."""
    at = f"spec.{CLUSTERS[job.kind]}".rstrip(".")
    if not str(job.document.get("apiVersion")).startswith("ray.io/"):
        yield Finding.error(f"apiVersion: got {job.document.get('apiVersion')!r}, expected ray.io/v1")
    if job.spec.get("clusterSelector"):
        yield Finding.note("clusterSelector: the job runs on a cluster that is there, which is not checked here")
        return
    for where, group in [(at, job.cluster), *((f"{at}: {name}", group) for name, group in job.groups)]:
        if not group:
            yield Finding.error(f"{where}: got nothing, expected its fields")
    for name, group in job.groups:
        if group and not records(fields(group, "template", "spec").get("containers")):
            yield Finding.error(f"{name}: got no template.spec.containers, expected one of Ray")
        for field in ("replicas", "minReplicas", "maxReplicas", "numOfHosts"):
            if field in group and (type(group[field]) is not int or group[field] < 0):
                yield Finding.error(f"{name}.{field}: got {group[field]!r}, expected a whole number")
