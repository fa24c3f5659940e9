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

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Image(Values):
    registry: str = ""
    """Registry; global.imageRegistry overrides it."""
    repository: str = ""
    """Path and name in the registry."""
    tag: str = ""
    """Used unchanged; empty: the chart's appVersion and the variant."""
    variant: Literal["", "cpu", "cuda"] = ""
    """Variant of the image, the suffix of the default tag."""
    digest: str = Field("", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """sha256:...; overrides the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the image."""


class Gpu(Values):
    resource: str = "nvidia.com/gpu"
    """Name of the extended resource: nvidia.com/gpu, nvidia.com/mig-1g.10gb, nvidia.com/gpu.shared ..."""
    count: int = Field(0, ge=0)
    """GPUs of each pod; 0 runs on the CPU."""
    device_class: str = ""
    """DeviceClass of dynamic resource allocation, such as gpu.nvidia.com. Each pod then claims its GPUs instead of
    counting `resource` (Kubernetes 1.34)."""
    selectors: list[str] = []
    """CEL expressions that a claimed device must meet."""


class Resources(Values):
    """Requests and limits as in a container."""

    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    claims: list[Object] = []


class Toleration(Values):
    """A taint that pods tolerate."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int = 0


class EnvVar(Values):
    """An environment variable. Its value is a string: Kubernetes refuses numbers and booleans."""

    name: str = Field(min_length=1)
    value: str = ""
    value_from: Object = {}


class Affinity(Values):
    """Affinity as in a pod."""

    node_affinity: Object = {}
    pod_affinity: Object = {}
    pod_anti_affinity: Object = {}


class ServiceAccount(Values):
    create: bool = True
    """Create the account; false uses an existing one, default without a name."""
    name: str = ""
    """Empty: derived from the release's name."""
    annotations: StringMap = {}
    """Annotations of the account."""


class Probe(Values):
    """A gRPC health check by the kubelet."""

    enabled: bool = True
    """Whether the kubelet probes."""
    initial_delay_seconds: int = Field(0, ge=0)
    """Seconds from the start of the container to the first probe."""
    period_seconds: int = Field(5, ge=1)
    """Seconds between two probes."""
    timeout_seconds: int = Field(2, ge=1)
    """Seconds after which an unanswered probe fails."""
    failure_threshold: int = Field(3, ge=1)
    """Failures in a row that count."""


class ContainerPorts(Values):
    """Ports of the container."""

    grpc: int = Field(50050, ge=1, le=65535)
    """gRPC port."""


class Pdb(Values):
    """The PodDisruptionBudget, which limits how many pods `kubectl drain` may take at a time."""

    create: bool = True
    """Create a budget if there is more than one replica, or an autoscaler."""
    max_unavailable: int | str = 1
    """Pods that may be away at a time, as a number or a percentage."""


class UpdateStrategy(Values):
    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: dict[Literal["maxSurge", "maxUnavailable"], int | str] = {}


class Hpa(Values):
    """A HorizontalPodAutoscaler."""

    enabled: bool = False
    """Scale by the HorizontalPodAutoscaler; metrics other than CPU need helm/files/prometheus-adapter.yaml."""
    min_replicas: int = Field(1, ge=1)
    """Fewest pods."""
    max_replicas: int = Field(4, ge=1)
    """Most pods."""


class Keda(Values):
    """KEDA instead of the HorizontalPodAutoscaler; enable one of them."""

    enabled: bool = False
    """Scale by a ScaledObject of KEDA, which queries Prometheus itself."""
    min_replicas: int = Field(1, ge=0)
    """Fewest pods; 0 for llm and decode: none while there is no load. Callers that find none start the first one."""
    max_replicas: int = Field(4, ge=1)
    """Most pods."""
    server_address: str = ""
    """URL of Prometheus for KEDA: http://prometheus.monitoring:9090."""
    fallback_replicas: int = Field(0, ge=0)
    """Pods to run at least while Prometheus does not answer; 0: minReplicas. Pods that run are kept (KEDA 2.17)."""


class Targets(Values):
    """The autoscaler's targets per pod."""

    cpu_percent: int = Field(0, ge=0)
    """Use of the CPU request, in percent; 0: no target."""
    metrics: dict[str, Quantity] = {}
    """Metrics of the pods and the mean to keep; docs/operations.md explains the defaults."""


class Autoscaling(Values):
    """Scale by load; without hpa and keda, replicaCount is the number of pods."""

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

    replica_count: int = Field(1, ge=0)
    """Number of pods, unless an autoscaler sets it."""
    image: Image = Image()
    """Image of the service."""
    settings: dict[str, Any] = {}
    """Settings of the service by name; values.schema.json and docs/settings.md describe each."""
    command: list[str] = []
    """Replaces the command line, to inspect a pod."""
    extra_env_vars: list[EnvVar] = []
    """Additional environment variables, as in a container."""
    extra_env_vars_secret: str = Field("", alias="extraEnvVarsSecret")
    """A Secret whose keys become environment variables."""
    cpu: Quantity = ""
    """CPU request; short for resources.requests.cpu."""
    memory: Quantity = ""
    """Memory request and limit."""
    gpu: Gpu = Gpu()
    """GPUs, as an extended resource or as a claim."""
    resources: Resources = Resources()
    """Replaces cpu, memory and gpu: requests, limits and claims."""
    runtime_class_name: str = ""
    """RuntimeClass of the pods, nvidia on some clusters."""
    priority_class_name: str = ""
    """PriorityClass of the pods."""
    node_selector: StringMap = {}
    """Labels that a node must have."""
    tolerations: list[Toleration] = []
    """Taints of nodes that the pods tolerate."""
    affinity: Affinity = Affinity()
    """nodeAffinity, podAffinity and podAntiAffinity of the pods."""
    topology_spread_constraints: list[Object] = []
    """Replaces the default, which spreads pods over nodes and zones if possible."""
    pod_labels: StringMap = {}
    """Additional labels of the pods."""
    pod_annotations: StringMap = {}
    """Additional annotations of the pods."""
    service_account: ServiceAccount = ServiceAccount()
    """ServiceAccount of the pods."""
    startup_probe: Probe = Probe()
    """Covers the loading: it may take at most failureThreshold x periodSeconds."""
    readiness_probe: Probe = Probe(period_seconds=2)
    """Decides whether the pod gets new calls."""
    liveness_probe: Probe = Probe(period_seconds=10)
    """Restarts a container whose process hangs."""
    pre_stop_seconds: int = Field(0, ge=0)
    """Sleep before SIGTERM, for load balancers that are slow to remove a pod; our own pools remove it at once."""
    termination_grace_period_seconds: int = Field(0, ge=0)
    """0: preStop, the settings drain_notice_seconds and drain_grace_seconds, and a margin."""
    update_strategy: UpdateStrategy = UpdateStrategy()
    """Empty: pods with GPUs are replaced in place (without a spare GPU), others after an additional pod has started."""
    pdb: Pdb = Pdb()
    """Created if there are two pods or more, or an autoscaler."""
    autoscaling: Autoscaling = Autoscaling()
    container_ports: ContainerPorts = ContainerPorts()
    extra_volumes: list[Object] = []
    """Additional volumes of the pods."""
    extra_volume_mounts: list[Object] = []
    """Additional mounts of the container."""


class GatewayPorts(ContainerPorts):
    """Ports of the container."""

    http: int = Field(8080, ge=1, le=65535)
    """HTTP and WebSocket port."""
    cosyvoice: int = Field(0, ge=0, le=65535)
    """Port for clients of CosyVoice, over gRPC and HTTP; 0 switches it off. They expect 50000 without TLS, but the port
    needs TLS if gateway.tls is set."""


class ServicePorts(Values):
    """Ports of the Service."""

    grpc: int = Field(50050, ge=1, le=65535)
    """gRPC port."""
    http: int = Field(8080, ge=1, le=65535)
    """HTTP and WebSocket port."""
    cosyvoice: int = Field(50000, ge=1, le=65535)
    """Used if containerPorts.cosyvoice is set."""


class GatewayService(Values):
    """The Service that applications use."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """ClusterIP, NodePort or LoadBalancer."""
    ports: ServicePorts = ServicePorts()
    annotations: StringMap = {}
    """Annotations of the Service, for cloud load balancers."""
    load_balancer_source_ranges: list[str] = []
    """Address ranges that may use a LoadBalancer."""


class Ingress(Values):
    """Ingress for HTTP and WebSocket. docs/operations.md has annotations for nginx, Envoy, Istio and Traefik."""

    enabled: bool = False
    """Create the Ingress."""
    ingress_class_name: str = ""
    """Empty: the cluster's default class."""
    hostname: str = ""
    """Host name, required."""
    path: str = "/"
    """Prefix of the paths."""
    annotations: StringMap = {}
    """Annotations for the ingress controller, such as the timeouts of long streams."""
    tls_secret: str = ""
    """Secret of the host's certificate; empty serves plain HTTP."""


class Route(Values):
    """A route of the Gateway API."""

    enabled: bool = False
    """Create the route."""
    parent_refs: list[Object] = []
    """The Gateways to attach the route to; required."""
    hostnames: list[str] = []
    """Host names of the route."""
    annotations: StringMap = {}
    """Annotations of the route."""
    timeouts: dict[Literal["request", "backendRequest"], str] = {}
    """Timeouts of the route's rule. Gateways end streams early by default, Envoy after 15 s; 0s switches that off."""


class EnvoyGateway(Values):
    """Envoy Gateway's own policy, because a GRPCRoute has no timeouts in the Gateway API."""

    enabled: bool = False
    """Create a BackendTrafficPolicy for the enabled routes, so that Envoy Gateway does not end streams after 15 s."""


class SecretKey(Values):
    """A key of a Secret."""

    existing_secret: str = ""
    """Name of the Secret; empty: none."""
    key: str = ""
    """Key in the Secret."""


class GatewayTls(Values):
    """TLS for applications, over gRPC and HTTPS, if no Ingress or Gateway terminates it."""

    existing_secret: str = ""
    """Secret with tls.crt and tls.key; empty serves plaintext."""
    server_name: str = ""
    """A name in the certificate, which `helm test` and the load generator check."""


class Pvc(Values):
    """A claim. It stays when the release is uninstalled."""

    existing_claim: str = ""
    """A claim of your own; the chart then makes none."""
    storage_class: str = ""
    """Empty: the cluster's default class."""
    access_modes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]] = [
        "ReadWriteMany"
    ]
    """Access modes; pods on several nodes need ReadWriteMany."""
    size: Quantity = "10Gi"
    """Size; it can grow later, if the storage class can, but never shrink."""
    annotations: StringMap = {}
    """Annotations of the claim."""


class OptionalClaim(Pvc):
    """A claim that is not used by default. It stays when the release is uninstalled."""

    enabled: bool = False
    """Use the claim."""


class GatewayWorkload(Workload):
    voices: OptionalClaim = OptionalClaim()
    """Stores the registered voices of all gateways; without it each pod keeps its own until it ends."""
    api_keys: SecretKey = SecretKey(key="keys.yaml")
    """Secret with the file of API keys' hashes; without it the gateway accepts every client."""
    tls: GatewayTls = GatewayTls()
    container_ports: GatewayPorts = GatewayPorts()
    service: GatewayService = GatewayService()
    ingress: Ingress = Ingress()
    http_route: Route = Route(timeouts={"request": "0s", "backendRequest": "0s"})
    """An HTTPRoute for HTTP and WebSocket."""
    grpc_route: Route = Route()
    """A GRPCRoute for gRPC. The Gateway API has no timeouts for it yet: set them only if your CRD has them."""
    envoy_gateway: EnvoyGateway = EnvoyGateway()


class Single(Workload):
    """One pod that runs everything with `light-tts up`, instead of the four services."""

    enabled: bool = False
    """Run everything in one pod; encode, llm, decode and gateway are then not installed."""
    decode_workers: int = Field(1, ge=1, le=32)
    """Decode workers in the pod."""
    container_ports: GatewayPorts = GatewayPorts()
    service: GatewayService = GatewayService()
