"""The manifests for Kubernetes, checked against the schemas of Kubernetes and by Prefect's own worker; no cluster."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect.server.api import collections_data
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from nanochat_core.artifacts import read_json
from nanochat_core.specs import LaunchSpec

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deployments" / "kubernetes"
TEMPLATE = PROJECT / "deployments" / "work_pools" / "kubernetes.json"
PREFECT_TEMPLATES = Path(collections_data.__path__[0]) / "views" / "aggregate-worker-metadata.json"
KUBERNETES = "1.33"  # the first in which a Job's successPolicy is stable
# What JobSet adds to the Jobs in it: https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2, kept by hand.
JOBSET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["replicatedJobs"],
            "properties": {
                "network": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "enableDNSHostnames": {"type": "boolean"},
                        "subdomain": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
                        "publishNotReadyAddresses": {"type": "boolean"},
                    },
                },
                "successPolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["operator"],
                    "properties": {
                        "operator": {"enum": ["All", "Any"]},
                        "targetReplicatedJobs": {"type": "array", "items": {"type": "string"}},
                    },
                },
                "failurePolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"maxRestarts": {"type": "integer", "minimum": 0}},
                },
                "replicatedJobs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": {"type": "string"},
                            "replicas": {"type": "integer", "minimum": 0},
                            "template": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}


def kustomization() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def manifests() -> list[dict[str, Any]]:
    """Return what `kubectl apply -k` would create."""
    files = [FOLDER / name for name in kustomization()["resources"]]
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def jobset() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "jobset.yaml").read_text())


def jobs_of_jobset() -> list[dict[str, Any]]:
    jobs = jobset()["spec"]["replicatedJobs"]
    return [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]} for job in jobs
    ]


def rendered_job(**variables: Any) -> dict[str, Any]:
    """Return the Job that Prefect's worker would create for a flow run."""
    template = read_json(TEMPLATE)
    defaults = {
        name: schema["default"] for name, schema in template["variables"]["properties"].items() if "default" in schema
    }
    values = defaults | {"name": "a-run", "env": {}, "labels": {}, "command": "prefect flow-run execute"} | variables
    from prefect.utilities.templating import apply_values

    configuration = apply_values(template["job_configuration"], values, remove_notset=True)
    checked = KubernetesWorkerJobConfiguration.model_validate(configuration)
    checked._populate_generate_name_if_not_present()
    job = copy.deepcopy(checked.job_manifest)
    job["spec"]["template"]["spec"]["containers"][0]["args"] = (checked.command or "").split()
    job["spec"]["template"]["spec"]["containers"][0]["env"] = []
    for name in ("parallelism", "completions"):  # where Prefect 3 insists on them, and Kubernetes drops them
        assert job["spec"]["template"]["spec"].pop(name) == 1
    return job


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in [*manifests(), *jobs_of_jobset(), rendered_job()]:
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["metadata"].get("name", "work pool"), manifest["spec"]["template"]["spec"]


def check(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", manifests(), ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_every_manifest_holds_to_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    check(manifest)


def test_the_schema_refuses_a_misspelt_field() -> None:
    broken = copy.deepcopy(next(manifest for manifest in manifests() if manifest["kind"] == "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken)


def test_pods_run_without_rights_and_say_what_they_need() -> None:
    for name, pod in pod_specs():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_what_runs_for_ever_is_probed_at_a_port_that_it_has() -> None:
    for manifest in manifests():
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] in ports


def test_every_name_that_a_pod_refers_to_is_among_the_manifests() -> None:
    known = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests()}
    for name, pod in pod_specs():
        for volume in pod["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in known, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in known, name
            assert {mount["name"] for mount in container["volumeMounts"]} <= {
                volume["name"] for volume in pod["volumes"]
            }
        if (account := pod.get("serviceAccountName", "default")) != "default":
            assert ("ServiceAccount", account) in known, name


def test_the_addresses_in_the_environment_are_those_of_the_services() -> None:
    found = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests()}
    environment = found["ConfigMap", "nanochat"]["data"]
    for variable, service in (("PREFECT_API_URL", "prefect"), ("MLFLOW_TRACKING_URI", "mlflow")):
        port = found["Service", service]["spec"]["ports"][0]["port"]
        assert environment[variable].removesuffix("/api") == f"http://{service}:{port}"
        selector = found["Service", service]["spec"]["selector"]
        assert selector == found["Deployment", service]["spec"]["template"]["metadata"]["labels"]
    arguments = found["Deployment", "mlflow"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert any(line.startswith("--allowed-hosts=mlflow:5000,") for line in arguments)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed; the schemas are checked without it")
def test_kubectl_builds_the_kustomization_with_the_image_that_the_job_template_names() -> None:
    built = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    documents = list(yaml.safe_load_all(built))
    assert len(documents) == len(manifests())
    assert {document["metadata"].get("namespace", "nanochat") for document in documents} == {"nanochat"}
    images = set(re.findall(r"image: (\S+)", built))
    assert images == {read_json(TEMPLATE)["variables"]["properties"]["image"]["default"]}


def test_the_job_template_defines_what_it_uses_and_knows_no_field_that_prefect_does_not() -> None:
    template = read_json(TEMPLATE)
    ours = template["job_configuration"]
    prefects = read_json(PREFECT_TEMPLATES)["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    assert ours.keys() == prefects["job_configuration"].keys()
    used = set(re.findall(r"\{\{ (\w+) \}\}", TEMPLATE.read_text()))
    assert used == template["variables"]["properties"].keys()
    assert prefects["variables"]["properties"].keys() - used == {"cpu_limit"}  # a limit slows training down for nothing
    jsonschema.Draft202012Validator.check_schema(template["variables"])
    defaults = {
        name: schema["default"] for name, schema in template["variables"]["properties"].items() if "default" in schema
    }
    jsonschema.validate(defaults, template["variables"])


@pytest.mark.parametrize("nodes", [1, 4])
def test_the_job_of_a_flow_run_is_valid_and_done_when_its_first_pod_is(nodes: int) -> None:
    job = rendered_job(nodes=nodes, gpus=8)
    check(job)
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == nodes
    assert job["spec"]["successPolicy"]["rules"] == [{"succeededIndexes": "0"}]


def test_the_first_pod_is_the_one_that_the_service_names_the_head() -> None:
    service = next(manifest for manifest in manifests() if manifest["metadata"]["name"] == "nanochat-head")
    labels = rendered_job()["spec"]["template"]["metadata"]["labels"] | {
        "batch.kubernetes.io/job-completion-index": "0"  # set by Kubernetes
    }
    assert service["spec"]["selector"].items() <= labels.items()
    endpoint = f"nanochat-head:{service['spec']['ports'][0]['port']}"
    description = read_json(TEMPLATE)["variables"]["properties"]["nodes"]["description"]
    assert endpoint in description
    assert LaunchSpec(mode="multinode", nnodes=2, rdzv_endpoint=endpoint).conflicts() == []


@pytest.mark.parametrize(("index", "started"), [("0", "flow: execute"), ("1", "nanochat: join")])
def test_the_first_pod_runs_the_flow_and_the_others_join(tmp_path: Path, index: str, started: str) -> None:
    for name in ("flow", "nanochat"):
        (tmp_path / name).write_text('#!/bin/sh\necho "${0##*/}: $*"\n')
        (tmp_path / name).chmod(0o755)
    command = rendered_job(command="flow execute")["spec"]["template"]["spec"]["containers"][0]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": index}
    done = subprocess.run([*command["command"], *command["args"]], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == started


def test_the_jobset_is_valid_and_its_jobs_are_jobs_of_kubernetes() -> None:
    jsonschema.validate(jobset(), JOBSET)
    for job in jobs_of_jobset():
        check(job)
    assert jobset()["metadata"]["namespace"] == kustomization()["namespace"]
    nodes = sum(job["spec"]["completions"] for job in jobs_of_jobset())
    arguments = jobs_of_jobset()[0]["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert f"launch.nnodes={nodes}" in arguments
    assert f"$(hostname).{jobset()['spec']['network']['subdomain']}:29500" in arguments
