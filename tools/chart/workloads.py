"""The values of the Helm chart that a service's pods have, as types; `tools.chart.values` has the others."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

StringMap = dict[str, str]
Object = dict[str, Any]
"""An object of Kubernetes' own."""
Quantity = str | int | float
"""As Kubernetes writes amounts: 2, 500m, 8Gi."""


class Values(BaseModel):
    """Base of all: camel case outside, unknown names refused, texts from the docstrings."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, use_attribute_docstrings=True)


class Image(Values):
    registry: str = ""
    """Registry; global.imageRegistry wins over it."""
    repository: str = ""
    tag: str = ""
    """Taken as it is; empty makes the chart's appVersion, with the variant appended."""
    variant: Literal["", "cpu", "cuda"] = ""
    """Build of the image: the suffix of the default tag."""
    digest: str = Field("", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """sha256:...; wins over the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"


class Gpu(Values):
    resource: str = "nvidia.com/gpu"
    """Name of the extended resource: nvidia.com/gpu, nvidia.com/mig-1g.10gb, nvidia.com/gpu.shared ..."""
    count: int = Field(0, ge=0)
    """How many each pod gets; 0 runs on the CPU."""


class Resources(Values):
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    claims: list[Object] = []


class Toleration(Values):
    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int = 0


class Affinity(Values):
    node_affinity: Object = {}
    pod_affinity: Object = {}
    pod_anti_affinity: Object = {}


class ServiceAccount(Values):
    create: bool = True
    name: str = ""
    """Empty makes one from the release's name."""
    annotations: StringMap = {}


class Probe(Values):
    enabled: bool = True
    initial_delay_seconds: int = Field(0, ge=0)
    period_seconds: int = Field(5, ge=1)
    timeout_seconds: int = Field(2, ge=1)
    failure_threshold: int = Field(3, ge=1)


class ContainerPorts(Values):
    grpc: int = Field(50050, ge=1, le=65535)


class Pdb(Values):
    create: bool = True
    """A budget is made only where there is more than one replica."""
    max_unavailable: int | str = 1


class UpdateStrategy(Values):
    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: dict[Literal["maxSurge", "maxUnavailable"], int | str] = {}


class Hpa(Values):
    enabled: bool = False
    """By the HorizontalPodAutoscaler; metrics other than CPU need helm/files/prometheus-adapter.yaml."""
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(4, ge=1)


class Keda(Values):
    enabled: bool = False
    """By a ScaledObject of KEDA, which asks Prometheus itself."""
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(4, ge=1)
    server_address: str = ""
    """Prometheus, as KEDA reaches it: http://prometheus.monitoring:9090."""


class Targets(Values):
    """What the autoscaler holds each pod at."""

    cpu_percent: int = Field(0, ge=0)
    """Use of the CPU request, in percent; 0 leaves it out."""
    metrics: dict[str, Quantity] = {}
    """Metric of the pods to wanted mean; e.g. lighttts_decode_streams: 12."""


class Autoscaling(Values):
    hpa: Hpa = Hpa()
    keda: Keda = Keda()
    targets: Targets = Targets()
    scale_down_stabilization_seconds: int = Field(600, ge=0)
    """Load must have been low for so long before a pod is drained."""


class Workload(Values):
    """What the pods of every service have."""

    image: Image = Image()
    replica_count: int = Field(1, ge=0)
    command: list[str] = []
    """Replaces the command line, to look into a pod."""
    extra_env_vars: list[Object] = []
    extra_env_vars_secret: str = Field("", alias="extraEnvVarsSecret")
    """A Secret whose keys become environment variables."""
    cpu: Quantity = ""
    """CPU request; a shorthand of resources.requests.cpu."""
    memory: Quantity = ""
    """Memory request and limit."""
    gpu: Gpu = Gpu()
    resources: Resources = Resources()
    """Replaces cpu, memory and gpu when it is given."""
    runtime_class_name: str = ""
    priority_class_name: str = ""
    node_selector: StringMap = {}
    tolerations: list[Toleration] = []
    affinity: Affinity = Affinity()
    topology_spread_constraints: list[Object] = []
    """Replaces the default: spread over nodes and zones where that is possible."""
    pod_labels: StringMap = {}
    pod_annotations: StringMap = {}
    service_account: ServiceAccount = ServiceAccount()
    startup_probe: Probe = Probe()
    """Carries the loading: failureThreshold x periodSeconds is the longest time it may take."""
    readiness_probe: Probe = Probe()
    liveness_probe: Probe = Probe()
    pre_stop_seconds: int = Field(0, ge=0)
    """Sleep before SIGTERM, for load balancers that learn of the end late; our own pools are told at once."""
    termination_grace_period_seconds: int = Field(0, ge=0)
    """0 derives it: preStop, the settings drain_notice_seconds and drain_grace_seconds, and a margin."""
    update_strategy: UpdateStrategy = UpdateStrategy()
    """Empty: pods with GPUs are replaced in place (no spare GPU is needed), others by one more pod first."""
    pdb: Pdb = Pdb()
    autoscaling: Autoscaling = Autoscaling()
    container_ports: ContainerPorts = ContainerPorts()
    extra_volumes: list[Object] = []
    extra_volume_mounts: list[Object] = []


class GatewayPorts(ContainerPorts):
    http: int = Field(8080, ge=1, le=65535)
    cosyvoice: int = Field(0, ge=0, le=65535)
    """For CosyVoice's own clients, over gRPC and HTTP alike, never with TLS; they expect 50000, 0 serves none."""


class ServicePorts(Values):
    grpc: int = Field(50050, ge=1, le=65535)
    http: int = Field(8080, ge=1, le=65535)
    cosyvoice: int = Field(50000, ge=1, le=65535)
    """Only where containerPorts.cosyvoice is set."""


class GatewayService(Values):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    ports: ServicePorts = ServicePorts()
    annotations: StringMap = {}
    load_balancer_source_ranges: list[str] = []


class Ingress(Values):
    """HTTP and WebSocket from outside."""

    enabled: bool = False
    ingress_class_name: str = ""
    hostname: str = ""
    path: str = "/"
    annotations: StringMap = {}
    tls_secret: str = ""
    """Secret of the host's certificate; empty serves plain HTTP."""


class Route(Values):
    """A route of the Gateway API."""

    enabled: bool = False
    parent_refs: list[Object] = []
    """The Gateways that take it."""
    hostnames: list[str] = []
    annotations: StringMap = {}


class SecretKey(Values):
    existing_secret: str = ""
    key: str = ""


class GatewayTls(Values):
    """TLS that applications see, over gRPC and HTTPS, where no Ingress or Gateway ends it before."""

    existing_secret: str = ""
    """Secret with tls.crt and tls.key; empty serves plaintext."""
    server_name: str = ""
    """A name the certificate bears: `helm test` and the load generator expect it."""


class Pvc(Values):
    existing_claim: str = ""
    storage_class: str = ""
    access_modes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]] = []
    size: Quantity = "10Gi"
    annotations: StringMap = {}


class OptionalClaim(Pvc):
    enabled: bool = False


class GatewayWorkload(Workload):
    voices: OptionalClaim = OptionalClaim()
    """Where registered voices are kept, by all gateways; without it each pod keeps its own for as long as it lives."""
    api_keys: SecretKey = SecretKey()
    """Secret that holds the file of API keys' hashes; without one everybody is let in."""
    tls: GatewayTls = GatewayTls()
    container_ports: GatewayPorts = GatewayPorts()
    service: GatewayService = GatewayService()
    ingress: Ingress = Ingress()
    http_route: Route = Route()
    grpc_route: Route = Route()


class Single(Workload):
    """One pod that runs everything, by `light-tts up`; the four services are then left out."""

    enabled: bool = False
    decode_workers: int = Field(1, ge=1, le=32)
    container_ports: GatewayPorts = GatewayPorts()
    service: GatewayService = GatewayService()
