"""Relays of a private network have its key and no QUIC."""

import unittest

from helm import environment, mounted, of_kind, only, rendered

CONTENTS = {
    "network": {"swarm.key": "the key"},
    "fleet-seed": {"seed": "the seed"},
}
PATH = "/etc/descord-relay/swarm-key/swarm.key"


class PrivateNetwork(unittest.TestCase):
    def test_relays_and_probes_have_the_key_and_no_quic(self):
        documents = rendered(swarmKeySecret={"name": "network"})
        relay = only(documents, "StatefulSet")
        variables = environment(relay)
        self.assertEqual(variables["RELAY_SWARM_KEY_FILE"], PATH)
        for name in ("RELAY_LISTEN_ADDRESSES", "RELAY_EXTERNAL_ADDRESSES"):
            self.assertIn("/tcp/", variables[name])
            self.assertNotIn("quic", variables[name])
        [probe] = of_kind(documents, "Pod")
        [container] = probe["spec"]["containers"]
        self.assertIn(f"--swarm-key={PATH}", container["args"])
        self.assertNotIn("quic", " ".join(container["args"]))
        for document in (relay, probe):
            self.assertEqual(mounted(document, CONTENTS)[PATH], "the key")

    def test_relays_of_the_public_network_have_none(self):
        variables = environment(only(rendered(), "StatefulSet"))
        self.assertNotIn("RELAY_SWARM_KEY_FILE", variables)
        self.assertIn("quic", variables["RELAY_LISTEN_ADDRESSES"])
