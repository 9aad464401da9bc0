"""Every set of values renders with both versions of Helm into valid Kubernetes objects."""

import functools
import itertools
import tarfile
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

from helm import (
    CHART,
    HELMS,
    NAMESPACE,
    RELEASE,
    VALUES_FILES,
    environment,
    of_file,
    of_kind,
    pod_spec,
    run,
)

# Caches schemas, which the validator would otherwise read for each object.
utils = kubernetes_validate.utils
utils.schema_contents = functools.lru_cache(None)(utils.schema_contents)

# The three newest versions with schemas, and the oldest supported version.
MINORS = sorted({int(version.split(".")[1]) for version in utils.all_versions()})
OLDEST = int(yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"].split(".")[1])
VERSIONS = [f"1.{minor}.0" for minor in [OLDEST, *MINORS[-3:]]]

# Kinds of extensions, for which there are no schemas.
EXTENSIONS = {"DNSEndpoint", "PodMonitor", "PrometheusRule"}
WORKLOADS = ("StatefulSet", "Deployment", "Pod")


class Rendering(unittest.TestCase):
    def test_there_is_a_file_for_every_exposure(self):
        schema = yaml.safe_load((CHART / "values.schema.json").read_text())
        modes = set(schema["properties"]["exposure"]["properties"]["type"]["enum"])
        default = yaml.safe_load((CHART / "values.yaml").read_text())["exposure"]["type"]
        used = {
            yaml.safe_load(file.read_text()).get("exposure", {}).get("type", default)
            for file in VALUES_FILES
        }
        self.assertEqual(used, modes)

    def test_lint_is_content(self):
        for helm, file in itertools.product(HELMS, VALUES_FILES):
            with self.subTest(helm=helm, file=file.name):
                said = run(HELMS[helm], "lint", "--strict", "--values", file, CHART)
                self.assertIn("1 chart(s) linted, 0 chart(s) failed", said)

    def test_both_versions_of_helm_give_the_same(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                self.assertEqual(of_file(file, 3), of_file(file, 4))

    def test_kubernetes_takes_every_object(self):
        for file, version in itertools.product(VALUES_FILES, VERSIONS):
            for document in of_file(file, version=version):
                what = f"{file.name}: {document['kind']} {document['metadata']['name']}"
                with self.subTest(what, version=version):
                    if document["kind"] not in EXTENSIONS:
                        kubernetes_validate.validate(document, version, strict=True)

    def test_extensions_are_of_known_versions(self):
        versions = {
            (document["apiVersion"], document["kind"])
            for file in VALUES_FILES
            for document in of_file(file)
            if document["kind"] in EXTENSIONS
        }
        self.assertEqual(
            versions,
            {
                ("externaldns.k8s.io/v1alpha1", "DNSEndpoint"),
                ("monitoring.coreos.com/v1", "PodMonitor"),
                ("monitoring.coreos.com/v1", "PrometheusRule"),
            },
        )

    def test_names_are_unique_and_in_the_namespace(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                documents = of_file(file)
                names = [(document["kind"], document["metadata"]["name"]) for document in documents]
                self.assertEqual(len(names), len(set(names)))
                for document in documents:
                    self.assertEqual(document["metadata"]["namespace"], NAMESPACE)
                    self.assertLessEqual(len(document["metadata"]["name"]), 63)

    def test_what_selects_pods_finds_those_of_one_workload(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                documents = of_file(file)
                labels = {
                    (document["kind"], document["metadata"]["name"]): (
                        document["metadata"]
                        if document["kind"] == "Pod"
                        else document["spec"]["template"]["metadata"]
                    )["labels"]
                    for kind in WORKLOADS
                    for document in of_kind(documents, kind)
                }
                for document in documents:
                    spec = document.get("spec", {})
                    selector = spec.get("podSelector") or spec.get("selector")
                    if not selector:
                        continue
                    wanted = dict(selector.get("matchLabels", selector))
                    wanted.pop("statefulset.kubernetes.io/pod-name", None)
                    found = [name for name, has in labels.items() if wanted.items() <= has.items()]
                    self.assertEqual(len(found), 1, f"{document['kind']}: {found}")

    def test_ports_are_named_and_have_a_protocol(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                documents = of_file(file)
                known = set()
                for kind in WORKLOADS:
                    for document in of_kind(documents, kind):
                        ports = pod_spec(document)["containers"][0].get("ports", [])
                        names = [port["name"] for port in ports]
                        self.assertEqual(len(names), len(set(names)))
                        self.assertTrue(all(len(name) <= 15 for name in names))
                        pairs = [(port["containerPort"], port["protocol"]) for port in ports]
                        self.assertEqual(len(pairs), len(set(pairs)))
                        known |= {(port["name"], port["protocol"]) for port in ports}
                for service in of_kind(documents, "Service"):
                    for port in service["spec"]["ports"]:
                        self.assertIn((port["targetPort"], port["protocol"]), known)

    def test_no_container_has_a_variable_twice(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                documents = of_file(file)
                for kind in ("StatefulSet", "Deployment"):
                    for document in of_kind(documents, kind):
                        environment(document)

    def test_pods_are_restricted(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                documents = of_file(file)
                for document in [d for kind in WORKLOADS for d in of_kind(documents, kind)]:
                    spec = pod_spec(document)
                    self.assertFalse(spec["automountServiceAccountToken"])
                    self.assertFalse(spec["enableServiceLinks"])
                    pod = spec["securityContext"]
                    self.assertTrue(pod["runAsNonRoot"])
                    self.assertEqual(pod["seccompProfile"], {"type": "RuntimeDefault"})
                    self.assertEqual(pod["fsGroup"], pod["runAsUser"])
                    for container in spec["containers"]:
                        own = container["securityContext"]
                        self.assertFalse(own["allowPrivilegeEscalation"])
                        self.assertTrue(own["readOnlyRootFilesystem"])
                        self.assertEqual(own["capabilities"], {"drop": ["ALL"]})
                        self.assertIn("memory", container["resources"]["limits"])
                    volumes = {
                        next(iter(set(volume) - {"name"})) for volume in spec.get("volumes", [])
                    }
                    self.assertLessEqual(volumes, {"secret", "configMap"})

    def test_secrets_can_be_read_by_the_group_and_nobody_else(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                documents = of_file(file)
                for kind in ("StatefulSet", "Deployment"):
                    for document in of_kind(documents, kind):
                        for volume in pod_spec(document).get("volumes", []):
                            if "secret" in volume:
                                self.assertEqual(volume["secret"]["defaultMode"], 0o440)

    def test_the_notes_are_complete(self):
        for file in VALUES_FILES:
            with self.subTest(file.name):
                command = [HELMS[4], "install", RELEASE, CHART, "--dry-run=client"]
                said = run(*command, "--namespace", NAMESPACE, "--values", file)
                _, notes = said.split("NOTES:")
                self.assertIn(f"helm -n {NAMESPACE} test {RELEASE}", notes)
                self.assertNotRegex(notes, r"<no value>|<nil>|%!|map\[")

    def test_the_package_has_what_it_needs_and_no_more(self):
        with tempfile.TemporaryDirectory() as directory:
            run(HELMS[4], "package", CHART, "--destination", directory)
            [package] = Path(directory).iterdir()
            with tarfile.open(package) as archive:
                names = archive.getnames()
        inside = {name.split("/", 1)[1] for name in names}
        for name in (
            "README.md",
            "values.schema.json",
            "files/alerts.yaml",
            "files/dashboard.json",
        ):
            self.assertIn(name, inside)
        self.assertFalse([name for name in inside if name.startswith("ci/")])
