"""Run a container's manifest as a kubelet does: as a local process with its environment, volumes and Secrets.

In the place of a pod's own network stands its loopback address: `0.0.0.0` becomes that address, `dns:///` the DNS
server's, and a Service's name in a command line the address of a Ready pod behind it. Volumes are folders: a claim's is
shared by all who mount it, the others are each pod's own.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
_SERVICE = re.compile(r"(?P<name>[a-z0-9-]+)\.[a-z0-9-]+\.svc:(?P<port>\d+)")


@dataclass(frozen=True)
class Place:
    """A pod's place: the values that the cluster, not the manifest, decides."""

    name: str
    address: str
    folder: Path
    """Folder of the pod; it contains its volumes."""


@dataclass(frozen=True)
class Kubelet:
    """Holds the objects of a release and the cluster's services."""

    objects: list[Manifest]
    claims: Path
    """Folder of the claims' folders."""
    secrets: Mapping[str, Path]
    """Folders of files by name."""
    dns_port: int
    api_port: int
    reach: Callable[[str, int], str]
    """`host:port` behind a Service and one of its ports."""

    def command(self, spec: Manifest, container: Manifest, place: Place) -> list[str]:
        """Return the command line, with this machine's programs for the image's."""
        programs = {"python": sys.executable, "light-tts": str(Path(sys.executable).with_name("light-tts"))}
        first, *rest = container["command"]
        return [programs[first], *(self._here(part, spec, container, place) for part in rest)]

    def environment(self, spec: Manifest, container: Manifest, place: Place) -> dict[str, str]:
        """Return the variables that a kubelet sets."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            name = source["configMapRef"]["name"]
            maps = (item for item in self.objects if item["kind"] == "ConfigMap" and item["metadata"]["name"] == name)
            values |= next(maps)["data"] or {}
        for entry in container.get("env", []):
            values[entry["name"]] = entry["value"] if "value" in entry else self._value_from(entry["valueFrom"], place)
        values = {name: self._here(value, spec, container, place) for name, value in values.items()}
        if spec["automountServiceAccountToken"]:
            values["KUBECONFIG"] = str(self._kubeconfig(spec, place))
        outside = {name: os.environ[name] for name in ("PATH", "HOME", "SSL_CERT_FILE") if name in os.environ}
        return {**outside, **values}

    def _value_from(self, source: Manifest, place: Place) -> str:
        if "secretKeyRef" in source:
            wanted = source["secretKeyRef"]
            return (self.secrets[wanted["name"]] / wanted["key"]).read_text(encoding="utf-8")
        return {"metadata.name": place.name, "status.podIP": place.address}[source["fieldRef"]["fieldPath"]]

    def _here(self, value: str, spec: Manifest, container: Manifest, place: Place) -> str:
        """Replace volumes and network addresses in a value by the local ones."""
        if value == "0.0.0.0":  # noqa: S104 - compared, not bound
            return place.address
        for mount in container["volumeMounts"]:
            path = mount["mountPath"]
            if value == path or value.startswith(f"{path}/"):
                return str(self._volume(spec, mount["name"], place)) + value.removeprefix(path)
        value = value.replace("dns:///", f"dns://127.0.0.1:{self.dns_port}/", 1)
        return _SERVICE.sub(lambda found: self.reach(found["name"], int(found["port"])), value)

    def _volume(self, spec: Manifest, name: str, place: Place) -> Path:
        volume = next(volume for volume in spec["volumes"] if volume["name"] == name)
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if "secret" in volume:
            return self.secrets[volume["secret"]["secretName"]]
        claim = volume.get("persistentVolumeClaim")
        folder = self.claims / claim["claimName"] if claim else place.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _kubeconfig(self, spec: Manifest, place: Place) -> Path:
        named = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.api_port}"}}],
            "users": [{"name": "u", "user": {"token": f"of-{spec['serviceAccountName']}"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        path = place.folder / "kubeconfig"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))
        return path
