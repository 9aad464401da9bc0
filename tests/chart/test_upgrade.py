"""Upgrades preserve names, identities, selectors and ports."""

import functools
import unittest

from cluster import Cluster
from helm import (
    FULL_NAME,
    HELMS,
    NAMESPACE,
    Refused,
    of_kind,
    only,
    pod_spec,
    rendered,
    template,
)

NAMESPACE_OBJECT = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
KEPT = "c2VlZCBvZiB0aGUgZmxlZXQ="


def ours(kind, name, version="v1", **fields):
    """An object of this release as stored in the cluster."""
    owner = {
        "meta.helm.sh/release-name": "edge",
        "meta.helm.sh/release-namespace": NAMESPACE,
    }
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "annotations": owner,
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


SECRET = ours("Secret", f"{FULL_NAME}-identity", data={"seed": KEPT})


def live_relays(count):
    return ours("StatefulSet", FULL_NAME, "apps/v1", status={"replicas": count})


CHANGES = [
    {"image": {"tag": "9.9.9"}},
    {"replicas": 5},
    {"relay": {"maxCircuits": 7}},
    {"drain": {"timeout": "2h"}},
    {"dns": {"enabled": True, "zone": "fleet.test"}},
    {"telemetry": {"endpoint": "http://collector:4318"}},
    {"commonLabels": {"team": "x"}},
    {"podLabels": {"team": "x"}},
    {"networkPolicy": {"enabled": False}},
    {"access": {"connectDeny": ["192.0.2.0/24"], "url": "https://members.test"}},
    {"websocket": {"enabled": True, "externalAddresses": ["/dns4/a.test/tcp/443/tls/ws"]}},
]


class Unchanged(unittest.TestCase):
    def test_selectors_names_and_ports(self):
        for exposure in ({}, {"type": "nodePort"}, {"type": "hostPort"}):
            before = rendered(exposure=exposure)
            for change in CHANGES:
                with self.subTest(change, exposure=exposure):
                    self.keeps(before, rendered(exposure=exposure, **change))

    def keeps(self, before, after):
        old, new = only(before, "StatefulSet")["spec"], only(after, "StatefulSet")["spec"]
        # These fields are immutable.
        for field in ("serviceName", "selector", "podManagementPolicy"):
            self.assertEqual(old[field], new[field])
        self.starts_with(
            self.ports(only(before, "StatefulSet")), self.ports(only(after, "StatefulSet"))
        )
        self.assertEqual(
            pod_spec(only(before, "StatefulSet"))["volumes"],
            pod_spec(only(after, "StatefulSet"))["volumes"],
        )
        for service in of_kind(before, "Service"):
            again = only(after, "Service", service["metadata"]["name"])
            self.assertEqual(service["spec"]["selector"], again["spec"]["selector"])
            self.starts_with(service["spec"]["ports"], again["spec"]["ports"])

    def ports(self, workload):
        ports = pod_spec(workload)["containers"][0]["ports"]
        return [port for port in ports if port["name"] in ("tcp", "quic")]

    def starts_with(self, old, new):
        both = [port for port in old if port["name"] in ("tcp", "quic")]
        self.assertEqual(both, new[: len(both)])

    def test_pods_stay_as_they_are_when_the_fleet_grows(self):
        before, after = rendered(replicas=3), rendered(replicas=5)
        self.assertEqual(
            only(before, "StatefulSet")["spec"]["template"],
            only(after, "StatefulSet")["spec"]["template"],
        )


class Live(unittest.TestCase):
    """Checks that require lookups in the cluster."""

    def each(self, objects, values, upgrade=True, helms=HELMS):
        for helm in helms:
            with self.subTest(helm=helm), Cluster([NAMESPACE_OBJECT, *objects]) as cluster:
                render = functools.partial(
                    template, values, helm=helm, cluster=cluster, upgrade=upgrade
                )
                yield helm, render

    def test_the_first_install_makes_a_seed(self):
        seeds = set()
        for _, render in self.each([], {}, upgrade=False):
            secret = only(render(), "Secret")
            self.assertEqual(secret["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
            seeds.add(secret["data"]["seed"])
        self.assertEqual(len(seeds), len(HELMS))

    def test_an_upgrade_keeps_the_seed(self):
        for upgrade in (True, False):
            for _, render in self.each([SECRET], {}, upgrade):
                self.assertEqual(only(render(), "Secret")["data"]["seed"], KEPT)

    def test_an_upgrade_makes_no_seed(self):
        for _, render in self.each([], {}):
            self.assertRaisesRegex(
                Refused, "the Secret edge-descord-relay-identity .* is missing", render
            )

    def test_a_relay_that_drains_keeps_its_service(self):
        objects = [SECRET, live_relays(4)]
        for _, render in self.each(objects, {"replicas": 2}):
            self.assertRaisesRegex(Refused, "set maxReplicas to 4", render)
        for _, render in self.each(objects, {"replicas": 2, "maxReplicas": 4}):
            self.assertEqual(only(render(), "StatefulSet")["spec"]["replicas"], 2)

    def test_an_autoscaler_is_not_overruled(self):
        live = {**live_relays(5), "spec": {"replicas": 5}}
        values = {"replicas": None, "maxReplicas": 9}
        for _, render in self.each([SECRET, live], values):
            self.assertEqual(only(render(), "StatefulSet")["spec"]["replicas"], 5)

    def test_helm_3_does_not_lose_a_protocol(self):
        to_node_ports = {"exposure": {"type": "nodePort"}}
        for kind, node_port, lost, kept in [
            ("ClusterIP", None, {"exposure": {"port": 443}}, {}),
            (
                "ClusterIP",
                None,
                to_node_ports,
                {"exposure": {"type": "loadBalancer", "domain": "x.test"}},
            ),
            # Kubernetes allocates node ports for load balancers.
            ("LoadBalancer", 32000, to_node_ports, {}),
            ("NodePort", 30900, {}, to_node_ports),
            (
                "NodePort",
                31000,
                to_node_ports,
                {"exposure": {"type": "nodePort", "firstNodePort": 31000}},
            ),
        ]:
            ports = [
                {"name": name, "port": 9000, "nodePort": node_port, "protocol": protocol}
                for name, protocol in (("tcp", "TCP"), ("quic", "UDP"))
            ]
            service = ours("Service", f"{FULL_NAME}-0", spec={"type": kind, "ports": ports})
            for helm, render in self.each([SECRET, service], lost):
                if helm == 3:
                    self.assertRaisesRegex(Refused, "Helm 3 would lose TCP or UDP", render)
                else:
                    render()
            for _, render in self.each([SECRET, service], kept):
                render()

    def test_helm_3_does_not_lose_a_protocol_of_the_name_server(self):
        def dns(**service):
            return {"dns": {"enabled": True, "zone": "fleet.test", "service": service}}

        for kind, node_port, lost, kept in [
            ("ClusterIP", None, dns(type="NodePort", nodePort=30053), dns()),
            ("ClusterIP", None, dns(type="NodePort", nodePort=30053), dns(type="NodePort")),
            (
                "NodePort",
                30053,
                dns(type="NodePort", nodePort=30054),
                dns(type="NodePort", nodePort=30053),
            ),
            ("NodePort", 30053, dns(), dns(type="NodePort")),
            (
                "LoadBalancer",
                31053,
                dns(type="NodePort", nodePort=30053),
                dns(type="LoadBalancer"),
            ),
        ]:
            ports = [
                {"name": name, "port": 53, "nodePort": node_port, "protocol": protocol}
                for name, protocol in (("dns-udp", "UDP"), ("dns-tcp", "TCP"))
            ]
            service = ours("Service", f"{FULL_NAME}-dns", spec={"type": kind, "ports": ports})
            for helm, render in self.each([SECRET, service], lost):
                if helm == 3:
                    self.assertRaisesRegex(Refused, "delete service edge-descord-relay-dns", render)
                else:
                    render()
            for _, render in self.each([SECRET, service], kept):
                render()

    def test_no_port_of_a_pod_is_lost(self):
        for host_port, lost, kept in [
            (None, {"ports": {"relay": 9100}}, {"exposure": {"port": 443}}),
            (None, {"exposure": {"type": "hostPort"}}, {}),
            (
                4001,
                {"exposure": {"type": "hostPort"}},
                {"exposure": {"type": "hostPort", "port": 4001}},
            ),
            # Kubernetes added it, and an upgrade would not remove it.
            (9000, {}, {"exposure": {"type": "hostNetwork"}}),
        ]:
            ports = [
                {"name": name, "containerPort": 9000, "hostPort": host_port, "protocol": protocol}
                for name, protocol in (("tcp", "TCP"), ("quic", "UDP"))
            ]
            injected = {"name": "injected", "ports": [{"containerPort": 15090}]}
            containers = [{"name": "bare"}, injected, {"name": "relay", "ports": ports}]
            pods = {"spec": {"containers": containers}}
            live = {**live_relays(3), "spec": {"replicas": 3, "template": pods}}
            for _, render in self.each([SECRET, live], lost):
                self.assertRaisesRegex(Refused, "delete statefulset .* --cascade=orphan", render)
            for _, render in self.each([SECRET, live], kept):
                render()
