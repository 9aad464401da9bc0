"""The documentation of the chart agrees with the chart."""

import os
import re
import shlex
import unittest

import yaml

from helm import CHART, HELMS, NAMESPACE, RELEASE, ROOT, only, rendered, run
from readme import with_tables


class Documents(unittest.TestCase):
    def test_the_readme_has_the_values_as_they_are(self):
        path = CHART / "README.md"
        readme = path.read_text()
        current = with_tables(readme)
        if "UPDATE_DOCS" in os.environ:
            path.write_text(current)
            readme = current
        self.assertTrue(
            readme == current,
            "helm/descord-relay/README.md: `UPDATE_DOCS=1 cargo test --test operations chart` writes it",
        )

    def test_alerts_and_dashboard_are_those_of_the_project(self):
        for name in ("alerts.yaml", "dashboard.json"):
            original = (ROOT / "observability" / name).read_text()
            copy = CHART / "files" / name
            if "UPDATE_DOCS" in os.environ:
                copy.write_text(original)
            self.assertTrue(
                copy.read_text() == original,
                f"{copy} differs: `UPDATE_DOCS=1 cargo test --test operations chart` copies it",
            )

    def test_they_are_installed_as_they_are(self):
        on = {"enabled": True}
        documents = rendered(metrics={"prometheusRule": on, "dashboard": on})
        alerts = yaml.safe_load((ROOT / "observability/alerts.yaml").read_text())
        self.assertEqual(only(documents, "PrometheusRule")["spec"], alerts)
        dashboard = only(documents, "ConfigMap")["data"]["descord-relay.json"]
        self.assertEqual(
            dashboard.strip(), (ROOT / "observability/dashboard.json").read_text().strip()
        )
        self.assertEqual(
            only(documents, "ConfigMap")["metadata"]["labels"]["grafana_dashboard"], "1"
        )

    def test_the_version_is_that_of_the_relay(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        cargo = (ROOT / "Cargo.toml").read_text()
        self.assertIn(f'\nversion = "{chart["appVersion"]}"\n', cargo)

    def test_helm_takes_documented_options(self):
        """Helm renders the chart with the options of each documented `helm install` and `upgrade`."""
        documents = [ROOT / "README.md", CHART / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
        rendered_with = 0
        for document in documents:
            reused = []
            text = document.read_text().replace("\\\n", " ")
            for line in re.findall(r"^ *helm .*helm/descord-relay.*$", text, re.MULTILINE):
                words = shlex.split(line, comments=True)
                options = words[words.index("helm/descord-relay") + 1 :]
                if "--reset-then-reuse-values" in options:
                    options.remove("--reset-then-reuse-values")
                    options = reused + options
                # A file that another command in the document writes.
                at = options.index("--values") if "--values" in options else None
                if at is not None and not (ROOT / options[at + 1]).exists():
                    del options[at : at + 2]
                reused = options
                with self.subTest(document=str(document.relative_to(ROOT)), options=options):
                    output = run(
                        HELMS[4], "template", RELEASE, CHART, "--namespace", NAMESPACE, *options
                    )
                    self.assertIn("kind: StatefulSet", output)
                rendered_with += 1
        self.assertGreater(rendered_with, 1)
