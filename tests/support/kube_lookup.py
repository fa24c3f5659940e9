"""A Kubernetes API server that serves given objects of one namespace, for lookups by helm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.helm import NAMESPACE, RELEASE

_RESOURCES = {
    "v1": {
        "ConfigMap": "configmaps",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Pod": "pods",
        "Secret": "secrets",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "batch/v1": {"Job": "jobs"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
}
"""Kinds by API version, with the names of their resources. Helm asks whether each kind that it renders exists."""
_OWNED = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
"""Annotations of objects that helm has made; it refuses to adopt others."""


def secrets(keys: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return Secrets with these keys, by name."""
    return [
        {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}, "data": dict.fromkeys(names, "eA==")}
        for name, names in keys.items()
    ]


def owned(kind: str, version: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object as the cluster has it after the installation of the release."""
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": _OWNED}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": dict(spec)}


@contextmanager
def lookup_api(objects: Iterable[Mapping[str, Any]], folder: Path) -> Iterator[Path]:
    """Serve these objects; yield a kubeconfig for this server."""
    answers = _answers(list(objects))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            body = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        named = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c"}}],
        }
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))
        try:
            yield kubeconfig
        finally:
            server.shutdown()
            thread.join()


def _answers(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the API's answers by path: discovery, lists and objects."""
    groups = [
        {
            "name": version.partition("/")[0],
            "versions": [{"groupVersion": version, "version": version.partition("/")[2]}],
        }
        for version in _RESOURCES
        if "/" in version
    ]
    answers: dict[str, Any] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version, kinds in _RESOURCES.items():
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        verbs = {"namespaced": True, "verbs": ["get", "list"]}
        resources = [
            {"name": plural, "singularName": kind.lower(), "kind": kind, **verbs} for kind, plural in kinds.items()
        ]
        answers[root] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        for kind, plural in kinds.items():
            path = f"{root}/namespaces/{NAMESPACE}/{plural}"
            items = [item for item in objects if (item["apiVersion"], item["kind"]) == (version, kind)]
            answers[path] = {"kind": f"{kind}List", "apiVersion": version, "items": items}
            answers.update({f"{path}/{item['metadata']['name']}": item for item in items})
    return answers
