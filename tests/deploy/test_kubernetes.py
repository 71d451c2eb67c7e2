"""deploy/kubernetes: what kubectl makes of it, by the schemas of Kubernetes, and its flags by those of a sandbox.

No cluster runs here: what only one can show (that a network plugin enforces the policies) docs/kubernetes.md says.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cloned_proxy.runner.values.spec import DEFAULT_USER, HOME, MIB, SandboxLimits
from cloned_proxy.store.settings.config import Config
from tests.net.proxy_process import PROGRAM
from tests.net.world import World

pytestmark = pytest.mark.checkout
ROOT = Path(__file__).parents[2] / "deploy/kubernetes"
SETS = ("base", "tool", "overlays/fleet", "overlays/gitops", "overlays/monitoring", "overlays/stateful")
TRUST = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
"""The public key of RFC 8032, section 7.1, test 1."""
RESTRICTED_VOLUMES = {
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("kubectl is required in CI")
        pytest.skip("NO KUBECTL, the manifests were not built")
    said = subprocess.run([found, "version", "--client", "--output=json"], capture_output=True, text=True, check=True)
    version = json.loads(said.stdout)["clientVersion"]
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 21):
        pytest.skip("kubectl is older than 1.21: it has the kustomize of 2019, the manifests were not built")
    return found


@pytest.fixture(scope="module")
def built() -> dict[str, list[dict[str, Any]]]:
    """The objects of each set, as kubectl would send them."""
    program = kubectl()
    found = {}
    for name in SETS:
        done = subprocess.run([program, "kustomize", str(ROOT / name)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", "kustomize warns of something that is to go"
        found[name] = list(yaml.safe_load_all(done.stdout))
    return found


def objects(built: dict[str, list[dict[str, Any]]], kind: str) -> Iterator[dict[str, Any]]:
    return (each for them in built.values() for each in them if each["kind"] == kind)


def workloads(built: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """What the proxy runs as."""
    yield from objects(built, "Deployment")
    yield from objects(built, "StatefulSet")


def pods(built: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    deployed = [each["spec"]["template"]["spec"] for each in workloads(built)]
    found = [*deployed, *(each["spec"] for each in objects(built, "Pod"))]
    assert len(found) == len(SETS)
    return found


def test_every_object_is_what_kubernetes_takes(built: dict[str, list[dict[str, Any]]]) -> None:
    unknown = set()
    for each in (each for them in built.values() for each in them):
        try:
            kubernetes_validate.validate(each, "1.33", strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unknown.add(each["kind"])
    assert unknown == {"PodMonitor"}, "only the Prometheus operator's kind has no schema here"


def test_a_misspelt_field_would_be_found(built: dict[str, list[dict[str, Any]]]) -> None:
    pod = next(objects(built, "Pod"))
    wrong = {**pod, "spec": {**pod["spec"], "automountServiceAccountTokens": False}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_every_pod_is_restricted(built: dict[str, list[dict[str, Any]]]) -> None:
    """Pod Security Standards, profile `restricted`, which the namespace enforces."""
    for spec in pods(built):
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= RESTRICTED_VOLUMES
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True  # ours, beyond the profile
    (namespace,) = {
        each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for each in objects(built, "Namespace")
    }
    assert namespace == "restricted"


def test_nobody_holds_a_credential_of_the_cluster(built: dict[str, list[dict[str, Any]]]) -> None:
    assert not any(spec["automountServiceAccountToken"] for spec in pods(built))
    assert not any(each["automountServiceAccountToken"] for each in objects(built, "ServiceAccount"))
    (tool,) = objects(built, "Pod")
    (token,) = next(each for each in tool["spec"]["volumes"] if each["name"] == "identity")["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "cloned-proxy"


def test_a_tool_has_the_flags_of_a_sandbox(built: dict[str, list[dict[str, Any]]]) -> None:
    limits = SandboxLimits()
    spec = next(objects(built, "Pod"))["spec"]
    (container,) = spec["containers"]
    security = spec["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == DEFAULT_USER
    assert container["resources"]["limits"] == {"cpu": f"{limits.cpus:g}", "memory": f"{limits.memory // MIB}Mi"}
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    sizes = {volume["name"]: volume.get("emptyDir", {}).get("sizeLimit") for volume in spec["volumes"]}
    assert (sizes["tmp"], sizes["home"]) == (f"{limits.tmp // MIB}Mi", f"{limits.home // MIB}Mi")
    assert {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}[HOME] == "home"
    assert {each["name"]: each["value"] for each in container["env"]}["HOME"] == HOME


def test_a_tool_is_let_to_the_proxy_and_to_nothing_else(built: dict[str, list[dict[str, Any]]]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in built["base"] if each["kind"] == "NetworkPolicy"}
    (pod,) = objects(built, "Pod")
    proxies = [each["spec"]["template"]["metadata"]["labels"] for each in workloads(built)]
    chosen = [
        spec
        for spec in (each["spec"] for each in objects(built, "NetworkPolicy"))
        if spec["podSelector"].get("matchLabels", {}).items() <= pod["metadata"]["labels"].items()
    ]
    ways = [way for spec in chosen for way in spec.get("egress", ())]
    assert {json.dumps(way) for way in ways} == {json.dumps(policies["tools"]["egress"][0])}
    (only,) = policies["tools"]["egress"]
    assert only["ports"] == [{"port": 8081, "protocol": "TCP"}]
    assert only["to"] == [{"podSelector": {"matchLabels": proxies[0]}}]
    assert not any(spec.get("ingress") for spec in chosen)
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_no_way_of_the_proxy_leads_to_the_metadata_of_a_cloud(built: dict[str, list[dict[str, Any]]]) -> None:
    (proxy,) = (
        each for each in built["base"] if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "proxy"
    )
    blocks = [to["ipBlock"] for way in proxy["spec"]["egress"] for to in way["to"] if "ipBlock" in to]
    assert "169.254.0.0/16" in blocks[0]["except"]
    assert "fe80::/10" in blocks[1]["except"]


def test_replicas_with_disks_are_those_of_the_base_in_all_else(built: dict[str, list[dict[str, Any]]]) -> None:
    """The patch goes by the places of things in a list, which somebody may change in the base."""

    def only(name: str, kind: str) -> dict[str, Any]:
        (found,) = (each for each in built[name] if each["kind"] == kind)
        return found

    plain, kept = only("overlays/fleet", "Deployment")["spec"], only("overlays/stateful", "StatefulSet")["spec"]
    assert not any(each["kind"] == "Deployment" for each in built["overlays/stateful"])
    assert kept["selector"] == plain["selector"]
    assert kept["replicas"] == plain["replicas"]
    pod, other = kept["template"]["spec"], plain["template"]["spec"]
    assert pod["containers"] == other["containers"]
    assert pod["initContainers"] == other["initContainers"]
    assert [each for each in other["volumes"] if each["name"] != "state"] == pod["volumes"]
    (disk,) = kept["volumeClaimTemplates"]
    assert disk["metadata"]["name"] == "state"
    assert set(kept["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    # With another word the kubelet gives the group every file at every mount, and no key would be taken again.
    added = {"fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"}
    assert pod["securityContext"] == other["securityContext"] | added
    assert added["fsGroup"] == other["securityContext"]["runAsGroup"]
    assert only("overlays/stateful", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["kind"] == "StatefulSet"
    headless = [each for each in objects(built, "Service") if each["metadata"]["name"] == kept["serviceName"]]
    assert [each["spec"]["clusterIP"] for each in headless] == ["None"]


@pytest.mark.parametrize("overlay", ["fleet", "gitops"])
def test_the_settings_of_the_overlays_are_settings(overlay: str) -> None:
    text = (ROOT / "overlays" / overlay / "config.yaml").read_text()
    with pytest.raises(ValueError, match="public key of a fleet"):
        Config.model_validate(yaml.safe_load(text))
    filled = text.replace("ed25519:the-public-key-that-fleet-init-prints", TRUST)
    read = Config.model_validate(yaml.safe_load(filled))
    assert read.fleet is not None
    assert (read.fleet.store is None) is (overlay == "gitops")
    assert read.fleet.issuers[0].map == {"system:serviceaccount:cloned-proxy:web-search": "cloned.mcp.web.search@v1"}


@pytest.mark.net
def test_the_proxy_starts_with_these_words_and_ends_in_time(
    world: World, built: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    (deployment,) = (each for each in built["base"] if each["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (data,) = (each["data"] for each in built["base"] if each["kind"] == "ConfigMap")
    mounted = tmp_path / "etc"
    mounted.mkdir()
    for name, text in data.items():
        (mounted / name).write_text(text.replace("/etc/cloned-proxy", str(mounted)))
    places = {"/etc/cloned-proxy": str(mounted), "/var/lib/cloned-proxy": str(tmp_path / "state")}

    def here(words: list[str]) -> list[str]:
        for there, place in places.items():
            words = [word.replace(there, place) for word in words]
        return words

    (first,) = spec["initContainers"]
    for _ in range(2):  # a pod that comes back to its disk finds the workspace
        subprocess.run(here(first["command"]), check=True)
    (container,) = spec["containers"]
    environment = {each["name"]: here([each["value"]])[0] for each in container["env"]}
    serving = world.spawn([PROGRAM, *container["args"]], env=environment, cwd=tmp_path)
    ready = container["readinessProbe"]["httpGet"]
    port = {each["name"]: each["containerPort"] for each in container["ports"]}[ready["port"]]
    deadline = time.monotonic() + 60
    while world.run(["curl", "-fsS", f"http://127.0.0.1:{port}{ready['path']}"]).returncode != 0:
        assert serving.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    refused = world.run(["curl", "-sS", "-x", "http://127.0.0.1:8081", "https://docs.example.com/"])
    assert "407" in refused.stderr  # nobody is anonymous here
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(60) == 0
    drain = Config.model_validate(yaml.safe_load(data["config.yaml"])).proxy.drain_seconds
    pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= drain + pause + 10
