"""What helm makes of the chart: valid for every supported Kubernetes, the same from Helm 3 and 4, safe by default."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import utils as kubernetes_schemas

from services.common.discovery import discover
from tests.support.chart import rendered
from tests.support.helm import NAMESPACE, PROFILES, VERSIONS, Helm

pytestmark = pytest.mark.system

OLDEST, NEWEST = "1.31", "1.37"
FOREIGN = {"ScaledObject", "HTTPRoute", "GRPCRoute", "BackendTrafficPolicy", "Certificate"}
"""Kinds of other projects, whose schemas are not Kubernetes' own."""
Objects = list[dict[str, Any]]


def of_kind(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    """Objects of a kind by component."""
    return {item["metadata"]["labels"]["app.kubernetes.io/component"]: item for item in objects if item["kind"] == kind}


def servers(objects: Objects) -> dict[str, dict[str, Any]]:
    """The Deployments that serve, by component; the load generator only asks."""
    return {name: item for name, item in of_kind(objects, "Deployment").items() if name != "load"}


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod, or pod template, by the name of its owner."""
    for item in objects:
        spec = item["spec"] if item["kind"] == "Pod" else item.get("spec", {}).get("template", {}).get("spec")
        if spec is not None:
            yield f"{item['kind']} {item['metadata']['name']}", spec


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("profile", PROFILES)
def test_helm_has_nothing_to_complain_about(each_helm: Helm, profile: str) -> None:
    assert "WARNING" not in each_helm.lint(profile)


def test_helm_3_and_4_make_the_same(variant: str) -> None:
    def key(item: dict[str, Any]) -> tuple[str, str]:
        return item["kind"], item["metadata"]["name"]

    old, new = (sorted(rendered(version, variant), key=key) for version in VERSIONS)
    assert old == new


@pytest.fixture(scope="session")
def schemas() -> Iterator[None]:
    """Kubernetes' schemas, read once; the library reads a megabyte of JSON for every object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_schemas, "schema_contents", functools.cache(kubernetes_schemas.schema_contents))
        yield


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_object(objects: Objects, version: str) -> None:
    for item in objects:
        if item["kind"] in FOREIGN:
            continue
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{item['kind']} {item['metadata']['name']}: {error}")


def test_names_are_unique_and_in_the_namespace(objects: Objects) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(names) == len(set(names))
    assert {item["metadata"]["namespace"] for item in objects} == {NAMESPACE}


def test_pods_meet_the_restricted_standard(variant: str, objects: Objects) -> None:
    allowed = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret", "image"}
    if variant.endswith("hostPath"):
        allowed.add("hostPath")  # not restricted any more, as values.yaml says
    for name, pod in pods(objects):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        for volume in pod.get("volumes", []):
            assert volume.keys() - {"name"} <= allowed, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert "privileged" not in context, name
            assert all("hostPort" not in port for port in container.get("ports", [])), name


def test_every_container_says_what_it_needs(objects: Objects) -> None:
    for name, pod in pods(objects):
        for container in containers(pod):
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert not container["image"].endswith(("latest", ":")), name


def test_mounts_have_their_volumes_and_weights_are_read_only(objects: Objects) -> None:
    for name, pod in pods(objects):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes, name
                if mount["name"] == "model" and container["name"] != "fetch-model":
                    assert mount["readOnly"] is True, name


def test_tokens_are_mounted_only_where_pods_are_watched(variant: str, objects: Objects) -> None:
    watchers = {"llm", "gateway"} if "dns" not in variant and "single" not in variant else set()
    for component, deployment in of_kind(objects, "Deployment").items():
        token = deployment["spec"]["template"]["spec"]["automountServiceAccountToken"]
        assert token is (component in watchers), component
    roles = of_kind(objects, "Role")
    if not watchers:
        assert not roles
        return
    rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}
    assert roles["discovery"]["rules"] == [rule]
    bound = {subject["name"] for subject in of_kind(objects, "RoleBinding")["discovery"]["subjects"]}
    accounts = {
        deployment["spec"]["template"]["spec"]["serviceAccountName"]
        for component, deployment in of_kind(objects, "Deployment").items()
        if component in watchers
    }
    assert bound == accounts


def test_services_that_are_balanced_by_their_callers_are_headless(objects: Objects) -> None:
    for component, service in of_kind(objects, "Service").items():
        headless = component in ("encode", "llm", "decode")
        assert (service["spec"].get("clusterIP") == "None") is headless
        assert service["spec"].get("publishNotReadyAddresses", False) is False


def test_targets_name_the_services_there_are(objects: Objects) -> None:
    services = {item["metadata"]["name"] for item in of_kind(objects, "Service").values()}
    for name, pod in pods(objects):
        for variable in (variable for container in containers(pod) for variable in container.get("env", [])):
            if variable["name"].endswith("_TARGET"):
                target = discover(variable["value"]).target
                assert target.removeprefix("dns:///").removeprefix("kubernetes:///").split(".")[0] in services, name


def test_probes_name_declared_ports_and_the_start_has_time_to_load(objects: Objects) -> None:
    for component, deployment in servers(objects).items():
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        ports = {port["containerPort"] for port in container["ports"]}
        for probe, service in (
            ("startupProbe", "readiness"),
            ("readinessProbe", "readiness"),
            ("livenessProbe", "liveness"),
        ):
            assert container[probe]["grpc"]["port"] in ports
            assert container[probe]["grpc"]["service"] == service
        start = container["startupProbe"]
        assert start["failureThreshold"] * start["periodSeconds"] >= 300, component


def settings_of(objects: Objects, component: str) -> dict[str, str]:
    return of_kind(objects, "ConfigMap")[component]["data"] or {}


def test_the_grace_covers_the_drain(objects: Objects) -> None:
    for component, deployment in servers(objects).items():
        pod = deployment["spec"]["template"]["spec"]
        settings = settings_of(objects, component)
        sleep = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        notice = float(settings.get("LIGHTTTS_DRAIN_NOTICE_SECONDS", 1))
        grace = float(settings.get("LIGHTTTS_DRAIN_GRACE_SECONDS", 30))
        assert pod["terminationGracePeriodSeconds"] >= sleep + notice + grace + 10, component


def test_pods_with_gpus_are_replaced_in_place(objects: Objects) -> None:
    for component, deployment in of_kind(objects, "Deployment").items():
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        gpus = [name for name in container["resources"].get("limits", {}) if "/" in name]
        strategy = deployment["spec"]["strategy"]
        if gpus and strategy["type"] == "RollingUpdate":
            assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}, component


def test_autoscaled_services_start_with_the_fewest_replicas(objects: Objects) -> None:
    scalers = {**of_kind(objects, "HorizontalPodAutoscaler"), **of_kind(objects, "ScaledObject")}
    for component, scaler in scalers.items():
        fewest = scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount"))
        assert of_kind(objects, "Deployment")[component]["spec"]["replicas"] == fewest


def test_budgets_exist_where_a_pod_can_be_spared(objects: Objects) -> None:
    budgets = of_kind(objects, "PodDisruptionBudget")
    for component, deployment in of_kind(objects, "Deployment").items():
        replicas = deployment["spec"].get("replicas", 2)
        assert (component in budgets) is (replicas > 1), component


def test_every_pod_has_a_network_policy(objects: Objects) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    assert of_kind(objects, "Deployment").keys() <= policies.keys()
    for component, callers in {"encode": {"gateway", "llm"}, "llm": {"gateway"}, "decode": {"llm"}}.items():
        if component not in policies:
            continue
        grpc = policies[component]["spec"]["ingress"][0]
        assert {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in grpc["from"]} == callers


def test_pods_use_accounts_that_exist(objects: Objects) -> None:
    made = {item["metadata"]["name"] for item in objects if item["kind"] == "ServiceAccount"} | {"own"}
    for component, deployment in servers(objects).items():
        assert deployment["spec"]["template"]["spec"]["serviceAccountName"] in made, component


def test_ports_that_are_off_are_nowhere_and_others_everywhere(variant: str, objects: Objects) -> None:
    component = "single" if "single" in variant else "gateway"
    container = of_kind(objects, "Deployment")[component]["spec"]["template"]["spec"]["containers"][0]
    policy = of_kind(objects, "NetworkPolicy")[component]["spec"]["ingress"][0]
    offered = {port["name"] for port in of_kind(objects, "Service")[component]["spec"]["ports"]}
    assert offered == {port["name"] for port in container["ports"]} - {"metrics", "health"}
    assert offered == {port["port"] for port in policy["ports"]}
    assert ("cosyvoice" in offered) is (variant.endswith(("everything", "engines")))


def test_decode_pods_and_the_job_that_builds_for_them_share_engines(variant: str, objects: Objects) -> None:
    if not variant.endswith(("everything", "engines")):
        assert "prepare" not in of_kind(objects, "Job")
        return
    owner = "single" if "single" in variant else "decode"
    found = []
    for item in (of_kind(objects, "Deployment")[owner], of_kind(objects, "Job")["prepare"]):
        pod = item["spec"]["template"]["spec"]
        container = pod["containers"][0]
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "engines"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "engines"]
        cache = next(entry["value"] for entry in container["env"] if entry["name"] == "LIGHTTTS_DECODE_CACHE_DIR")
        assert cache == mount["mountPath"]
        assert "readOnly" not in mount
        found.append((volume, container["image"], container["envFrom"][0]["configMapRef"], container["resources"]))
    assert found[0] == found[1]


def egress_ports(variant: str) -> dict[str, set[int | str]]:
    return {
        name: {port["port"] for rule in policy["spec"].get("egress", []) for port in rule["ports"]}
        for name, policy in of_kind(rendered(VERSIONS[-1], variant), "NetworkPolicy").items()
    }


def test_pods_may_go_where_their_settings_send_them() -> None:
    ports = egress_ports("values.yaml with everything")
    assert ports["gateway"] == {53, "grpc", 443, 6443, 6380, 4317, 8125}
    assert ports["decode"] == {53, 8125}
    assert ports["load"] == {53, "grpc"}
    assert ports["fetch"] == {53, 443, 8125}
    assert egress_ports("values-single-gpu.yaml with engines")["prepare"] == {53, 443, 8125}


@pytest.mark.parametrize(
    ("settings", "port"),
    [
        (['gateway.settings.otel_endpoint="10.0.0.1:4318"'], 4318),
        (['gateway.settings.otel_endpoint="collector:4318"'], 4318),
        (['gateway.settings.redis_url="redis://user:word@[fd00::1]:6380/0?a=b"'], 6380),
        (['gateway.extraEnvVars=[{"name":"LIGHTTTS_REDIS_URL","valueFrom":{"secretKeyRef":{}}}]'], 6379),
        (['gateway.extraEnvVars=[{"name":"LIGHTTTS_REDIS_URL","value":"redis://host:6381"}]'], 6381),
    ],
)
def test_policies_admit_every_form_of_an_address(newest_helm: Helm, settings: list[str], port: int) -> None:
    policy = of_kind(newest_helm.render("values.yaml", *settings), "NetworkPolicy")["gateway"]
    admitted = {each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]}
    assert admitted == {53, "grpc", 443, 6443, port}


def test_large_numbers_keep_their_digits(newest_helm: Helm) -> None:
    objects = newest_helm.render("values.yaml", "decode.settings.voice_cache_bytes=536870912")
    assert settings_of(objects, "decode")["LIGHTTTS_VOICE_CACHE_BYTES"] == "536870912"


def test_selected_weights_of_the_llm_are_fetched(newest_helm: Helm) -> None:
    """The Job downloads them and every pod waits for them."""
    chosen = ('model.name="cosyvoice3"', 'llm.settings.llm_weights="rl"')
    for sets, expected in (((), False), (chosen, True)):
        objects = newest_helm.render("values.yaml", *sets)
        fetching = [c for _, pod in pods(objects) for c in containers(pod) if c["name"] == "fetch-model"]
        assert len(fetching) > 1
        assert all(("--llm" in c["command"]) is expected for c in fetching)
        assert not expected or all(c["command"][4:6] == ["--llm", "rl"] for c in fetching)


def test_a_changed_setting_replaces_the_pods_of_its_service_alone(newest_helm: Helm) -> None:
    def checksums(*settings: str) -> dict[str, str]:
        deployments = of_kind(newest_helm.render("values.yaml", *settings), "Deployment")
        return {
            component: deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for component, deployment in deployments.items()
        }

    before, after = checksums(), checksums("decode.settings.decode_max_streams=8")
    assert {component for component in before if before[component] != after[component]} == {"decode"}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_notes_give_commands_that_fit(newest_helm: Helm, profile: str) -> None:
    notes = newest_helm.notes(profile)
    service = "light-tts-single" if "single" in profile else "light-tts-gateway"
    assert f"port-forward service/{service} 50050 8080" in notes
    assert 'light-tts say "' in notes
    assert "http://127.0.0.1:8080/v1/audio/speech" in notes
    assert ("GPUs:" in notes) is ("cpu" not in profile)


def test_the_values_for_a_laptop_fit_two_cpus(newest_helm: Helm) -> None:
    requests = []
    for deployment in of_kind(newest_helm.render("values-cpu.yaml"), "Deployment").values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        cpu = str(container["resources"]["requests"]["cpu"])
        assert cpu.endswith("m")
        requests += [int(cpu.removesuffix("m"))] * deployment["spec"]["replicas"]
    assert all(100 <= each <= 250 for each in requests)
    assert sum(requests) + max(requests) <= 1000, "the cluster's own pods need the other CPU"


def test_the_api_server_s_ports_are_a_value(newest_helm: Helm) -> None:
    objects = newest_helm.render("values.yaml", "networkPolicy.apiServerPorts=[16443]")
    policies = of_kind(objects, "NetworkPolicy")
    for component in ("gateway", "llm"):
        ports = {port["port"] for rule in policies[component]["spec"]["egress"] for port in rule["ports"]}
        assert 16443 in ports
        assert not ports & {443, 6443}
    objects = newest_helm.render("values.yaml", "networkPolicy.apiServerPorts=[16443]", 'model.mode="emptyDir"')
    rules = of_kind(objects, "NetworkPolicy")["llm"]["spec"]["egress"]
    assert {16443, 443} <= {port["port"] for rule in rules for port in rule["ports"]}, "each pod fetches the model"


@pytest.mark.parametrize(
    ("profile", "single", "claims"),
    [
        ("values.yaml", "gateway, llm", "light-tts-model"),
        ("values-cpu.yaml", "gateway, encode, llm", ""),
        ("values-production.yaml", "", "light-tts-model"),
        ("values-single-gpu.yaml", "single", ""),
    ],
)
def test_the_notes_name_what_is_single_and_what_stays(
    newest_helm: Helm, profile: str, single: str, claims: str
) -> None:
    notes = newest_helm.notes(profile)
    assert (f"Single pods: {single}. " in notes) if single else ("Single pods" not in notes)
    deletion = f"kubectl -n {NAMESPACE} delete persistentvolumeclaim {claims}\n"
    assert (deletion in notes) if claims else ("persistentvolumeclaim" not in notes)


@pytest.mark.parametrize(
    ("settings", "named", "file"),
    [
        (('lexicon.entries={"Nguyen":"win","tomato":{"ipa":"x"}}',), "light-tts-lexicon", "lexicon.json"),
        (('lexicon={"existingConfigMap":"words","key":"mine.json"}',), "words", "mine.json"),
    ],
)
def test_a_lexicon_is_mounted_where_text_is_encoded(
    newest_helm: Helm, settings: tuple[str, ...], named: str, file: str
) -> None:
    for profile, users in (("values.yaml", {"encode"}), ("values-single-gpu.yaml", {"single"})):
        objects = newest_helm.render(profile, *settings)
        made = [item for item in objects if item["kind"] == "ConfigMap" and item["metadata"]["name"] == named]
        assert [json.loads(item["data"][file]) for item in made] == [
            {"Nguyen": "win", "tomato": {"ipa": "x"}}
        ] * named.endswith("-lexicon")
        for name, deployment in servers(objects).items():
            pod = deployment["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            volumes = [volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "lexicon"]
            mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "lexicon"]
            paths = [entry["value"] for entry in container["env"] if entry["name"] == "LIGHTTTS_LEXICON"]
            assert volumes == [named] * (name in users)
            assert paths == [f"/lexicon/{file}"] * (name in users)
            # A file that is mounted by itself would not change with its ConfigMap.
            assert mounts == [{"name": "lexicon", "mountPath": "/lexicon", "readOnly": True}] * (name in users)


def test_a_changed_lexicon_restarts_no_pod(newest_helm: Helm) -> None:
    def encode(word: str) -> dict[str, Any]:
        return servers(newest_helm.render("values.yaml", f'lexicon.entries={{"a":"{word}"}}'))["encode"]

    assert encode("b") == encode("c")
