"""The chart sets only known variables, and has values for all of them."""

import base64
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import certifi
import yaml

from helm import (
    CHART,
    VALUES_FILES,
    Refused,
    environment,
    mounted,
    of_file,
    of_kind,
    rendered,
)

RELAY = os.environ["RELAY_BIN"]
SEED = "the-seed-of-the-tests-and-of-no-fleet"
# The first key of RFC 8032, in libp2p's protobuf form.
KEY = base64.b64encode(
    bytes.fromhex(
        "08011240"
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
).decode()
EVERYTHING = yaml.safe_load((CHART / "ci/everything-values.yaml").read_text())

# The content of the cluster's Secrets and ConfigMaps.
CONTENTS = {
    "fleet-seed": {"seed": SEED, "relay-seed": SEED},
    "edge-descord-relay-identity": {"seed": SEED},
    "relay-keys": {"edge-descord-relay-1": KEY},
    "edge-access": {"access.rules": EVERYTHING["access"]["rules"]},
    "rules": {"relays": "allow reserve none", "access.rules": "deny reserve 192.0.2.0/24"},
    "members": {"token": "of-a-relay"},
    "members-ca": {"ca.crt": certifi.contents()},
    "collector-ca": {"ca.crt": ""},
    "network": {"relays.key": "/key/swarm/psk/1.0.0/\n/base16/\n" + "07" * 32 + "\n"},
}
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())

# Intended differences between defaults.
OTHER_DEFAULTS = {
    "drain.delay": "load balancers and endpoints take longer than the relay's five seconds",
    "maxCircuitsPerSource": "maxCircuitsPerPeer sets it",
    "maxCircuitsPerTarget": "maxCircuitsPerPeer sets it",
    "drain.timeout": "the relay derives it from the longest circuit",
}


def relay(*arguments, variables=()):
    return subprocess.run(
        [RELAY, *arguments], env=dict(variables), capture_output=True, text=True, check=False
    )


def write_files(document, directory):
    """Writes the files mounted into the first container to a directory. Returns content by path."""
    files = mounted(document, CONTENTS)
    for path, content in files.items():
        file = Path(f"{directory}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return files


def reference():
    """The default of every variable."""
    rows = re.findall(
        r"^\| `(RELAY_\w+)` \| (.*?) \| (.*) \|$",
        relay("config", "--reference").stdout,
        re.MULTILINE,
    )
    return {name: default for name, default, _ in rows}


def snake(key):
    return re.sub(r"([A-Z])", r"_\1", key).upper()


class Variables(unittest.TestCase):
    def workloads(self):
        for file in VALUES_FILES:
            documents = of_file(file)
            for kind in ("StatefulSet", "Deployment"):
                for document in of_kind(documents, kind):
                    yield f"{file.name}: {kind}", document

    def test_the_relay_takes_them(self):
        for what, document in self.workloads():
            with self.subTest(what), tempfile.TemporaryDirectory() as directory:
                files = write_files(document, directory)
                variables = {
                    name: f"{directory}{value}" if value in files else value
                    for name, value in environment(document).items()
                }
                done = relay("config", variables=variables)
                self.assertEqual(done.returncode, 0, done.stderr)
                # The name server has no drain and no warnings; one set of values configures
                # that upgrades may cut circuits.
                if "StatefulSet" in what and "everything" not in what:
                    self.assertEqual(done.stderr, "")

    def test_every_one_can_be_set(self):
        # All variables set by any of the sets of values.
        given = {name for _, document in self.workloads() for name in environment(document)}
        known = reference()
        given = {
            name if name in known else name.removesuffix("_FILE")
            for name in given
            if name.startswith("RELAY_")
        }
        self.assertEqual(given, set(known))

    def test_defaults_are_those_of_the_relay(self):
        known = reference()
        different = set()
        for prefix, values, keys in [
            ("", DEFAULTS["relay"], set(DEFAULTS["relay"]) - {"listenAddresses", "prefixShares", "trustedProxies"}),
            ("drain", DEFAULTS["drain"], {"delay", "window", "timeout"}),
            ("dns", DEFAULTS["dns"], {"ttl", "rateLimit"}),
            (
                "access",
                DEFAULTS["access"],
                {"timeout", "onError", "cacheTtl", "cacheCapacity", "concurrency"},
            ),
        ]:
            for key in keys:
                path = f"{prefix}.{key}" if prefix else key
                name = "RELAY_" + (f"{prefix.upper()}_" if prefix else "") + snake(key)
                value = values[key]
                shown = value if isinstance(value, list) else [value]
                if known[name] != ", ".join(f"`{item}`" for item in shown):
                    different.add(path)
        self.assertEqual(different, set(OTHER_DEFAULTS))

    def test_bounds_are_those_of_the_relay(self):
        rows = re.findall(
            r"^\| `RELAY_(\w+)` .* at least (\d+[sm])\b.*\|$",
            relay("config", "--reference").stdout,
            re.MULTILINE,
        )
        bounds = dict(rows)
        checked = 0
        for key in DEFAULTS["relay"]:
            least = bounds.get(snake(key))
            if not least:
                continue
            number, unit = re.fullmatch(r"(\d+)(s|m)", least).groups()
            rendered(relay={key: least})
            too_little = f"{int(number) * 1000 - 1}ms"
            with self.subTest(key), self.assertRaisesRegex(
                Refused, f"relay.{key}: {too_little} is less"
            ):
                self.assertEqual(unit, "s")
                rendered(relay={key: too_little})
            checked += 1
        self.assertEqual(checked, 7)

    def test_what_otlp_gets_tells_the_pods_apart(self):
        for what, document in self.workloads():
            with self.subTest(what):
                text = environment(document)["OTEL_RESOURCE_ATTRIBUTES"]
                attributes = dict(pair.split("=") for pair in text.split(","))
                self.assertEqual(attributes["k8s.pod.name"], f"{document['metadata']['name']}-1")
                self.assertEqual(attributes["k8s.namespace.name"], "net")
                self.assertIn(f"k8s.{document['kind'].lower()}.name", attributes)

    def test_a_large_number_is_written_out(self):
        [document] = [
            d for what, d in self.workloads() if what == "everything-values.yaml: StatefulSet"
        ]
        variables = environment(document)
        self.assertEqual(variables["RELAY_MAX_CIRCUIT_BYTES"], "10000000000")
        self.assertEqual(variables["RELAY_MAX_RESERVATIONS"], "2000000")
        # With null, the relay's default applies.
        self.assertNotIn("RELAY_MAX_RESERVATIONS_PER_PEER", variables)

    def test_the_relay_understands_what_helm_test_asks(self):
        pods = [pod for file in VALUES_FILES for pod in of_kind(of_file(file), "Pod")]
        self.assertTrue(any("--dns-server" in str(pod) for pod in pods))
        for pod in pods:
            name = pod["metadata"]["name"]
            with self.subTest(name), tempfile.TemporaryDirectory() as directory:
                [container] = pod["spec"]["containers"]
                arguments = container["args"]
                for path in write_files(pod, directory):
                    arguments = [text.replace(path, f"{directory}{path}") for text in arguments]
                # No relay is running: the command must fail to connect, and must not reject its arguments.
                done = relay(*arguments, "--timeout=1ms")
                self.assertEqual(done.returncode, 1, done.stderr)
