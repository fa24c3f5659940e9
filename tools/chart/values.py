"""The values of the Helm chart as types, the source of `helm/values.schema.json`.

Names are Bitnami's where Bitnami has one. Every level rejects unknown names, except maps with the user's own keys
(labels, annotations, selectors, resources) and objects of Kubernetes (affinity, volumes ...), which the API server
checks. Each service's `settings` come from its settings class; see `tools.chart.schema`.
"""

# ruff: noqa: RUF012 - pydantic copies defaults
from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tools.chart.workloads import (
    GatewayWorkload,
    Image,
    Object,
    OptionalClaim,
    Pvc,
    Quantity,
    Resources,
    SecretKey,
    Single,
    StringMap,
    Values,
    Workload,
)


class HostPath(Values):
    path: str = ""


class EmptyDir(Values):
    size_limit: Quantity = "10Gi"


class TokenSecret(Values):
    name: str = ""
    """Secret with the token; empty: no token."""
    key: str = "token"


class Fetch(Values):
    """Downloads the model into the cache."""

    enabled: bool = True
    """A Job fills a claim; an init container fills each pod's emptyDir. If false, the claim must have the model."""
    token_secret: TokenSecret = TokenSecret()
    extra_env_vars: list[Object] = []
    resources: Resources = Resources()
    backoff_limit: int = Field(6, ge=0)


class Model(Values):
    name: str = "cosyvoice2"
    """Checkpoint that `light-tts fetch` downloads (cosyvoice2, cosyvoice3); also the directory's name in the cache."""
    mode: Literal["embedded", "pvc", "hostPath", "emptyDir", "image"] = "pvc"
    """Source of the model; embedded is the demonstration voice inside the images."""
    mount_path: str = "/models"
    pvc: Pvc = Pvc()
    host_path: HostPath = HostPath()
    empty_dir: EmptyDir = EmptyDir()
    image: Image = Image()
    """An OCI image with the directory at its root (image volumes, Kubernetes 1.33 or newer)."""
    fetch: Fetch = Fetch()


class Prepare(Values):
    """A Job that exports decode's graph and builds its engine into the claim, with decode's settings."""

    enabled: bool = False
    backoff_limit: int = Field(2, ge=0)


class EngineCache(Values):
    """Writable volumes for compiled files."""

    size_limit: Quantity = "10Gi"
    """Limit of each pod's own volume, for kernels."""
    pvc: OptionalClaim = OptionalClaim()
    """Shared by all decode pods, for exported graphs and built engines; without it each pod makes its own."""
    prepare: Prepare = Prepare()


class NetworkPolicy(Values):
    enabled: bool = True
    gateway_from: list[Object] = []
    """Peers that may connect to the gateway; empty: all."""
    metrics_from: list[Object] = []
    """Peers that may scrape metrics; empty: every pod of the cluster."""
    api_server_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field([443, 6443], min_length=1)
    """Ports of the API server, which the gateway and llm pods watch. minikube has 8443, MicroK8s 16443."""
    extra_egress: list[Object] = []
    """Additional egress rules. Each other, DNS, the API server and the addresses in settings are allowed already."""


class PodMonitor(Values):
    """Lets the Prometheus operator scrape every pod."""

    enabled: bool = False
    interval: str = "15s"
    labels: StringMap = {}


class PrometheusRule(Values):
    """The alerts; docs/operations.md has the action for each."""

    enabled: bool = False
    labels: StringMap = {}


class Dashboards(Values):
    """ConfigMaps with the labels by which Grafana's sidecar finds dashboards."""

    enabled: bool = True
    labels: StringMap = {}
    annotations: StringMap = {}


class Metrics(Values):
    enabled: bool = True
    port: int = Field(9090, ge=1, le=65535)
    pod_monitor: PodMonitor = PodMonitor()
    prometheus_rule: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()


class PodSecurityContext(Values):
    run_as_user: int = Field(10001, ge=1)
    run_as_group: int = Field(10001, ge=1)
    fs_group: int = Field(10001, ge=1)
    supplemental_groups: list[int] = []
    """For hosts on which a group may use the GPUs."""


class IssuerRef(Values):
    name: str = ""
    kind: str = "Issuer"
    group: str = "cert-manager.io"


class CertManager(Values):
    """Requests the Secret from cert-manager by a Certificate."""

    enabled: bool = False
    issuer_ref: IssuerRef = IssuerRef()
    duration: str = "8760h"
    renew_before: str = "4380h"
    """Time before the end at which cert-manager renews. Services use renewed files without a restart."""


class Tls(Values):
    """Mutual TLS between the services; it does not change the gateway's ports for clients."""

    enabled: bool = False
    existing_secret: str = ""
    """Secret with tls.crt, tls.key and ca.crt; the certificate must have serverName."""
    server_name: str = "light-tts.internal"
    cert_manager: CertManager = CertManager()
    health_port: int = Field(50099, ge=1, le=65535)
    """Plaintext port for health checks only: the kubelet has no certificate."""


class Global(Values):
    image_registry: str = ""
    image_pull_secrets: list[str] = []


class Tests(Values):
    sentence: str = "Hello, this is the tiny voice speaking."
    api_key: SecretKey = SecretKey()
    """Secret with an API key, if the gateway requires one."""


class LoadGenerator(Values):
    """A pod that requests speech at random times, so that dashboards have data from the first minute."""

    enabled: bool = False
    rate: float = Field(0.1, gt=0)
    """Utterances per second, at random times."""
    text: str = "Good morning, Alice, welcome to London."
    voice: str = ""
    """Empty: the gateway's default."""
    api_key: SecretKey = SecretKey()
    """Secret with an API key, if the gateway requires one."""


class ChartValues(Values):
    global_: Global = Field(Global(), alias="global")
    name_override: str = ""
    fullname_override: str = ""
    common_labels: StringMap = {}
    common_annotations: StringMap = {}
    check_secrets: bool = True
    """Refuse to install if a named Secret or its key is not in the namespace; `helm template` does not check."""
    profile: Literal["gpu", "cpu"] = "gpu"
    """cpu rejects GPU counts, so that no pod requests a GPU."""
    discovery: Literal["kubernetes", "dns"] = "kubernetes"
    """Discovery of the services' pods: by EndpointSlices (needs RBAC) or by DNS."""
    cluster_domain: str = "cluster.local"
    listen_address: str = "0.0.0.0"  # noqa: S104 - inside a pod
    """Address that servers listen on; [::] in IPv6 clusters."""
    model: Model = Model()
    engine_cache: EngineCache = EngineCache()
    encode: Workload = Workload()
    llm: Workload = Workload()
    decode: Workload = Workload()
    gateway: GatewayWorkload = GatewayWorkload()
    single: Single = Single()
    metrics: Metrics = Metrics()
    network_policy: NetworkPolicy = NetworkPolicy()
    pod_security_context: PodSecurityContext = PodSecurityContext()
    tls: Tls = Tls()
    tests: Tests = Tests()
    load_generator: LoadGenerator = LoadGenerator()
