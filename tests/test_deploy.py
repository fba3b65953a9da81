"""What is in ``deploy/``: accepted by the tools that it is for, without rights that it does not need, and true to the settings."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mamba_stream import __version__
from mamba_stream.core.settings import Seconds
from mamba_stream.server.settings import SERVER, ServerSettings

DEPLOY = Path(__file__).parent.parent / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
DEFAULTS = ServerSettings()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_that_is_set_is_a_setting(path):
    known = {SERVER.variable(key) for key in SERVER.keys} | {"MAMBA_STREAM_LOG"}
    assert set(re.findall(r"MAMBA_STREAM_[A-Z_]+", path.read_text())) <= known


def test_the_unit_has_systemd_told_and_takes_away_what_it_does_not_need(tmp_path):
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "mamba-stream.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert Seconds(SERVER.read("drain", service["TimeoutStopSec"])) > DEFAULTS.drain
    assert SERVER.read("memory", f"{service['MemoryMax']}iB") > DEFAULTS.memory
    for key, value in {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "CapabilityBoundingSet": "",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    }.items():
        assert service[key] == value
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze (Debian: systemd) is not installed")
    # What it is to start is not installed here.
    text = (DEPLOY / "mamba-stream.service").read_text()
    copy = tmp_path / "mamba-stream.service"
    copy.write_text(re.sub(r"(?m)^ExecStart=.*", f"ExecStart={sys.executable}", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_container_is_nobody_with_rights_and_is_made_of_what_is_here():
    lines = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    told = [line.split(maxsplit=1) for line in lines if line and not line.startswith(("#", " "))]
    assert [value for word, value in told if word == "USER"] == ["10001:10001"]
    assert [value for word, value in told if word == "ENTRYPOINT"] == ['["mamba-stream", "serve"]']
    assert any(word == "HEALTHCHECK" and "/readyz" in value for word, value in told)
    for word, value in told:
        if word == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (DEPLOY.parent / source).exists(), source


def built() -> dict[str, dict[str, Any]]:
    """What Kubernetes would get, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl (Debian: kubernetes-client) is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "kustomize"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def test_the_files_of_the_base_are_all_in_it():
    base = yaml.safe_load((DEPLOY / "kustomize" / "kustomization.yaml").read_text())
    others = {path.name for path in (DEPLOY / "kustomize").iterdir()} - {"kustomization.yaml"}
    assert set(base["resources"]) == others
    for name in others:
        made = yaml.safe_load((DEPLOY / "kustomize" / name).read_text())
        assert {"apiVersion", "kind", "metadata"} <= made.keys()


def test_kustomize_builds_a_server_without_rights_that_is_probed_and_keeps_its_log():
    found = built()
    assert found.keys() == {"ServiceAccount", "Service", "StatefulSet"}
    spec = found["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"mamba-stream:{__version__}"
    assert spec["replicas"] == 1
    assert spec["serviceName"] == found["Service"]["metadata"]["name"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] > DEFAULTS.drain
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {
        "flight": DEFAULTS.listen.port,
        "http": DEFAULTS.http.port,
        "health": DEFAULTS.health.port,
    }
    probed = {
        kind: container[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert {kind: probe["path"] for kind, probe in probed.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    assert all(probe["port"] in ports for probe in probed.values())
    # The log is in the volume that stays; everything that is mounted is there.
    (claim,) = spec["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["MAMBA_STREAM_LOG"].startswith(mounts[claim["metadata"]["name"]])
    assert mounts.keys() == {claim["metadata"]["name"], *(volume["name"] for volume in pod["volumes"])}
    # Who is selected is who is there.
    labels = spec["template"]["metadata"]["labels"].items()
    assert found["Service"]["spec"]["selector"].items() <= labels
    assert spec["selector"]["matchLabels"].items() <= labels
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} <= ports.keys()
