"""Access control values: rendered rules are valid for the relay, and empty values are accepted."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from helm import FULL_NAME, Refused, environment, only, pod_spec, rendered

RELAY = os.environ["RELAY_BIN"]
PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
RULES = f"# ours\r\n\n  allow reserve,connect {PEER}  # a friend\ndeny\ttarget {PEER}"


def access(**values):
    return rendered(access=values)


def variables(documents):
    every = environment(only(documents, "StatefulSet"))
    return {name for name in every if name.startswith("RELAY_ACCESS_")}


def takes(rules):
    """Whether the relay accepts this file."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "access.rules")
        file.write_text(rules, newline="")
        done = subprocess.run(
            [RELAY, "config"],
            env={"RELAY_ACCESS_FILE": str(file)},
            capture_output=True,
            check=False,
        )
    return done.returncode == 0


def chart_takes(rules):
    try:
        access(rules=rules)
    except Refused:
        return False
    return True


class Rules(unittest.TestCase):
    def test_a_change_of_rules_restarts_nothing(self):
        before, after = access(rules="# none yet"), access(rules=RULES)
        self.assertEqual(only(before, "StatefulSet"), only(after, "StatefulSet"))
        self.assertNotEqual(only(before, "ConfigMap"), only(after, "ConfigMap"))

    def test_they_arrive_as_they_are(self):
        for rules in (RULES, "\ufeff  # indented\n\n", "# with {{ braces }}: and 'quotes'\n"):
            with self.subTest(rules):
                made = only(access(rules=rules), "ConfigMap", f"{FULL_NAME}-access")
                self.assertEqual(made["data"], {"access.rules": rules})

    def test_an_own_config_map_is_mounted_instead(self):
        documents = access(rulesConfigMap={"name": "mine", "key": "rules.txt"})
        self.assertEqual([d for d in documents if d["kind"] == "ConfigMap"], [])
        volumes = {v["name"]: v for v in pod_spec(only(documents, "StatefulSet"))["volumes"]}
        items = [{"key": "rules.txt", "path": "access.rules"}]
        self.assertEqual(volumes["access"]["configMap"], {"name": "mine", "items": items})

    def test_the_chart_refuses_no_line_that_the_relay_takes(self):
        for rules, sound in [
            (RULES, True),
            ("\ufeffallow reserve none", True),
            ("allow connect,reserve,reserve 2001:db8::/32#", True),
            ("", True),
            ("allow reserve", False),
            ("allow everything none", False),
            ("allow reserve, none", False),
            ("allow reserve , connect none", False),
            ("permit reserve none", False),
            (f"deny reserve {PEER} too", False),
        ]:
            with self.subTest(rules):
                self.assertEqual((takes(rules), chart_takes(rules)), (sound, sound))

    def test_nothing_of_a_rule_is_repeated(self):
        with self.assertRaisesRegex(Refused, "access.rules: line 1") as refused:
            access(rules="deny 192.0.2.7")
        self.assertNotIn("192.0.2.7", str(refused.exception))


class Endpoint(unittest.TestCase):
    def test_without_an_endpoint_nothing_is_said_of_it(self):
        self.assertEqual(variables(access()), set())
        # Values equal to the relay's defaults set no variable.
        usual = {"timeout": "2000ms", "cacheTtl": None, "concurrency": 32, "cacheCapacity": None}
        self.assertEqual(variables(access(**usual)), set())

    def test_what_is_null_is_left_to_the_relay(self):
        documents = access(url="https://members.test", timeout=None, cacheTtl=None)
        self.assertEqual(
            variables(documents),
            {
                "RELAY_ACCESS_URL",
                "RELAY_ACCESS_ON_ERROR",
                "RELAY_ACCESS_CACHE_CAPACITY",
                "RELAY_ACCESS_CONCURRENCY",
            },
        )

    def test_the_token_is_a_file(self):
        secret = {"name": "members", "key": "bearer"}
        documents = access(url="https://members.test", tokenSecret=secret)
        volumes = {v["name"]: v for v in pod_spec(only(documents, "StatefulSet"))["volumes"]}
        items = [{"key": "bearer", "path": "token"}]
        self.assertEqual(
            volumes["access-token"]["secret"],
            {"secretName": "members", "defaultMode": 0o440, "items": items},
        )
