"""Discovery of a service's workers: the full set of addresses, delivered at each change."""

from services.common.discovery.base import Discovery, discover
from services.common.discovery.dns import DnsDiscovery
from services.common.discovery.kubernetes import KubernetesDiscovery
from services.common.discovery.static import StaticDiscovery

__all__ = ["Discovery", "DnsDiscovery", "KubernetesDiscovery", "StaticDiscovery", "discover"]
