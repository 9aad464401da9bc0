"""Each relay has a separate external address, and announces it."""

import unittest

from helm import FULL_NAME, NAMESPACE, environment, of_kind, only, pod_spec, rendered


def announced(documents):
    addresses = environment(only(documents, "StatefulSet"))["RELAY_EXTERNAL_ADDRESSES"]
    # Placeholders are expanded as by the relay of the second pod.
    addresses = addresses.replace("{instance}", f"{FULL_NAME}-1").replace("{index}", "1")
    return addresses.split(",")


def exposed(kind, replicas=3, **values):
    return rendered(replicas=replicas, exposure={"type": kind, **values})


def relay_services(documents):
    return [
        service
        for service in of_kind(documents, "Service")
        if "statefulset.kubernetes.io/pod-name" in service["spec"]["selector"]
    ]


def on(host, port):
    return [f"{host}/tcp/{port}", f"{host}/udp/{port}/quic-v1"]


class Exposure(unittest.TestCase):
    def each_has_its_service(self, documents, kind, size=3):
        services = relay_services(documents)
        self.assertEqual(len(services), size)
        for index, service in enumerate(services):
            pod = f"{FULL_NAME}-{index}"
            spec = service["spec"]
            self.assertEqual(service["metadata"]["name"], pod)
            self.assertEqual(spec["type"], kind)
            self.assertEqual(spec["selector"]["statefulset.kubernetes.io/pod-name"], pod)
            # Until the end of the drain.
            self.assertTrue(spec["publishNotReadyAddresses"])
            tcp, quic = spec["ports"]
            self.assertEqual((tcp["protocol"], quic["protocol"]), ("TCP", "UDP"))
            self.assertEqual(tcp["port"], quic["port"])
            self.assertEqual(tcp.get("nodePort"), quic.get("nodePort"))
        return services

    def test_cluster_ip(self):
        documents = exposed("clusterIP")
        services = self.each_has_its_service(documents, "ClusterIP")
        self.assertNotIn("externalTrafficPolicy", services[0]["spec"])
        host = f"/dns4/{FULL_NAME}-1.{NAMESPACE}.svc.cluster.local"
        self.assertEqual(announced(documents), on(host, 9000))

    def test_node_port(self):
        documents = exposed("nodePort", replicas=10, firstNodePort=31010)
        services = self.each_has_its_service(documents, "NodePort", size=10)
        for index, service in enumerate(services):
            self.assertEqual(service["spec"]["ports"][0]["nodePort"], 31010 + index)
            self.assertEqual(service["spec"]["externalTrafficPolicy"], "Local")
        self.assertEqual(announced(documents), on("/ip4/192.0.2.1", 31011))

    def test_node_ports_that_are_announced_otherwise(self):
        address = "/dns4/{instance}.example.org/tcp/4001"
        documents = exposed(
            "nodePort", replicas=12, firstNodePort=31013, externalAddresses=[address]
        )
        self.each_has_its_service(documents, "NodePort", size=12)
        self.assertEqual(announced(documents), [f"/dns4/{FULL_NAME}-1.example.org/tcp/4001"])

    def test_load_balancer(self):
        documents = exposed(
            "loadBalancer",
            port=443,
            domain="relays.test",
            externalDns=True,
            annotations={"a": "{index}"},
        )
        services = self.each_has_its_service(documents, "LoadBalancer")
        self.assertEqual(services[2]["spec"]["ports"][1]["port"], 443)
        self.assertEqual(services[2]["spec"]["externalTrafficPolicy"], "Local")
        self.assertEqual(
            services[2]["metadata"]["annotations"],
            {
                "a": "2",
                "external-dns.alpha.kubernetes.io/hostname": f"{FULL_NAME}-2.relays.test",
            },
        )
        self.assertEqual(announced(documents), on(f"/dns4/{FULL_NAME}-1.relays.test", 443))

    def test_host_port(self):
        documents = exposed("hostPort", port=4001, domain="relays.test", externalDns=True)
        self.assertEqual(relay_services(documents), [])
        ports = pod_spec(only(documents, "StatefulSet"))["containers"][0]["ports"]
        self.assertEqual(
            [(port["hostPort"], port["protocol"]) for port in ports if "hostPort" in port],
            [(4001, "TCP"), (4001, "UDP")],
        )
        self.assertEqual(announced(documents), on(f"/dns4/{FULL_NAME}-1.relays.test", 4001))
        headless = only(documents, "Service", f"{FULL_NAME}-headless")
        self.assertEqual(
            headless["metadata"]["annotations"]["external-dns.alpha.kubernetes.io/hostname"],
            "relays.test",
        )

    def test_host_network(self):
        documents = exposed("hostNetwork")
        self.assertEqual(relay_services(documents), [])
        workload = only(documents, "StatefulSet")
        spec = pod_spec(workload)
        self.assertTrue(spec["hostNetwork"])
        self.assertEqual(spec["dnsPolicy"], "ClusterFirstWithHostNet")
        self.assertEqual(announced(documents), on("/ip4/192.0.2.1", 9000))
        # Only the kubelet on the node reaches the admin endpoints.
        self.assertEqual(environment(workload)["RELAY_ADMIN_ADDRESS"], "127.0.0.1:8080")
        for probe in ("livenessProbe", "readinessProbe"):
            self.assertEqual(spec["containers"][0][probe]["httpGet"]["host"], "127.0.0.1")
        self.assertEqual(of_kind(documents, "NetworkPolicy"), [])

    def test_only_host_modes_use_the_host(self):
        for kind in ("clusterIP", "nodePort"):
            spec = pod_spec(only(exposed(kind), "StatefulSet"))
            self.assertNotIn("hostNetwork", spec)
            self.assertFalse(
                [port for port in spec["containers"][0]["ports"] if "hostPort" in port]
            )

    def test_websocket(self):
        address = "/dns4/{instance}.example.org/tcp/443/tls/ws"
        documents = rendered(websocket={"enabled": True, "externalAddresses": [address]})
        self.assertEqual(
            announced(documents)[-1], f"/dns4/{FULL_NAME}-1.example.org/tcp/443/tls/ws"
        )
        variables = environment(only(documents, "StatefulSet"))
        self.assertIn("/ip4/0.0.0.0/tcp/9001/ws", variables["RELAY_LISTEN_ADDRESSES"].split(","))
        self.assertEqual(relay_services(documents)[0]["spec"]["ports"][2]["port"], 9001)
        policy = only(documents, "NetworkPolicy")
        self.assertIn({"port": 9001, "protocol": "TCP"}, policy["spec"]["ingress"][0]["ports"])

    def test_the_headless_service_shows_relays_that_drain(self):
        spec = only(exposed("clusterIP"), "Service", f"{FULL_NAME}-headless")["spec"]
        self.assertEqual(spec["clusterIP"], "None")
        self.assertTrue(spec["publishNotReadyAddresses"])

    def test_an_autoscaler_finds_services_and_names(self):
        documents = rendered(replicas=None, maxReplicas=6, dns={"enabled": True, "zone": "f.test"})
        self.each_has_its_service(documents, "ClusterIP", size=6)
        self.assertNotIn("replicas", only(documents, "StatefulSet")["spec"])
        instances = environment(only(documents, "Deployment"))["RELAY_FLEET_INSTANCES"]
        self.assertEqual(instances, ",".join(f"{FULL_NAME}-{index}" for index in range(6)))
