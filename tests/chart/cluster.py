"""A read-only Kubernetes API server for lookups by Helm."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Objects that the chart creates without extensions: kind, plural, whether namespaced.
KINDS = {
    "v1": [
        ("ConfigMap", "configmaps", True),
        ("Namespace", "namespaces", False),
        ("Pod", "pods", True),
        ("Secret", "secrets", True),
        ("Service", "services", True),
        ("ServiceAccount", "serviceaccounts", True),
    ],
    "apps/v1": [("Deployment", "deployments", True), ("StatefulSet", "statefulsets", True)],
    "networking.k8s.io/v1": [("NetworkPolicy", "networkpolicies", True)],
    "policy/v1": [("PodDisruptionBudget", "poddisruptionbudgets", True)],
}


def resource_list(version):
    resources = [
        {
            "name": plural,
            "singularName": "",
            "namespaced": namespaced,
            "kind": kind,
            "verbs": ["get"],
        }
        for kind, plural, namespaced in KINDS[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def group_list():
    groups = []
    for version in KINDS:
        if "/" in version:
            entry = {"groupVersion": version, "version": version.split("/")[1]}
            groups.append(
                {"name": version.split("/")[0], "versions": [entry], "preferredVersion": entry}
            )
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def path_of(document):
    version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    plural = next(plural for name, plural, _ in KINDS[version] if name == kind)
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{namespace}/{plural}/{metadata['name']}"


class Cluster:
    """A cluster with these objects; `kubeconfig` connects to it."""

    def __init__(self, objects):
        answers = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": group_list(),
        }
        for version in KINDS:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            answers[root] = resource_list(version)
        answers.update({path_of(document): document for document in objects})

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.split("?")[0]
                answer = answers.get(path)
                status = 200
                if answer is None:
                    status = 404
                    answer = {
                        "kind": "Status",
                        "apiVersion": "v1",
                        "status": "Failure",
                        "reason": "NotFound",
                        "message": f"{path} not found",
                        "code": 404,
                    }
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @property
    def kubeconfig(self):
        cluster = {"server": f"http://127.0.0.1:{self.server.server_port}"}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
