"""Additional objects: name server, network policies, monitors, probes and `helm test`."""

import unittest

from helm import FULL_NAME, NAMESPACE, environment, of_kind, only, pod_spec, rendered

ZONE = "fleet.test"
DNS = {"enabled": True, "zone": ZONE}
MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
HEADLESS = f"{FULL_NAME}-headless.{NAMESPACE}.svc.cluster.local"


class NameServer(unittest.TestCase):
    def test_it_follows_the_relays(self):
        variables = environment(only(rendered(dns=DNS), "Deployment"))
        # The absolute name of the headless service, which lists pods regardless of readiness.
        self.assertEqual(variables["RELAY_DNS_RELAYS"], f"{HEADLESS}.:8080")
        names = ",".join(f"{FULL_NAME}-{index}" for index in range(3))
        self.assertEqual(variables["RELAY_FLEET_INSTANCES"], names)

    def test_it_answers_on_port_53_over_both_protocols(self):
        documents = rendered(dns={**DNS, "service": {"type": "NodePort", "nodePort": 30053}})
        spec = only(documents, "Service", f"{FULL_NAME}-dns")["spec"]
        self.assertEqual(spec["externalTrafficPolicy"], "Local")
        self.assertEqual(
            [(port["port"], port["nodePort"], port["protocol"]) for port in spec["ports"]],
            [(53, 30053, "UDP"), (53, 30053, "TCP")],
        )

    def test_records_are_passed_on(self):
        record = {"dnsName": f"_dnsaddr.{ZONE}", "recordType": "TXT", "recordTTL": 300}
        record["targets"] = ["dnsaddr=/dns4/a.test/tcp/1/p2p/12D3KooW"]
        documents = rendered(dns={"endpoints": [record]})
        self.assertEqual(only(documents, "DNSEndpoint")["spec"], {"endpoints": [record]})


class Policies(unittest.TestCase):
    def ports_out(self, policy):
        return [entry["port"] for rule in policy["egress"] for entry in rule.get("ports", [])]

    def policy(self, name=FULL_NAME, **values):
        return only(rendered(**values), "NetworkPolicy", name)["spec"]

    def who_reaches(self, policy, port):
        """The peers for which a port is open; an empty list means all."""
        return [
            rule.get("from", [])
            for rule in policy["ingress"]
            if port in [entry["port"] for entry in rule["ports"]]
        ]

    def test_relays_are_open_and_their_operators_endpoints_are_not(self):
        policy = self.policy()
        self.assertEqual(self.who_reaches(policy, 9000), [[]])
        self.assertEqual(self.who_reaches(policy, 8080), [])
        policy = self.policy(dns=DNS, networkPolicy={"scrapers": [MONITORING]})
        [[scraper, answerer]] = self.who_reaches(policy, 8080)
        self.assertEqual(scraper, MONITORING)
        component = answerer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        self.assertEqual(component, "dns")

    def test_the_name_server_is_open_and_reaches_the_relays(self):
        policy = self.policy(f"{FULL_NAME}-dns", dns=DNS)
        self.assertEqual(self.who_reaches(policy, 5300), [[]])
        self.assertEqual(self.who_reaches(policy, 8080), [])
        [rule] = [
            rule for rule in policy["egress"] if {"port": 8080, "protocol": "TCP"} in rule["ports"]
        ]
        component = rule["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        self.assertEqual(component, "relay")

    def test_only_the_collectors_port_is_let_out(self):
        for endpoint, port in [
            ("http://collector:4318", 4318),
            ("https://user:secret@collector.example.org", 443),
            ("http://192.0.2.1", 80),
            ("http://[2001:db8::1]:4317/path", 4317),
        ]:
            with self.subTest(endpoint):
                policy = self.policy(telemetry={"endpoint": endpoint})
                self.assertEqual(self.ports_out(policy), [53, 53, port])

    def test_only_relays_reach_the_access_endpoint_and_only_its_port(self):
        for url, port in [("https://members.test/relay", 443), ("http://members.test:8081", 8081)]:
            with self.subTest(url):
                access = {"url": url}
                self.assertEqual(self.ports_out(self.policy(access=access)), [53, 53, port])
                server = self.policy(f"{FULL_NAME}-dns", access=access, dns=DNS)
                self.assertEqual(self.ports_out(server), [53, 53, 8080])

    def test_collector_and_access_endpoint_can_be_told_apart(self):
        members = {"ipBlock": {"cidr": "192.0.2.0/24"}}
        policy = self.policy(
            access={"url": "http://members"},
            telemetry={"endpoint": "http://collector:4318"},
            networkPolicy={"collectors": [MONITORING], "accessEndpoints": [members]},
        )
        where = {
            rule["ports"][0]["port"]: rule.get("to") for rule in policy["egress"] if "ports" in rule
        }
        self.assertEqual(where, {53: None, 4318: [MONITORING], 80: [members]})

    def test_dialing_back_reaches_public_addresses_alone(self):
        *_, rule = self.policy()["egress"]
        self.assertIn("10.0.0.0/8", rule["to"][0]["ipBlock"]["except"])
        for rule in self.policy(networkPolicy={"dialBack": False})["egress"]:
            self.assertNotIn("to", rule)


class Watching(unittest.TestCase):
    def test_a_relay_is_the_same_after_a_restart(self):
        monitor = {"enabled": True, "labels": {"release": "x"}}
        documents = rendered(
            dns=DNS, metrics={"podMonitor": monitor}, networkPolicy={"scrapers": [MONITORING]}
        )
        monitors = of_kind(documents, "PodMonitor")
        self.assertEqual(len(monitors), 2)
        for monitor in monitors:
            self.assertEqual(monitor["metadata"]["labels"]["release"], "x")
            [endpoint] = monitor["spec"]["podMetricsEndpoints"]
            self.assertEqual((endpoint["port"], endpoint["path"]), ("admin", "/metrics"))
            name = {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
            self.assertIn(name, endpoint["relabelings"])

    def test_probes_ask_what_they_mean(self):
        for kind in ("StatefulSet", "Deployment"):
            [container] = pod_spec(only(rendered(dns=DNS), kind))["containers"]
            for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
                request = container[probe]["httpGet"]
                self.assertEqual(request, {"path": path, "port": "admin"})

    def test_the_collector_is_told_who_asks(self):
        secret = {"name": "collector", "key": "token"}
        telemetry = {"endpoint": "http://c:4318", "headersSecret": secret, "traces": False}
        [container] = pod_spec(only(rendered(telemetry=telemetry), "StatefulSet"))["containers"]
        variables = {variable["name"]: variable for variable in container["env"]}
        headers = variables["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]
        self.assertEqual(headers, {"secretKeyRef": secret})
        self.assertEqual(variables["OTEL_TRACES_EXPORTER"]["value"], "none")
        self.assertNotIn("OTEL_METRICS_EXPORTER", variables)


class Scheduling(unittest.TestCase):
    def test_pods_keep_apart_from_their_own_kind(self):
        for choice in ("preferred", "required"):
            documents = rendered(antiAffinity=choice, dns={**DNS, "antiAffinity": choice})
            for kind in ("StatefulSet", "Deployment"):
                workload = only(documents, kind)
                spec = pod_spec(workload)
                [spread] = spec["topologySpreadConstraints"]
                rules = spec["affinity"]["podAntiAffinity"]
                [term] = rules[f"{choice}DuringSchedulingIgnoredDuringExecution"]
                term = term.get("podAffinityTerm", term)
                for selector in (spread["labelSelector"], term["labelSelector"]):
                    self.assertEqual(selector, workload["spec"]["selector"])
        self.assertNotIn("affinity", pod_spec(only(rendered(antiAffinity="none"), "StatefulSet")))

    def test_what_is_given_wins(self):
        selector = {"matchLabels": {"a": "b"}}
        spread = {"maxSkew": 1, "topologyKey": "x", "labelSelector": selector}
        affinity = {"podAffinity": {}}
        documents = rendered(affinity=affinity, topologySpreadConstraints=[spread])
        spec = pod_spec(only(documents, "StatefulSet"))
        self.assertEqual(spec["affinity"], affinity)
        self.assertEqual(spec["topologySpreadConstraints"], [spread])


class HelmTest(unittest.TestCase):
    def arguments(self, name, **values):
        pod = only(rendered(**values), "Pod", f"{FULL_NAME}-test-{name}")
        self.assertEqual(pod["metadata"]["annotations"]["helm.sh/hook"], "test")
        return pod["spec"]["containers"][0]["args"]

    def test_every_relay_is_probed_over_both_protocols(self):
        _, _, *addresses = self.arguments("relays", replicas=2, ports={"relay": 9100})
        hosts = [f"/dns/{FULL_NAME}-{index}.{HEADLESS}" for index in range(2)]
        expected = [[f"{host}/tcp/9100", f"{host}/udp/9100/quic-v1"] for host in hosts]
        self.assertEqual(addresses, sum(expected, []))

    def test_every_relay_is_found_in_dns(self):
        _, _, server, *names = self.arguments("dns", replicas=2, dns=DNS)
        self.assertEqual(server, f"--dns-server={FULL_NAME}-dns.{NAMESPACE}.svc.cluster.local")
        relays = [f"/dnsaddr/{FULL_NAME}-{index}.{ZONE}" for index in range(2)]
        self.assertEqual(names, [f"/dnsaddr/{ZONE}", *relays])
