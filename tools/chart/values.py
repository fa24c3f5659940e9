"""The values of the Helm chart, as types: what `helm/values.schema.json` is made from.

Names are Bitnami's where Bitnami has one. Every level refuses unknown names, but two kinds of maps: those whose keys
are the user's own (labels, annotations, selectors, resources), and Kubernetes' own objects (affinity, volumes ...),
which the API server checks. Each service's `settings` come from its settings class; see `tools.chart.schema`.
"""

# ruff: noqa: RUF012 - pydantic copies defaults
from __future__ import annotations

from typing import Literal

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
    """Secret that holds the token; empty fetches without one."""
    key: str = "token"


class Fetch(Values):
    """How the model gets into the cache."""

    enabled: bool = True
    """A Job fills a claim, an init container each pod's emptyDir. Without it a claim is taken as filled."""
    token_secret: TokenSecret = TokenSecret()
    extra_env_vars: list[Object] = []
    resources: Resources = Resources()
    backoff_limit: int = Field(6, ge=0)


class Model(Values):
    name: str = "cosyvoice2"
    """What `light-tts fetch` fetches (cosyvoice2, cosyvoice3), and the directory's name in the cache."""
    mode: Literal["embedded", "pvc", "hostPath", "emptyDir", "image"] = "pvc"
    """Where pods find it; embedded is the demonstration voice inside the images."""
    mount_path: str = "/models"
    pvc: Pvc = Pvc()
    host_path: HostPath = HostPath()
    empty_dir: EmptyDir = EmptyDir()
    image: Image = Image()
    """An OCI image that holds the directory at its root (image volumes, Kubernetes 1.33 or newer)."""
    fetch: Fetch = Fetch()


class Prepare(Values):
    """A Job that exports the decode stage's graph and builds its engine into the claim, with decode's own settings."""

    enabled: bool = False
    backoff_limit: int = Field(2, ge=0)


class EngineCache(Values):
    """Writable places for what is compiled."""

    size_limit: Quantity = "10Gi"
    """Of each pod's own place, for kernels."""
    pvc: OptionalClaim = OptionalClaim()
    """Of all decode pods together, for exported graphs and built engines; without it each pod makes its own."""
    prepare: Prepare = Prepare()


class NetworkPolicy(Values):
    enabled: bool = True
    gateway_from: list[Object] = []
    """Who may speak to the gateway; empty lets everyone."""
    metrics_from: list[Object] = []
    """Who may scrape metrics; empty lets every pod of the cluster."""
    extra_egress: list[Object] = []
    """Further rules of where pods may go, beside each other, DNS, the API server, and what settings name."""


class PodMonitor(Values):
    """Has the Prometheus operator scrape every pod."""

    enabled: bool = False
    interval: str = "15s"
    labels: StringMap = {}


class PrometheusRule(Values):
    """The alerts; docs/operations.md says what to do about each."""

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
    """For hosts that give GPUs to a group."""


class IssuerRef(Values):
    name: str = ""
    kind: str = "Issuer"
    group: str = "cert-manager.io"


class CertManager(Values):
    """A Certificate of cert-manager makes the Secret."""

    enabled: bool = False
    issuer_ref: IssuerRef = IssuerRef()
    duration: str = "8760h"
    renew_before: str = "4380h"
    """Early: clients take a renewed certificate for the workers they dial from then on, so that pods that were started
    before must be replaced within this time."""


class Tls(Values):
    """Mutual TLS between the services; the gateway's own ports stay as they are."""

    enabled: bool = False
    existing_secret: str = ""
    """Secret with tls.crt, tls.key and ca.crt, of a certificate that bears serverName."""
    server_name: str = "light-tts.internal"
    cert_manager: CertManager = CertManager()
    health_port: int = Field(50099, ge=1, le=65535)
    """Plaintext port of health checks alone: the kubelet has no certificate."""


class Global(Values):
    image_registry: str = ""
    image_pull_secrets: list[str] = []


class Tests(Values):
    sentence: str = "Hello, this is the tiny voice speaking."
    api_key: SecretKey = SecretKey()
    """Secret that holds an API key, where the gateway wants one."""


class LoadGenerator(Values):
    """A pod that asks the gateway for speech now and then, so that dashboards show something from the first minute."""

    enabled: bool = False
    rate: float = Field(0.1, gt=0)
    """Utterances per second, at random times."""
    text: str = "Good morning, Alice, welcome to London."
    voice: str = ""
    """Empty takes the gateway's default."""
    api_key: SecretKey = SecretKey()
    """Secret that holds an API key, where the gateway wants one."""


class ChartValues(Values):
    global_: Global = Field(Global(), alias="global")
    name_override: str = ""
    fullname_override: str = ""
    common_labels: StringMap = {}
    common_annotations: StringMap = {}
    check_secrets: bool = True
    """Refuses to install while a named Secret, or a key of it, is not in the namespace; `helm template` never asks."""
    profile: Literal["gpu", "cpu"] = "gpu"
    """cpu refuses GPU counts: no node is asked for what it does not have."""
    discovery: Literal["kubernetes", "dns"] = "kubernetes"
    """How services find each other's pods: by EndpointSlices (needs RBAC) or by DNS."""
    cluster_domain: str = "cluster.local"
    listen_address: str = "0.0.0.0"  # noqa: S104 - inside a pod
    """Address servers listen on; [::] in clusters of IPv6."""
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
