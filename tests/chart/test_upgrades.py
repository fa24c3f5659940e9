"""What an upgrade must not do: change what Kubernetes forbids to change, or a number that is the autoscaler's."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import CHART, Helm, HelmError, parsed
from tests.support.kube_lookup import lookup_api, owned
from tests.support.metric_names import names_in

pytestmark = pytest.mark.system

Objects = list[dict[str, Any]]

JOBS = (
    'engineCache={"pvc":{"enabled":true},"prepare":{"enabled":true}}',
    'decode.settings={"decode_backend":"onnx","decode_max_streams":4}',
)
"""A release with both Jobs: the one that fetches the model, and the one that builds engines."""
CHANGES = (
    'commonLabels={"team":"speech"}',
    'commonAnnotations={"contact":"speech"}',
    "podSecurityContext.supplementalGroups=[44]",
    "podSecurityContext.runAsUser=1000",
    'global.imagePullSecrets=["pull"]',
    'global.imageRegistry="registry.example"',
    'gateway.image.tag="edge"',
    'gateway.image.pullPolicy="Always"',
    'decode.image.tag="edge"',
    'decode.settings={"decode_backend":"onnx","decode_max_streams":5}',
    'decode.extraEnvVars=[{"name":"A","value":"b"}]',
    'decode.extraEnvVarsSecret="more"',
    'decode.nodeSelector={"gpu":"yes"}',
    'decode.tolerations=[{"key":"nvidia.com/gpu","operator":"Exists"}]',
    "decode.gpu.count=2",
    'model.name="cosyvoice3"',
    'model.mountPath="/m"',
    'model.pvc.existingClaim="mine"',
    'model.fetch.tokenSecret.name="hub"',
    "model.fetch.resources.limits.memory=1",
    "model.fetch.backoffLimit=1",
    'engineCache.sizeLimit="1Gi"',
    'engineCache.pvc.existingClaim="mine"',
    "networkPolicy.enabled=false",
    'discovery="dns"',
    'gateway.service.type="LoadBalancer"',
    "encode.replicaCount=3",
    "decode.autoscaling.hpa.enabled=true",
    "metrics.enabled=false",
    "loadGenerator.enabled=true",
)
FIXED = {
    "Job": (("spec", "template"), ("spec", "selector")),
    "Deployment": (("spec", "selector"),),
    "PersistentVolumeClaim": (("spec",),),
    "RoleBinding": (("roleRef",),),
    "Service": (("spec", "clusterIP"),),
}
"""Fields that the API server does not let an upgrade change, by kind. (A claim may grow.)"""


def at(item: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        item = (item or {}).get(name)
    return item


def forbidden(before: Objects, after: Objects) -> Iterator[str]:
    """Yield each change of an upgrade from `before` to `after` that the API server would refuse."""
    known = {(item["kind"], item["metadata"]["name"]): item for item in before}
    for item in after:
        kind, name = item["kind"], item["metadata"]["name"]
        for path in FIXED.get(kind, ()):
            if (kind, name) in known and at(known[kind, name], path) != at(item, path):
                yield f"{kind} {name}: {'.'.join(path)}"


def names(objects: Objects, kind: str) -> set[str]:
    return {item["metadata"]["name"] for item in objects if item["kind"] == kind}


def of_version(helm: Helm, folder: Path, **fields: str) -> Helm:
    """A copy of the chart with other fields in Chart.yaml."""
    copy = folder / "chart"
    shutil.copytree(CHART, copy)
    metadata = yaml.safe_load((copy / "Chart.yaml").read_text(encoding="utf-8"))
    (copy / "Chart.yaml").write_text(yaml.safe_dump({**metadata, **fields}), encoding="utf-8")
    return dataclasses.replace(helm, chart=copy)


@pytest.fixture(scope="module")
def installed(newest_helm: Helm) -> Objects:
    objects = newest_helm.render("values.yaml", *JOBS)
    assert len(names(objects, "Job")) == 2
    return objects


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_value_changes_no_field_that_is_fixed(newest_helm: Helm, installed: Objects, change: str) -> None:
    assert not list(forbidden(installed, newest_helm.render("values.yaml", *JOBS, change)))


@pytest.mark.parametrize(
    "fields", [{"version": "9.9.9"}, {"appVersion": "9.9.9"}], ids=lambda fields: next(iter(fields))
)
def test_another_version_of_the_chart_changes_no_field_that_is_fixed(
    newest_helm: Helm, tmp_path: Path, installed: Objects, fields: dict[str, str]
) -> None:
    upgraded = of_version(newest_helm, tmp_path, **fields).render("values.yaml", *JOBS)
    assert not list(forbidden(installed, upgraded))
    assert (names(upgraded, "Job") == names(installed, "Job")) is ("version" in fields), "new images need new Jobs"


def test_names_of_jobs_fit_into_a_label(newest_helm: Helm) -> None:
    objects = newest_helm.render("values.yaml", *JOBS, f'fullnameOverride="{"x" * 60}"')
    assert all(len(name) <= 63 for name in names(objects, "Job"))


def replicas(text: str) -> dict[str, Any]:
    """The number of replicas of each Deployment in helm's output; None if it is left out."""
    objects = [item for item in parsed(text) if item["kind"] == "Deployment"]
    return {item["metadata"]["name"]: item["spec"].get("replicas") for item in objects}


AUTOSCALED = 'decode.autoscaling.hpa={"enabled":true,"minReplicas":2,"maxReplicas":9}'


@pytest.mark.parametrize(("there", "expected"), [(5, 5), (1, 2), (0, 0), (None, 2)])
def test_an_autoscaled_service_keeps_the_replicas_that_it_has(
    each_helm: Helm, tmp_path: Path, there: int | None, expected: int
) -> None:
    name = "light-tts-decode"
    objects = [] if there is None else [owned("Deployment", "apps/v1", name, {"replicas": there})]
    with lookup_api(objects, tmp_path) as kubeconfig:
        text = each_helm.ask_cluster(kubeconfig, "values-cpu.yaml", AUTOSCALED)
    assert replicas(text)[name] == expected


@pytest.mark.parametrize("scaler", ["hpa", "keda"])
@pytest.mark.parametrize(("fixed", "expected"), [("", 2), ("7", 7), ('"omit"', None)])
def test_without_a_cluster_the_replicas_of_an_autoscaled_service_are_a_value(
    newest_helm: Helm, scaler: str, fixed: str, expected: int | None
) -> None:
    settings = [f'decode.autoscaling.{scaler}={{"enabled":true,"minReplicas":2,"serverAddress":"http://p"}}']
    if scaler == "hpa":
        settings = [AUTOSCALED]
    if fixed:
        settings.append(f"decode.autoscaling.replicas={fixed}")
    text = yaml.safe_dump_all(newest_helm.render("values-cpu.yaml", *settings))
    assert replicas(text)["light-tts-decode"] == expected


def test_an_additional_variable_replaces_a_derived_one(newest_helm: Helm) -> None:
    """Helm 4 applies objects on the server, which refuses a list with a name twice."""
    settings = (
        'decode.extraEnvVars=[{"name":"TRITON_CACHE_DIR","value":"/mine"}]',
        'decode.settings.decode_backend="onnx"',
        'engineCache={"pvc":{"enabled":true},"prepare":{"enabled":true}}',
    )
    found = []
    for item in newest_helm.render("values.yaml", *settings):
        if item["kind"] in ("Deployment", "Job"):
            (container,) = item["spec"]["template"]["spec"]["containers"]
            names = [entry["name"] for entry in container["env"]]
            assert len(names) == len(set(names)), item["metadata"]["name"]
            found += [entry["value"] for entry in container["env"] if entry["name"] == "TRITON_CACHE_DIR"]
    assert sorted(found) == ["/cache/triton"] * 2 + ["/mine"] * 2


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_a_budget_protects_pods_that_an_autoscaler_adds(newest_helm: Helm, kind: str) -> None:
    """One pod is the minimum, and a drain of nodes may meet four."""
    settings = ("decode.autoscaling." + kind + ".enabled=true", 'decode.autoscaling.keda.serverAddress="http://p:9090"')
    objects = newest_helm.render("values.yaml", *settings)
    budgets = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "PodDisruptionBudget"}
    assert budgets.keys() == {"light-tts-encode", "light-tts-decode"}
    assert budgets["light-tts-decode"]["maxUnavailable"] == 1, "1 of 1 pod may leave, so that nodes can be drained"


def test_keda_takes_lost_metrics_for_lost_metrics(newest_helm: Helm) -> None:
    scaling = 'autoscaling.keda={"enabled":true,"minReplicas":2,"serverAddress":"http://prometheus:9090"}'
    objects = newest_helm.render("values-cpu.yaml", f"decode.{scaling}", f"gateway.{scaling}")
    scalers = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "ScaledObject"}
    decode, gateway = scalers["light-tts-decode"], scalers["light-tts-gateway"]
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in decode["triggers"]} == {"false"}
    assert decode["fallback"] == {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"}
    assert "fallback" not in gateway, "KEDA has none for CPU"


def claim(name: str, *, size: str = "20Gi", mode: str = "ReadWriteMany", phase: str = "Bound") -> dict[str, Any]:
    """A claim as the cluster has it."""
    spec = {"accessModes": [mode], "storageClassName": "fast", "resources": {"requests": {"storage": size}}}
    return {**owned("PersistentVolumeClaim", "v1", name, spec), "status": {"phase": phase}}


MODEL, VOICES, ENGINES = "light-tts-model", "light-tts-voices", "light-tts-engines"


@pytest.mark.parametrize(
    ("there", "settings", "sentence"),
    [
        (claim(MODEL), ('model.pvc.size="10Gi"',), "model.pvc.size is 10Gi, but the claim light-tts-model has 20Gi"),
        (claim(MODEL), ('model.pvc.size="21G"',), "model.pvc.size is 21G, but the claim light-tts-model has 20Gi"),
        (claim(MODEL), ('model.pvc.accessModes=["ReadWriteOnce"]',), "model.pvc.accessModes is ReadWriteOnce"),
        (claim(MODEL), ('model.pvc.storageClass="slow"',), "model.pvc.storageClass is slow"),
        (claim(MODEL, phase="Pending"), ('model.pvc.size="30Gi"',), "only a bound claim can grow"),
        (
            claim(VOICES),
            ("gateway.voices.enabled=true",),
            "gateway.voices.size is 10Gi, but the claim light-tts-voices",
        ),
        (claim(ENGINES), ("engineCache.pvc.enabled=true",), "engineCache.pvc.size is 10Gi"),
        (claim(MODEL), (), None),
        (claim(MODEL), ('model.pvc.size="30Gi"',), None),
        (claim(MODEL), ("model.pvc.size=2.2e10",), None),
        (claim(MODEL), ('model.pvc.size="1"', 'model.mode="emptyDir"'), None),
        (claim(MODEL), ('model.pvc.size="1"', 'model.pvc.existingClaim="mine"'), None),
        (claim("other"), ('model.pvc.size="1"',), None),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_an_upgrade_that_changes_a_claim_is_refused_with_a_sentence(
    newest_helm: Helm, tmp_path: Path, there: dict[str, Any], settings: tuple[str, ...], sentence: str | None
) -> None:
    with lookup_api([there], tmp_path) as kubeconfig:
        said = newest_helm.ask_cluster(kubeconfig, "values.yaml", *settings)
    assert (sentence in said) if sentence else ("kind: Deployment" in said), said


def test_a_claim_keeps_the_storage_class_that_it_has(newest_helm: Helm, tmp_path: Path) -> None:
    with lookup_api([claim(MODEL)], tmp_path) as kubeconfig:
        said = newest_helm.ask_cluster(kubeconfig, "values.yaml")
    (made,) = [item for item in parsed(said) if item["kind"] == "PersistentVolumeClaim"]
    assert made["spec"]["storageClassName"] == "fast"


@pytest.mark.parametrize(
    ("override", "refused"), [('nameOverride="tts"', True), ('nameOverride="light-tts"', False), ("", False)]
)
def test_an_upgrade_that_changes_selectors_is_refused_with_a_sentence(
    each_helm: Helm, tmp_path: Path, override: str, refused: bool
) -> None:
    labels = {"app.kubernetes.io/name": "light-tts", "app.kubernetes.io/instance": "light-tts"}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}}
    with lookup_api([owned("Deployment", "apps/v1", "light-tts-llm", spec)], tmp_path) as kubeconfig:
        said = each_helm.ask_cluster(kubeconfig, "values-cpu.yaml", *filter(None, [override]))
    assert ("set nameOverride to light-tts, or uninstall" in said) is refused, said


def test_without_load_keda_takes_all_pods_and_refused_calls_bring_the_first_one(newest_helm: Helm) -> None:
    scaling = 'decode.autoscaling.keda={"enabled":true,"minReplicas":0,"serverAddress":"http://prometheus:9090"}'
    objects = newest_helm.render("values-cpu.yaml", scaling)
    (scaler,) = [item["spec"] for item in objects if item["kind"] == "ScaledObject"]
    assert (scaler["minReplicaCount"], scaler["cooldownPeriod"]) == (0, 600)
    queries = [trigger["metadata"]["query"] for trigger in scaler["triggers"]]
    assert all(query.endswith(" or vector(0)") for query in queries), "a service without pods has no series"
    assert names_in(queries[-1]) == {"lighttts_pool_refusals_total"}
    assert replicas(yaml.safe_dump_all(objects))["light-tts-decode"] == 0
    with pytest.raises(HelmError, match="only llm and decode can scale to zero"):
        newest_helm.render("values-cpu.yaml", scaling.replace("decode", "gateway"))
