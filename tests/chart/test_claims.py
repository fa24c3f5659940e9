"""GPUs by dynamic resource allocation: each pod claims devices of a class instead of counting an extended resource."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from tests.chart.test_rendered import NEWEST, of_kind
from tests.support.helm import Helm, HelmError

pytestmark = pytest.mark.system

LIBRARY = "device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('40Gi')) >= 0"
CLAIMS = (
    f'decode.gpu={{"deviceClass":"gpu.nvidia.com","count":2,"selectors":["{LIBRARY}"]}}',
    'engineCache={"pvc":{"enabled":true},"prepare":{"enabled":true}}',
    'decode.settings.decode_backend="tensorrt"',
)


def claimed(owner: dict[str, Any]) -> str:
    """Return the claim template of a Deployment's or Job's pod, after a check that its container uses the claim."""
    pod = owner["spec"]["template"]["spec"]
    (claim,) = pod["resourceClaims"]
    resources = pod["containers"][0]["resources"]
    assert resources["claims"] == [{"name": claim["name"]}]
    assert not [name for name in resources["limits"] if "/" in name]
    return str(claim["resourceClaimTemplateName"])


def test_pods_and_the_job_that_builds_for_them_claim_the_devices(each_helm: Helm) -> None:
    objects = each_helm.render("values.yaml", *CLAIMS, more=("--kube-version", "1.34.0"))
    template = of_kind(objects, "ResourceClaimTemplate")["decode"]
    for owner in (of_kind(objects, "Deployment")["decode"], of_kind(objects, "Job")["prepare"]):
        kubernetes_validate.validate(owner, NEWEST, strict=True)
        assert claimed(owner) == template["metadata"]["name"]
    kubernetes_validate.validate(template, NEWEST, strict=True)
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["deviceClassName"] == "gpu.nvidia.com"
    assert request["exactly"]["count"] == 2
    assert request["exactly"]["selectors"] == [{"cel": {"expression": LIBRARY}}]
    strategy = of_kind(objects, "Deployment")["decode"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}, "there is no spare GPU"


def test_another_request_is_another_template_because_one_cannot_change(newest_helm: Helm) -> None:
    first, second = (
        of_kind(newest_helm.render("values.yaml", f'decode.gpu={{"deviceClass":"gpu","count":{count}}}'), kind)[
            "decode"
        ]
        for kind, count in (("ResourceClaimTemplate", 1), ("ResourceClaimTemplate", 2))
    )
    assert first["metadata"]["name"] != second["metadata"]["name"]


def test_without_a_class_nothing_is_claimed(newest_helm: Helm) -> None:
    objects = newest_helm.render("values.yaml", 'llm.gpu.deviceClass="gpu.nvidia.com"', "llm.gpu.count=0")
    assert not of_kind(objects, "ResourceClaimTemplate")
    assert not any(
        "resourceClaims" in item["spec"]["template"]["spec"] for item in of_kind(objects, "Deployment").values()
    )


def test_a_cluster_without_claims_is_refused_with_a_sentence(each_helm: Helm) -> None:
    with pytest.raises(HelmError, match=r"decode\.gpu\.deviceClass claims GPUs .* needs Kubernetes 1\.34"):
        each_helm.render("values.yaml", *CLAIMS, more=("--kube-version", "1.33.0"))
