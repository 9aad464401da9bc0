"""Every scanner finding is known and has a documented reason."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from helm import CHART, HELMS, NAMESPACE, RELEASE, ROOT, TOOLS, VALUES_FILES, run

ACCEPTED = {
    "CKV_K8S_8": "the pods of `helm test` end by themselves",
    "CKV_K8S_9": "the pods of `helm test` end by themselves",
    "CKV_K8S_11": "a limit of processor time delays all circuits at once; requests share it out",
    "CKV_K8S_15": "the tag of a release does not move; image.pullPolicy changes it",
    "CKV_K8S_19": "exposure.type=hostNetwork asks for it",
    "CKV_K8S_26": "exposure.type=hostPort asks for it",
    "CKV_K8S_35": "the standard variable for the collector's headers has no form for a file",
    "CKV_K8S_43": "image.digest sets it",
    "CKV2_K8S_6": "the pods of `helm test` accept nothing",
}

ACCEPTED_IN_DOCKERFILE = {
    "DL3008": "Debian keeps no old versions: a pinned one can be installed for weeks only",
}


class Scans(unittest.TestCase):
    def test_checkov_finds_what_is_accepted_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as directory:
            for file in VALUES_FILES:
                text = run(
                    HELMS[4], "template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", file
                )
                Path(directory, f"{file.stem}.yaml").write_text(text)
            done = subprocess.run(
                [
                    TOOLS / "venv/bin/checkov",
                    *["--directory", directory, "--framework", "kubernetes"],
                    *["--skip-download", "--quiet", "--compact", "--output", "json"],
                ],
                env={"PATH": os.environ["PATH"], "HOME": directory, "LOG_LEVEL": "ERROR"},
                check=False,
                capture_output=True,
                text=True,
            )
        report = json.loads(done.stdout)
        self.assertEqual(report["summary"]["parsing_errors"], 0)
        self.assertGreater(report["summary"]["passed"], 1000)
        found = {}
        for check in report["results"]["failed_checks"]:
            found.setdefault(check["check_id"], set()).add(check["resource"])
        self.assertEqual(set(found), set(ACCEPTED), found)
        for check in ("CKV_K8S_8", "CKV_K8S_9", "CKV2_K8S_6"):
            self.assertTrue(all("-test-" in resource for resource in found[check]), found[check])

    def test_hadolint_finds_what_is_accepted_and_nothing_else(self):
        done = subprocess.run(
            [TOOLS / "venv/bin/hadolint", "--format", "json", ROOT / "Dockerfile"],
            check=False,
            capture_output=True,
            text=True,
        )
        self.assertEqual(
            {finding["code"] for finding in json.loads(done.stdout)} - set(ACCEPTED_IN_DOCKERFILE),
            set(),
        )
