"""Invalid and contradictory values are rejected with helpful messages."""

import copy
import json
import unittest

import jsonschema
import yaml

from helm import CHART, HELMS, SEED, Refused, merged, of_kind, rendered, template

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())

# Objects defined by Kubernetes, which allow additional properties.
OPEN = "object"


def definition(schema):
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].split("/")[-1]]
    return schema


def objects(schema=SCHEMA, path=()):
    """The paths of all objects defined by this chart."""
    yield path
    for name, inner in schema["properties"].items():
        if "properties" in inner:
            yield from objects(inner, (*path, name))


def at(path, value):
    """Values with this value at this path."""
    for name in reversed(path):
        value = {name: value}
    return value


class Schema(unittest.TestCase):
    def setUp(self):
        jsonschema.Draft7Validator.check_schema(SCHEMA)
        self.validator = jsonschema.Draft7Validator(SCHEMA)

    def test_it_knows_every_value_and_no_other(self):
        for path in objects():
            with self.subTest(".".join(path)):
                schema, values = SCHEMA, DEFAULTS
                for name in path:
                    schema, values = schema["properties"][name], values[name]
                # Global values of a parent chart are passed to every subchart.
                self.assertEqual(set(schema["properties"]) - {"global"}, set(values))

    def test_it_is_closed(self):
        for path in objects():
            with self.subTest(".".join(path)):
                values = merged(DEFAULTS, at((*path, "tpyo"), 1))
                self.assertFalse(self.validator.is_valid(values))
        self.assertTrue(self.validator.is_valid(DEFAULTS))

    def test_every_value_has_a_type(self):
        for path in objects():
            schema = SCHEMA
            for name in path:
                schema = schema["properties"][name]
            for name, inner in schema["properties"].items():
                if definition(inner).get("type") == OPEN:
                    continue
                with self.subTest(".".join((*path, name))):
                    values = copy.deepcopy(DEFAULTS)
                    below = values
                    for step in path:
                        below = below[step]
                    below[name] = {"tpyo": 1}
                    self.assertFalse(self.validator.is_valid(values))

    def test_helm_refuses_by_it(self):
        for helm in HELMS:
            for values, word in [
                ({"relay": {"maxCircuit": 1}}, "maxCircuit"),
                ({"relay": {"maxCircuits": "many"}}, "maxCircuits"),
                ({"relay": {"reservationTtl": "1 hour"}}, "reservationTtl"),
                ({"relay": {"reservationTtl": 60}}, "reservationTtl"),
                ({"relay": {"maxCircuitBytes": "100 bananas"}}, "maxCircuitBytes"),
                ({"drain": {"timeout": "90"}}, "timeout"),
                ({"exposure": {"type": "NodePort"}}, "type"),
                ({"exposure": {"externalAddresses": ["192.0.2.1:9000"]}}, "externalAddresses"),
                ({"identity": {"seed": "short"}}, "seed"),
                ({"podDisruptionBudget": {"minAvailable": "half"}}, "minAvailable"),
                ({"telemetry": {"endpoint": "collector:4318"}}, "endpoint"),
                ({"access": {"reserveAllow": ["members.test"]}}, "reserveAllow"),
                ({"access": {"reserveDeny": ["none"]}}, "reserveDeny"),
                ({"access": {"connectAllow": "192.0.2.1"}}, "connectAllow"),
                ({"access": {"targetAllow": ["192.0.2.1"]}}, "targetAllow"),
                ({"access": {"url": "https://user:password@members.test"}}, "url"),
                ({"access": {"url": "members.test"}}, "url"),
                ({"access": {"onError": "open"}}, "onError"),
                ({"access": {"cacheCapacity": 65537}}, "cacheCapacity"),
                ({"access": {"concurrency": 0}}, "concurrency"),
                ({"extraEnv": [{"value": "x"}]}, "name"),
            ]:
                with self.subTest(word, helm=helm), self.assertRaisesRegex(Refused, word):
                    template(merged(SEED, values), helm=helm)


WITH_DNS = {"enabled": True, "zone": "fleet.test"}

# Values, and the resulting error messages of Helm.
CONTRADICTIONS = [
    ({"identity": {"existingSecret": "a", "keysSecret": "b"}}, "identity: set only one"),
    (
        {"drain": {"timeout": "1h"}},
        "drain.timeout: 1h must be longer than relay.maxCircuitDuration, 1h",
    ),
    (
        {"relay": {"maxCircuitDuration": "2h"}, "drain": {"timeout": "2h"}},
        "must be longer than relay.maxCircuitDuration, 2h",
    ),
    ({"relay": {"maxCircuitDuration": 0}}, "relay.maxCircuitDuration, unlimited"),
    ({"relay": {"maxCircuitDuration": "0"}}, "relay.maxCircuitDuration, unlimited"),
    # Without a value, the relay's default of one hour applies.
    (
        {"relay": {"maxCircuitDuration": None}, "drain": {"timeout": "30m"}},
        "maxCircuitDuration, 1h",
    ),
    ({"drain": {"window": "2h"}}, "drain.window: 2h is longer than drain.timeout"),
    ({"dns": {"ttl": "2h"}}, "dns.ttl: 2h is not between 1s and 1h"),
    (
        {"access": {"rules": "# none yet", "rulesConfigMap": {"name": "rules"}}},
        "access: set only one of rules, rulesConfigMap and file",
    ),
    (
        {"access": {"url": "https://a", "caFile": {"secret": "a", "configMap": "b"}}},
        "access.caFile: set only one",
    ),
    ({"access": {"tokenSecret": {"name": "a"}}}, "access.tokenSecret: has no effect without"),
    ({"access": {"caFile": {"secret": "a"}}}, "access.caFile: has no effect without"),
    ({"access": {"timeout": "1s"}}, "access.timeout: has no effect without access.url"),
    ({"access": {"onError": "fail-open"}}, "access.onError: has no effect without access.url"),
    ({"access": {"cacheTtl": 0}}, "access.cacheTtl: has no effect without access.url"),
    ({"access": {"cacheCapacity": 0}}, "access.cacheCapacity: has no effect without access.url"),
    ({"access": {"concurrency": 1}}, "access.concurrency: has no effect without access.url"),
    ({"access": {"url": "https://a", "timeout": "9ms"}}, "access.timeout: 9ms is not between"),
    ({"access": {"url": "https://a", "timeout": "11s"}}, "access.timeout: 11s is not between"),
    ({"access": {"url": "https://a", "cacheTtl": "999ms"}}, "access.cacheTtl: 999ms is less"),
    ({"access": {"rules": "allow reserve none\n\ndeny all"}}, "access.rules: line 3 is not"),
    ({"admin": {"host": "127.0.0.1"}}, "admin.host: Kubernetes cannot probe a pod"),
    ({"dns": {"enabled": True}}, "dns.zone: is required"),
    (
        {"dns": {**WITH_DNS, "ttl": "8500ms"}},
        "drain.delay: 10s must be at least 2s longer than dns.ttl, 8500ms",
    ),
    (
        {"dns": {**WITH_DNS, "endpoints": [{"dnsName": "x", "recordType": "TXT", "targets": []}]}},
        "dns.endpoints: cannot be set together with dns.enabled",
    ),
    (
        {"dns": WITH_DNS, "exposure": {"domain": "fleet.test"}},
        "exposure.domain: fleet.test is in dns.zone, fleet.test",
    ),
    (
        {"dns": WITH_DNS, "exposure": {"domain": "Relays.Fleet.test"}},
        "exposure.domain: Relays.Fleet.test is in dns.zone, fleet.test",
    ),
    ({"dns": WITH_DNS, "replicas": 257}, "dns: supports at most 256 relays"),
    ({"exposure": {"type": "loadBalancer"}}, "exposure: a relay cannot detect the address"),
    ({"exposure": {"type": "nodePort"}, "replicas": 11}, "30900 for 11 relays cannot be announced"),
    ({"exposure": {"type": "nodePort", "firstNodePort": 30905}}, "use a first port that ends in 0"),
    (
        {"exposure": {"type": "nodePort", "firstNodePort": 65530}, "replicas": 7},
        "ports above 65535",
    ),
    ({"exposure": {"type": "nodePort", "port": 443}}, "exposure.port: has no effect with nodePort"),
    ({"exposure": {"type": "hostNetwork", "port": 443}}, "exposure.port: with hostNetwork"),
    ({"exposure": {"externalDns": True}}, "exposure.externalDns: needs exposure.domain"),
    ({"exposure": {"type": "hostNetwork"}, "dns": WITH_DNS}, "but dns.enabled needs it from elsewhere"),
    ({"websocket": {"enabled": True}}, "websocket.externalAddresses: browsers need"),
    ({"ports": {"admin": 9000}}, "need different ports"),
    (
        {"metrics": {"podMonitor": {"enabled": True}}},
        "networkPolicy.scrapers: metrics.podMonitor.enabled needs",
    ),
    ({"replicas": None}, "maxReplicas: is required if replicas is null"),
    ({"replicas": 3, "maxReplicas": 2}, "maxReplicas: 2 is less than replicas, 3"),
    (
        {"podDisruptionBudget": {"minAvailable": 0, "maxUnavailable": 0}},
        "set only one of minAvailable",
    ),
    (
        {"extraEnv": [{"name": "RELAY_MAX_CIRCUITS", "value": "1"}]},
        "extraEnv: set RELAY_MAX_CIRCUITS by its own value",
    ),
]


class Nothing(unittest.TestCase):
    def test_what_is_null_is_left_out(self):
        # Templates add to, compare or parse these values.
        for path in (
            ("access", "rules"),
            ("access", "rulesConfigMap", "name"),
            ("access", "reserveAllow"),
            ("exposure", "annotations"),
            ("extraEnv",),
            ("dns", "extraEnv"),
            ("telemetry", "resourceAttributes"),
        ):
            with self.subTest(".".join(path)):
                self.assertEqual(rendered(**at(path, None)), rendered())

    def test_what_a_drain_needs_is_not_null(self):
        for path in (("drain", "delay"), ("drain", "window"), ("exposure", "type")):
            with self.subTest(".".join(path)), self.assertRaisesRegex(Refused, path[-1]):
                rendered(**at(path, None))


class Contradictions(unittest.TestCase):
    def test_they_are_refused(self):
        for helm in HELMS:
            for values, words in CONTRADICTIONS:
                with self.subTest(words, helm=helm):
                    with self.assertRaises(Refused) as refused:
                        template(merged(SEED, values), helm=helm)
                    self.assertIn(words, str(refused.exception))

    def test_domain_beside_the_zone_is_accepted(self):
        for domain in ("relays.test", "otherfleet.test", "test"):
            with self.subTest(domain):
                rendered(dns=WITH_DNS, exposure={"domain": domain})
        # Without the chart's name server, the zone is part of another one.
        rendered(dns={"zone": "fleet.test"}, exposure={"domain": "fleet.test"})

    def test_all_of_them_are_told_at_once(self):
        values = {"drain": {"window": "2h"}, "ports": {"admin": 9000}, "dns": {"enabled": True}}
        with self.assertRaises(Refused) as refused:
            rendered(**values)
        for words in ("drain.window", "need different ports", "dns.zone"):
            self.assertIn(words, str(refused.exception))

    def test_a_seed_is_not_made_up_where_nobody_can_keep_it(self):
        for helm in HELMS:
            with self.subTest(helm=helm):
                documents = template({}, helm=helm)
                self.assertEqual(of_kind(documents, "Secret"), [])
                self.assertEqual(len(of_kind(documents, "StatefulSet")), 1)
