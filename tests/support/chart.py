"""Ways to install the chart, and the objects that helm renders; each is rendered once."""

from __future__ import annotations

import functools
import re
from typing import Any

import yaml

from tests.support.helm import CHART, NAMESPACE, PROFILES, helm

VARIANTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PROFILES, ()),
    "values.yaml by dns": ('discovery="dns"',),
    "values.yaml on hostPath": (
        'model.mode="hostPath"',
        'model.hostPath.path="/srv/models"',
    ),
    "values.yaml on emptyDir": ('model.mode="emptyDir"',),
    "values.yaml on a claim of mine": ('model.pvc.existingClaim="mine"', "model.fetch.enabled=false"),
    "values.yaml on an image": ('model.mode="image"', 'model.image.repository="models/cosyvoice2"'),
    "values-single-gpu.yaml with engines": (
        'engineCache={"pvc":{"enabled":true,"existingClaim":"mine"},"prepare":{"enabled":true}}',
        'single.settings.decode_backend="tensorrt"',
        'networkPolicy.extraEgress=[{"ports":[{"port":8125}]}]',
        "single.containerPorts.cosyvoice=50000",
        "loadGenerator.enabled=true",
    ),
    "values.yaml with cert-manager": (
        "tls.enabled=true",
        'tls.certManager={"enabled":true,"issuerRef":{"name":"ca","kind":"ClusterIssuer"}}',
    ),
    "values.yaml with everything": (
        'global={"imageRegistry":"registry.example","imagePullSecrets":["pull"]}',
        'commonLabels={"team":"speech"}',
        'commonAnnotations={"contact":"speech"}',
        'model.fetch.tokenSecret.name="hub"',
        'networkPolicy={"gatewayFrom":[{"namespaceSelector":{}}],"metricsFrom":[{"namespaceSelector":{}}],'
        '"extraEgress":[{"ports":[{"port":8125}]}]}',
        'gateway.settings={"redis_url":"rediss://:word@redis.example:6380/0","otel_endpoint":"http://collector"}',
        "podSecurityContext.supplementalGroups=[44]",
        'gateway.ingress={"enabled":true,"hostname":"tts.example","ingressClassName":"nginx","tlsSecret":"tts-cert"}',
        'gateway.httpRoute={"enabled":true,"parentRefs":[{"name":"web"}],"hostnames":["tts.example"]}',
        'gateway.grpcRoute={"enabled":true,"parentRefs":[{"name":"web"}],"hostnames":["tts.example"]}',
        "gateway.envoyGateway.enabled=true",
        'gateway.service={"type":"LoadBalancer","loadBalancerSourceRanges":["10.0.0.0/8"],"annotations":{"lb":"internal"}}',
        'decode.autoscaling.keda={"enabled":true,"minReplicas":2,"serverAddress":"http://prometheus:9090"}',
        'decode.gpu={"resource":"nvidia.com/mig-1g.10gb","count":1}',
        'decode.tolerations=[{"key":"nvidia.com/gpu","operator":"Exists","effect":"NoSchedule"}]',
        'decode.affinity={"nodeAffinity":{}}',
        'decode.nodeSelector={"gpu":"yes"}',
        'decode.runtimeClassName="nvidia"',
        'decode.priorityClassName="speech"',
        'decode.podLabels={"tier":"gpu"}',
        'decode.podAnnotations={"note":"x"}',
        'decode.extraEnvVars=[{"name":"NCCL_DEBUG","value":"WARN"}]',
        'decode.extraEnvVarsSecret="more"',
        'decode.extraVolumes=[{"name":"more","emptyDir":{}}]',
        'decode.extraVolumeMounts=[{"name":"more","mountPath":"/more"}]',
        'decode.settings={"voice_cache_bytes":536870912,"drain_grace_seconds":42.5,"decode_backend":"tensorrt"}',
        'gateway.apiKeys.existingSecret="api-keys"',
        'gateway.tls={"existingSecret":"public","serverName":"tts.example"}',
        "gateway.containerPorts.cosyvoice=50000",
        "gateway.voices.enabled=true",
        'engineCache={"pvc":{"enabled":true,"storageClass":"fast"},"prepare":{"enabled":true}}',
        'loadGenerator={"enabled":true,"voice":"anna","apiKey":{"existingSecret":"test-key"}}',
        'tests.apiKey.existingSecret="test-key"',
        "encode.gpu.count=1",
        'encode.image.variant="cuda"',
        'lexicon.entries={"Nguyen":"win"}',
        'encode.serviceAccount={"create":false,"name":"own"}',
        'llm.serviceAccount={"name":"speech","annotations":{"role":"reader"}}',
        'llm.resources={"requests":{"cpu":"8","memory":"32Gi"},"limits":{"amd.com/gpu":1}}',
        'llm.updateStrategy={"type":"Recreate"}',
        "llm.terminationGracePeriodSeconds=300",
        'llm.topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]',
    ),
}
"""Ways to install: a values file, then settings; together they reach every branch of the templates."""


def scaling_metrics() -> dict[str, set[str]]:
    """Return the metrics by which each service is scaled, from values.yaml."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    services = ("encode", "llm", "decode", "gateway")
    return {name: set(values[name]["autoscaling"]["targets"].get("metrics", {})) for name in services}


def adapter_query(metric: str) -> str:
    """Return prometheus-adapter's query for a metric of every pod, by the chart's rules."""
    rules = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    for rule in rules:
        named = rule["name"]["as"] if "name" in rule else re.findall(r'__name__=~"([^"]+)"', rule["seriesQuery"])[0]
        if re.fullmatch(named, metric):
            query = str(rule["metricsQuery"]).replace("<<.Series>>", metric)
            return query.replace("<<.LabelMatchers>>", f'namespace="{NAMESPACE}"').replace("<<.GroupBy>>", "pod")
    raise LookupError(f"no rule of files/prometheus-adapter.yaml offers {metric}")


@functools.cache
def rendered(version: str, variant: str) -> list[dict[str, Any]]:
    return helm(version).render(variant.split()[0], *VARIANTS[variant])
