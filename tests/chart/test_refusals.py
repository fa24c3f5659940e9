"""Values that cannot work are refused before anything is installed, with the path or a sentence that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.helm import Helm, HelmError
from tests.support.kube_lookup import lookup_api, secrets

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("decod.replicaCount=2", "decod"),
        ("decode.replicas=2", "replicas"),
        ("decode.settings.max_stream=2", "max_stream"),
        ('decode.settings.host="0.0.0.0"', "host"),
        ("gateway.settings.device=1", "device"),
        ("llm.image.tags=1", "tags"),
        ("encode.startupProbe.failureTreshold=3", "failureTreshold"),
        ("decode.gpu.counts=1", "counts"),
        ('decode.tolerations=[{"keys":"a"}]', "keys"),
        ("model.pvc.sise=1", "sise"),  # codespell:ignore
        ("networkPolicy.enable=true", "enable"),
        ("loadGenerator.rates=1", "rates"),
        ("engineCache.pvc.claim=1", "claim"),
        ("gateway.settings.cosyvoice_port=1", "cosyvoice_port"),
        ("single.decode=1", "decode"),
        ('gateway.extraEnvVars=[{"name":"A","valuefrom":{}}]', "valuefrom"),
    ],
)
def test_a_mistyped_name_is_refused_with_its_path(each_helm: Helm, setting: str, path: str) -> None:
    with pytest.raises(HelmError, match=rf"[Aa]dditional propert.*{path}"):  # codespell:ignore
        each_helm.render("values.yaml", setting)


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ('decode.replicaCount="three"', "decode.replicaCount"),
        ("decode.gpu.count=-1", "decode.gpu.count"),
        ("decode.settings.decode_max_streams=-1", "decode.settings.decode_max_streams"),
        ('llm.settings.log_level="loud"', "llm.settings.log_level"),
        ('model.mode="s3"', "model.mode"),
        ('encode.image.digest="sha256:12"', "encode.image.digest"),
        ("metrics.port=99999", "metrics.port"),
        ('decode.extraEnvVars=[{"name":"A","value":1}]', "decode.extraEnvVars.0.value"),
        ('model.fetch.extraEnvVars=[{"name":"A","value":true}]', "model.fetch.extraEnvVars.0.value"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(each_helm: Helm, setting: str, path: str) -> None:
    with pytest.raises(HelmError) as refused:
        each_helm.render("values.yaml", setting)
    assert path in str(refused.value).replace("/", ".")


@pytest.mark.parametrize(
    ("profile", "settings", "sentence"),
    [
        (
            "values.yaml",
            ['lexicon={"entries":{"a":"b"},"existingConfigMap":"words"}'],
            "lexicon has both entries and existingConfigMap",
        ),
        (
            "values.yaml",
            ['lexicon.entries={"a":"b"}', 'encode.settings.lexicon="/x.json"'],
            "lexicon and encode.settings.lexicon both name a file",
        ),
        ("values.yaml", ["llm.replicaCount=0"], "llm.replicaCount is 0"),
        ("values.yaml", ["decode.replicaCount=0"], "decode.replicaCount is 0"),
        ("values-cpu.yaml", ["decode.gpu.count=1"], "decode.gpu.count is 1, but profile is cpu"),
        ("values.yaml", ["encode.gpu.count=1"], "set encode.image.variant to cuda, or encode.gpu.count to 0"),
        ("values-single-gpu.yaml", ['gateway.apiKeys.existingSecret="keys"'], "gateway.apiKeys.existingSecret is set"),
        ("values-single-gpu.yaml", ['gateway.tls={"existingSecret":"a","serverName":"b"}'], "single runs no gateway"),
        ("values-single-gpu.yaml", ["gateway.voices.enabled=true"], "gateway.voices.enabled is set, but single"),
        ("values-single-gpu.yaml", ['gateway.ingress={"enabled":true,"hostname":"a"}'], "gateway.ingress.enabled is"),
        (
            "values.yaml",
            ["decode.autoscaling.hpa.enabled=true", "decode.autoscaling.keda.enabled=true"],
            "both hpa and keda",
        ),
        ("values.yaml", ["decode.autoscaling.keda.enabled=true"], "decode.autoscaling.keda.serverAddress"),
        (
            "values.yaml",
            ["decode.autoscaling.hpa.enabled=true", "decode.autoscaling.hpa.minReplicas=9"],
            "minReplicas is above maxReplicas",
        ),
        (
            "values.yaml",
            ["encode.autoscaling.hpa.enabled=true", "encode.autoscaling.targets.cpuPercent=0"],
            "encode.autoscaling has no target",
        ),
        ("values.yaml", ['model.mode="hostPath"'], "model.hostPath.path"),
        ("values.yaml", ['model.mode="image"'], "model.image.repository"),
        ("values.yaml", ['model.mode="emptyDir"', "model.fetch.enabled=false"], "model.fetch.enabled to true"),
        ("values.yaml", ['model.name="mine"'], "model.name is mine, which cannot be fetched"),
        ("values.yaml", ["tls.enabled=true"], "name a Secret in tls.existingSecret"),
        ("values.yaml", ["tls.enabled=true", "tls.certManager.enabled=true"], "tls.certManager.issuerRef.name"),
        ("values-production.yaml", ["tls.certManager.enabled=true"], "choose one"),
        ("values-single-gpu.yaml", ["tls.enabled=true"], "tls is between pods"),
        ("values.yaml", ["encode.replicaCount=0"], "encode.replicaCount is 0"),
        (
            "values.yaml",
            ['llm.serviceAccount.name="one"', 'gateway.serviceAccount.name="one"'],
            "llm.serviceAccount and gateway.serviceAccount both create one",
        ),
        ("values.yaml", ["gateway.replicaCount=0"], "gateway.replicaCount is 0"),
        ("values.yaml", ["engineCache.prepare.enabled=true"], "engineCache.pvc.enabled to true"),
        (
            "values.yaml",
            ["engineCache.prepare.enabled=true", "engineCache.pvc.enabled=true"],
            "decode.settings.decode_backend to onnx or tensorrt",
        ),
        ("values.yaml", ['gateway.tls.existingSecret="public"'], "gateway.tls.serverName"),
        ("values.yaml", ["gateway.ingress.enabled=true"], "gateway.ingress.hostname"),
        ("values.yaml", ["gateway.grpcRoute.enabled=true"], "gateway.grpcRoute.parentRefs"),
        ("values.yaml", ["gateway.envoyGateway.enabled=true"], "gateway.envoyGateway is enabled without a route"),
    ],
)
def test_a_combination_that_cannot_work_is_refused_with_a_sentence(
    each_helm: Helm, profile: str, settings: list[str], sentence: str
) -> None:
    with pytest.raises(HelmError, match=sentence):
        each_helm.render(profile, *settings)


NAMED = ("tls.enabled=true", 'tls.existingSecret="pair"', 'gateway.apiKeys.existingSecret="keys"')
PAIR, KEYS = ("tls.crt", "tls.key", "ca.crt"), ("keys.yaml",)


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        ({"pair": PAIR}, "gateway.apiKeys.existingSecret names the Secret keys, which the namespace speech does not"),
        ({"keys": KEYS}, "tls.existingSecret names the Secret pair, which the namespace speech does not have"),
        ({"keys": KEYS, "pair": PAIR[:2]}, "the Secret pair, which has no key ca.crt: it has tls.crt, tls.key."),
        ({"keys": (), "pair": PAIR}, "the Secret keys, which has no key keys.yaml: it has none."),
        ({"keys": KEYS, "pair": PAIR}, None),
    ],
    ids=["no keys", "no pair", "no authority", "no file of keys", "all there"],
)
def test_a_secret_that_is_not_there_is_refused_with_its_path(
    each_helm: Helm, tmp_path: Path, there: dict[str, tuple[str, ...]], sentence: str | None
) -> None:
    with lookup_api(secrets(there), tmp_path) as kubeconfig:
        said = each_helm.ask_cluster(kubeconfig, "values-cpu.yaml", *NAMED)
        unchecked = each_helm.ask_cluster(kubeconfig, "values-cpu.yaml", *NAMED, "checkSecrets=false")
    assert "names the Secret" not in unchecked
    if sentence is None:
        assert "names the Secret" not in said
    else:
        assert sentence in said


@pytest.mark.parametrize("key", [".dockerconfigjson", ".dockercfg"])
def test_a_pull_secret_of_either_type_is_there(each_helm: Helm, tmp_path: Path, key: str) -> None:
    with lookup_api(secrets({"pull": (key,), "empty": ()}), tmp_path) as kubeconfig:
        said = each_helm.ask_cluster(kubeconfig, "values-cpu.yaml", 'global.imagePullSecrets=["pull"]')
        refused = each_helm.ask_cluster(kubeconfig, "values-cpu.yaml", 'global.imagePullSecrets=[{"name":"empty"}]')
    assert "names the Secret" not in said
    assert "the Secret empty, which has no key .dockerconfigjson or .dockercfg: it has none." in refused
