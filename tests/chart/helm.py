"""Runs both supported major versions of Helm on the chart."""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/descord-relay"
TOOLS = ROOT / "target/chart-tools"
HELMS = {major: TOOLS / f"helm-{major}" for major in (3, 4)}
VALUES_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "edge", "net"
FULL_NAME = f"{RELEASE}-descord-relay"

# Rendering with access to the cluster's API, but not to its OpenAPI schemas.
SERVER = ["--dry-run=server", "--disable-openapi-validation"]

# An identity, which is required to render without a cluster.
SEED = {"identity": {"existingSecret": "fleet-seed"}}


class Refused(Exception):
    """Helm failed; the text is its error message."""


def run(*command, stdin=None, env=None):
    # Isolates Helm from the configuration and caches of the machine.
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [str(part) for part in command],
            input=stdin,
            env={"PATH": os.environ["PATH"], "HOME": home, **(env or {})},
            check=False,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def merged(*values):
    """Deep merge; later values take precedence."""
    result = {}
    for value in values:
        for key, item in value.items():
            both = isinstance(item, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], item) if both else item
    return result


def template(values=None, *, file=None, helm=4, version=None, upgrade=False, cluster=None):
    """The manifests rendered from these values, including hooks."""
    command = [HELMS[helm], "template", RELEASE, CHART, "--namespace", NAMESPACE]
    if file:
        command += ["--values", file]
    if values is not None:
        command += ["--values", "-"]
    if version:
        command += ["--kube-version", version]
    if upgrade:
        command += ["--is-upgrade"]
    stdin = None if values is None else yaml.safe_dump(values)
    if cluster is None:
        text = run(*command, stdin=stdin)
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as kubeconfig:
            json.dump(cluster.kubeconfig, kubeconfig)
            kubeconfig.flush()
            env = {"KUBECONFIG": kubeconfig.name}
            text = run(*command, *SERVER, stdin=stdin, env=env)
    return [document for document in yaml.safe_load_all(text) if document]


@functools.cache
def of_file(file, helm=4, version=None):
    """The manifests rendered from a values file."""
    return template(file=file, helm=helm, version=version)


def rendered(**values):
    """The manifests of these values, with an identity."""
    return template(merged(SEED, values))


def of_kind(documents, kind, name=None):
    found = [
        document
        for document in documents
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]
    return found


def only(documents, kind, name=None):
    found = of_kind(documents, kind, name)
    assert len(found) == 1, f"{len(found)} × {kind} {name or ''}"
    return found[0]


def pod_spec(document):
    return document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]


def mounted(document, contents):
    """The files mounted into the first container: content by path. `contents` has the data of
    existing Secrets and ConfigMaps, by name and key."""
    spec = pod_spec(document)
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    files = {}
    for mount in spec["containers"][0].get("volumeMounts", []):
        # A file mounted by subPath is not updated after the pod has started.
        assert "subPath" not in mount, mount
        volume = volumes[mount["name"]]
        source = volume.get("secret") or volume["configMap"]
        data = contents[source.get("secretName") or source["name"]]
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            files[f"{mount['mountPath']}/{item['path']}"] = data[item["key"]]
    return files


def environment(document):
    """The variables of the first container, expanded as in the second pod."""
    fields = {
        "metadata.name": f"{document['metadata']['name']}-1",
        "metadata.uid": "00000000-0000-0000-0000-000000000001",
        "status.podIP": "10.0.0.1",
        "status.hostIP": "192.0.2.1",
        "spec.nodeName": "node-1",
    }
    variables = {}
    for variable in pod_spec(document)["containers"][0]["env"]:
        name = variable["name"]
        assert name not in variables, f"{name} is there twice"
        if "valueFrom" in variable:
            source = variable["valueFrom"]
            if "fieldRef" in source:
                variables[name] = fields[source["fieldRef"]["fieldPath"]]
            continue
        value = variable["value"]
        assert isinstance(value, str), f"{name} is no text"
        for known, text in variables.items():
            value = value.replace(f"$({known})", text)
        assert "$(" not in value, f"{name}: {value}"
        variables[name] = value
    return variables
