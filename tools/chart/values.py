"""The values of the Helm chart as types, the source of `helm/values.schema.json`.

Names are Bitnami's where Bitnami has one. Every level rejects unknown names, except `global`, which Helm hands to all
charts of an umbrella chart, maps with the user's own keys (labels, annotations, selectors, resources) and objects of
Kubernetes (affinity, volumes ...), which the API server checks. Each service's `settings` come from its settings class;
see `tools.chart.schema`.
"""

# ruff: noqa: RUF012 - pydantic copies defaults
from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tools.chart.workloads import (
    EnvVar,
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
    """A directory on the nodes."""

    path: str = ""
    """The directory; it must exist, and the namespace must admit hostPath volumes (the restricted and baseline
    policies do not)."""


class EmptyDir(Values):
    """A volume of each pod."""

    size_limit: Quantity = "10Gi"
    """Limit of the volume."""


class TokenSecret(Values):
    """Token of a private model hub."""

    name: str = ""
    """Secret with the token; empty: no token."""
    key: str = "token"
    """Key in the Secret."""


class Fetch(Values):
    """Downloads the model into the cache."""

    enabled: bool = True
    """A Job fills a claim; an init container fills each pod's emptyDir. If false, the claim must have the model."""
    token_secret: TokenSecret = TokenSecret()
    extra_env_vars: list[EnvVar] = []
    """Additional environment variables, such as HF_ENDPOINT."""
    resources: Resources = Resources()
    """Requests and limits of the download."""
    backoff_limit: int = Field(6, ge=0)
    """Retries of the Job."""


class Model(Values):
    """The model, and where pods find it."""

    name: str = "cosyvoice2"
    """Checkpoint that `light-tts fetch` downloads (cosyvoice2, cosyvoice3); also the name of the model's directory.
    Without fetch: the name of any directory."""
    mode: Literal["embedded", "pvc", "hostPath", "emptyDir", "image"] = "pvc"
    """Where pods find the model: pvc (a Job downloads it once), emptyDir (each pod downloads it), hostPath, image, or
    embedded (the demonstration voice in the images)."""
    mount_path: str = "/models"
    """Where pods mount it."""
    pvc: Pvc = Pvc(size="20Gi")
    """The claim of mode pvc, which a Job fills."""
    host_path: HostPath = HostPath()
    """For mode hostPath."""
    empty_dir: EmptyDir = EmptyDir()
    """For mode emptyDir, which each pod fills by itself."""
    image: Image = Image()
    """An OCI image with the directory at its root (image volumes, Kubernetes 1.33 or newer)."""
    fetch: Fetch = Fetch()


class Lexicon(Values):
    """Pronunciations that every request gets; a changed ConfigMap takes effect in running pods within two minutes."""

    entries: Object = {}
    """Phrases and their pronunciations: a respelling, or an object with ipa, arpabet or pinyin. The chart makes a
    ConfigMap of them."""
    existing_config_map: str = ""
    """ConfigMap with the file, in place of entries. It holds at most 1 MiB."""
    key: str = "lexicon.json"
    """Key in the ConfigMap."""


class Prepare(Values):
    """A Job that exports decode's graph and builds its engine into the claim, with decode's settings."""

    enabled: bool = False
    """Build engines ahead, so that pods start in seconds. On GPUs it uses one for minutes."""
    backoff_limit: int = Field(2, ge=0)
    """Retries of the Job."""


class EngineCache(Values):
    """Writable volumes for compiled files."""

    size_limit: Quantity = "10Gi"
    """Limit of each pod's own volume, for kernels."""
    pvc: OptionalClaim = OptionalClaim()
    """Shared by all decode pods, for exported graphs and built engines; without it each pod makes its own."""
    prepare: Prepare = Prepare()


class NetworkPolicy(Values):
    """One NetworkPolicy per service: its callers and its targets."""

    enabled: bool = True
    """Create the policies."""
    gateway_from: list[Object] = []
    """Peers that may connect to the gateway; empty: all."""
    metrics_from: list[Object] = []
    """Peers that may scrape metrics; empty: every pod of the cluster. The single pod has its metrics on its HTTP port,
    which is closed by gatewayFrom to all but its peers and those named here."""
    api_server_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field([443, 6443], min_length=1)
    """Ports of the API server, which the gateway and llm pods watch. minikube has 8443, MicroK8s 16443."""
    extra_egress: list[Object] = []
    """Additional egress rules, also of the download. Each other, DNS, the API server, port 443 for the download, and
    the addresses in settings are allowed already."""


class PodMonitor(Values):
    """Lets the Prometheus operator scrape every pod."""

    enabled: bool = False
    """Create the PodMonitor."""
    interval: str = "15s"
    """Time between two scrapes."""
    labels: StringMap = {}
    """Labels that the operator's Prometheus selects."""


class PrometheusRule(Values):
    """The alerts; docs/operations.md has the action for each."""

    enabled: bool = False
    """Create the PrometheusRule."""
    labels: StringMap = {}
    """Labels that the operator's Prometheus selects."""


class Dashboards(Values):
    """ConfigMaps with the labels by which Grafana's sidecar finds dashboards."""

    enabled: bool = True
    """Create the ConfigMaps."""
    labels: StringMap = {}
    """Labels that the sidecar selects."""
    annotations: StringMap = {}
    """Annotations of the ConfigMaps, for a folder in Grafana."""


class Metrics(Values):
    """Metrics, alerts and dashboards."""

    enabled: bool = True
    """Serve metrics on every pod's port named metrics."""
    port: int = Field(9090, ge=1, le=65535)
    """The port."""
    pod_monitor: PodMonitor = PodMonitor()
    prometheus_rule: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()


class PodSecurityContext(Values):
    """User and groups of all pods, which meet the restricted pod security standard."""

    run_as_user: int = Field(10001, ge=1)
    """User."""
    run_as_group: int = Field(10001, ge=1)
    """Group."""
    fs_group: int = Field(10001, ge=1)
    """Group of the volumes."""
    supplemental_groups: list[int] = []
    """For hosts on which a group may use the GPUs."""


class IssuerRef(Values):
    """cert-manager's issuer."""

    name: str = ""
    """Name of the issuer, required."""
    kind: str = "Issuer"
    """Issuer or ClusterIssuer."""
    group: str = "cert-manager.io"
    """API group of the issuer."""


class CertManager(Values):
    """Requests the Secret from cert-manager by a Certificate."""

    enabled: bool = False
    """Create the Certificate."""
    issuer_ref: IssuerRef = IssuerRef()
    duration: str = "8760h"
    """Lifetime of the certificate."""
    renew_before: str = "4380h"
    """Time before the end at which cert-manager renews. Services use renewed files without a restart."""


class Tls(Values):
    """Mutual TLS between the services; it does not change the gateway's ports for clients."""

    enabled: bool = False
    """Services accept and make only connections with certificates."""
    existing_secret: str = ""
    """Secret with tls.crt, tls.key and ca.crt; the certificate must have serverName."""
    server_name: str = "light-tts.internal"
    """A name in the certificate; pods are dialled by address."""
    cert_manager: CertManager = CertManager()
    health_port: int = Field(50099, ge=1, le=65535)
    """Plaintext port for health checks only: the kubelet has no certificate."""


class NamedSecret(Values):
    name: str


class Global(Values):
    """Values that are shared with other charts. Names that this chart does not use are ignored."""

    model_config = ConfigDict(extra="allow")

    image_registry: str = ""
    """Replaces the registry of all images."""
    image_pull_secrets: list[str | NamedSecret] = []
    """Names of the Secrets with which nodes pull images, as texts or as objects {name: ...}."""


class Tests(Values):
    """The test of `helm test`, which speaks a sentence and checks it."""

    sentence: str = "Hello, this is the tiny voice speaking."
    """The sentence."""
    api_key: SecretKey = SecretKey(key="key")
    """Secret with an API key, if the gateway requires one."""


class LoadGenerator(Values):
    """A pod that requests speech at random times, so that dashboards have data from the first minute."""

    enabled: bool = False
    """Run the pod."""
    rate: float = Field(0.1, gt=0)
    """Utterances per second, at random times."""
    text: str = "Good morning, Alice, welcome to London."
    """The text of each utterance."""
    voice: str = ""
    """Empty: the gateway's default."""
    api_key: SecretKey = SecretKey(key="key")
    """Secret with an API key, if the gateway requires one."""


class ChartValues(Values):
    enabled: Literal[True] = True
    """For the condition `light-tts.enabled` of a parent chart; this chart alone cannot be disabled."""
    global_: Global = Field(Global(), alias="global")
    name_override: str = ""
    """Replaces the chart's name in labels and names; it cannot change later."""
    fullname_override: str = ""
    """Replaces the prefix of all names."""
    common_labels: StringMap = {}
    """Additional labels of all objects."""
    common_annotations: StringMap = {}
    """Additional annotations of all objects."""
    check_secrets: bool = True
    """Refuse to install if a named Secret or its key is not in the namespace; `helm template` does not check."""
    profile: Literal["gpu", "cpu"] = "gpu"
    """gpu or cpu; cpu rejects GPU counts, so that no pod requests a GPU."""
    discovery: Literal["kubernetes", "dns"] = "kubernetes"
    """How services find each other's pods: kubernetes watches EndpointSlices and needs a Role; dns needs no Role, and
    updates at the pace of the records' TTL."""
    cluster_domain: str = "cluster.local"
    """Domain of the cluster's DNS names, for discovery by DNS."""
    listen_address: str = "0.0.0.0"  # noqa: S104 - inside a pod
    """Address that servers listen on; [::] in IPv6 clusters."""
    model: Model = Model()
    engine_cache: EngineCache = EngineCache()
    lexicon: Lexicon = Lexicon()
    encode: Workload = Workload()
    """Text to token ids, prompts to voices. Every text passes one of its pods, and it needs no GPU."""
    llm: Workload = Workload()
    """Token ids to speech tokens: the language model."""
    decode: Workload = Workload()
    """Speech tokens to audio: flow and vocoder, the stage to size first."""
    gateway: GatewayWorkload = GatewayWorkload()
    """The APIs for applications, over gRPC and HTTP."""
    single: Single = Single()
    metrics: Metrics = Metrics()
    network_policy: NetworkPolicy = NetworkPolicy()
    pod_security_context: PodSecurityContext = PodSecurityContext()
    tls: Tls = Tls()
    tests: Tests = Tests()
    load_generator: LoadGenerator = LoadGenerator()
