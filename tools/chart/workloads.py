"""The values of the Helm chart for a service's pods, as types; `tools.chart.values` has the others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

StringMap = dict[str, str]
Object = dict[str, Any]
"""An object of Kubernetes."""
Quantity = str | int | float
"""An amount in the notation of Kubernetes: 2, 500m, 8Gi."""


class Values(BaseModel):
    """Base class: names in camel case, unknown names rejected, descriptions from docstrings."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, use_attribute_docstrings=True)


class Image(Values):
    registry: str = ""
    """Registry; global.imageRegistry overrides it."""
    repository: str = ""
    tag: str = ""
    """Used unchanged; empty: the chart's appVersion and the variant."""
    variant: Literal["", "cpu", "cuda"] = ""
    """Variant of the image, the suffix of the default tag."""
    digest: str = Field("", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """sha256:...; overrides the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"


class Gpu(Values):
    resource: str = "nvidia.com/gpu"
    """Name of the extended resource: nvidia.com/gpu, nvidia.com/mig-1g.10gb, nvidia.com/gpu.shared ..."""
    count: int = Field(0, ge=0)
    """GPUs of each pod; 0 runs on the CPU."""


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
    """Empty: derived from the release's name."""
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
    """Create a budget if there is more than one replica."""
    max_unavailable: int | str = 1


class UpdateStrategy(Values):
    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: dict[Literal["maxSurge", "maxUnavailable"], int | str] = {}


class Hpa(Values):
    enabled: bool = False
    """Scale by the HorizontalPodAutoscaler; metrics other than CPU need helm/files/prometheus-adapter.yaml."""
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(4, ge=1)


class Keda(Values):
    enabled: bool = False
    """Scale by a ScaledObject of KEDA, which queries Prometheus itself."""
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(4, ge=1)
    server_address: str = ""
    """URL of Prometheus for KEDA: http://prometheus.monitoring:9090."""
    fallback_replicas: int = Field(0, ge=0)
    """Pods to run at least while Prometheus does not answer; 0: minReplicas. Pods that run are kept (KEDA 2.17)."""


class Targets(Values):
    """The autoscaler's targets per pod."""

    cpu_percent: int = Field(0, ge=0)
    """Use of the CPU request, in percent; 0: no target."""
    metrics: dict[str, Quantity] = {}
    """Metric of the pods and its target mean; e.g. lighttts_decode_streams: 12."""


class Autoscaling(Values):
    replicas: Annotated[int, Field(ge=0)] | Literal["", "omit"] = ""
    """The number of replicas in the Deployment of an autoscaled service. Empty: the number in the cluster, or
    minReplicas at the first installation. Tools that render without a cluster (GitOps) need omit, or a number."""
    hpa: Hpa = Hpa()
    keda: Keda = Keda()
    targets: Targets = Targets()
    scale_down_stabilization_seconds: int = Field(600, ge=0)
    """Seconds of low load before a pod is drained."""


class Workload(Values):
    """The values of every service's pods."""

    image: Image = Image()
    replica_count: int = Field(1, ge=0)
    command: list[str] = []
    """Replaces the command line, to inspect a pod."""
    extra_env_vars: list[Object] = []
    extra_env_vars_secret: str = Field("", alias="extraEnvVarsSecret")
    """A Secret whose keys become environment variables."""
    cpu: Quantity = ""
    """CPU request; short for resources.requests.cpu."""
    memory: Quantity = ""
    """Memory request and limit."""
    gpu: Gpu = Gpu()
    resources: Resources = Resources()
    """Replaces cpu, memory and gpu."""
    runtime_class_name: str = ""
    priority_class_name: str = ""
    node_selector: StringMap = {}
    tolerations: list[Toleration] = []
    affinity: Affinity = Affinity()
    topology_spread_constraints: list[Object] = []
    """Replaces the default, which spreads pods over nodes and zones if possible."""
    pod_labels: StringMap = {}
    pod_annotations: StringMap = {}
    service_account: ServiceAccount = ServiceAccount()
    startup_probe: Probe = Probe()
    """Covers the loading: it may take at most failureThreshold x periodSeconds."""
    readiness_probe: Probe = Probe()
    liveness_probe: Probe = Probe()
    pre_stop_seconds: int = Field(0, ge=0)
    """Sleep before SIGTERM, for load balancers that are slow to remove a pod; our own pools remove it at once."""
    termination_grace_period_seconds: int = Field(0, ge=0)
    """0: preStop, the settings drain_notice_seconds and drain_grace_seconds, and a margin."""
    update_strategy: UpdateStrategy = UpdateStrategy()
    """Empty: pods with GPUs are replaced in place (without a spare GPU), others after an additional pod has started."""
    pdb: Pdb = Pdb()
    autoscaling: Autoscaling = Autoscaling()
    container_ports: ContainerPorts = ContainerPorts()
    extra_volumes: list[Object] = []
    extra_volume_mounts: list[Object] = []


class GatewayPorts(ContainerPorts):
    http: int = Field(8080, ge=1, le=65535)
    cosyvoice: int = Field(0, ge=0, le=65535)
    """Port for clients of CosyVoice, over gRPC and HTTP, never with TLS. They expect 50000; 0 switches it off."""


class ServicePorts(Values):
    grpc: int = Field(50050, ge=1, le=65535)
    http: int = Field(8080, ge=1, le=65535)
    cosyvoice: int = Field(50000, ge=1, le=65535)
    """Used if containerPorts.cosyvoice is set."""


class GatewayService(Values):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    ports: ServicePorts = ServicePorts()
    annotations: StringMap = {}
    load_balancer_source_ranges: list[str] = []


class Ingress(Values):
    """Ingress for HTTP and WebSocket."""

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
    """The Gateways to attach the route to."""
    hostnames: list[str] = []
    annotations: StringMap = {}


class SecretKey(Values):
    existing_secret: str = ""
    key: str = ""


class GatewayTls(Values):
    """TLS for applications, over gRPC and HTTPS, if no Ingress or Gateway terminates it."""

    existing_secret: str = ""
    """Secret with tls.crt and tls.key; empty serves plaintext."""
    server_name: str = ""
    """A name in the certificate, which `helm test` and the load generator check."""


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
    """Stores the registered voices of all gateways; without it each pod keeps its own until it ends."""
    api_keys: SecretKey = SecretKey()
    """Secret with the file of API keys' hashes; without it the gateway accepts every client."""
    tls: GatewayTls = GatewayTls()
    container_ports: GatewayPorts = GatewayPorts()
    service: GatewayService = GatewayService()
    ingress: Ingress = Ingress()
    http_route: Route = Route()
    grpc_route: Route = Route()


class Single(Workload):
    """One pod that runs everything with `light-tts up`, instead of the four services."""

    enabled: bool = False
    decode_workers: int = Field(1, ge=1, le=32)
    container_ports: GatewayPorts = GatewayPorts()
    service: GatewayService = GatewayService()
