"""The grace period follows from the drain, and values that may cut circuits require an opt-in."""

import os
import subprocess
import unittest

from helm import environment, only, pod_spec, rendered


def grace(**drain):
    workload = only(rendered(drain=drain), "StatefulSet")
    return pod_spec(workload)["terminationGracePeriodSeconds"]


class Drain(unittest.TestCase):
    def test_the_defaults_cut_nothing(self):
        self.assertEqual(grace(), 10 + 3660 + 30)

    def test_the_timeout_follows_from_the_longest_circuit(self):
        for values, seconds in [
            ({"relay": {"maxCircuitDuration": "6h"}}, 6 * 3600 + 60),
            ({"relay": {"maxCircuitDuration": None}}, 3660),
            ({"relay": {"maxCircuitDuration": 0}, "drain": {"allowCuts": True}}, 3660),
        ]:
            with self.subTest(values):
                workload = only(rendered(**values), "StatefulSet")
                period = pod_spec(workload)["terminationGracePeriodSeconds"]
                self.assertEqual(period, 10 + seconds + 30)
                self.assertNotIn("RELAY_DRAIN_TIMEOUT", environment(workload))
                # The default that the relay derives.
                name = "RELAY_MAX_CIRCUIT_DURATION"
                variables = {key: value for key, value in environment(workload).items() if key == name}
                shown = subprocess.run(
                    [os.environ["RELAY_BIN"], "config"],
                    env=variables,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                timeout = f"RELAY_DRAIN_TIMEOUT={seconds // 3600}h1m"
                self.assertIn(timeout, shown.splitlines())

    def test_durations_are_read_as_the_relay_reads_them(self):
        for text, seconds in [
            ("90s", 90),
            ("5m", 300),
            ("1h 30m", 5400),
            ("1h30m", 5400),
            ("1d 1s", 86401),
            ("2h 3m 4s 5ms", 7385),  # never less than what was asked for
            ("1500ms", 2),
            ("36000000ms", 36000),
            ("90 s", 90),
            ("1s 1s", 2),
            ("0", 0),
            (0, 0),
        ]:
            with self.subTest(text):
                window = {"window": "0"}
                self.assertEqual(
                    grace(delay="0", timeout=text, allowCuts=True, **window), seconds + 30
                )

    def test_delay_and_timeout_are_added(self):
        self.assertEqual(grace(delay="1500ms", timeout="2h 500ms"), 7202 + 30)

    def test_a_fleet_that_may_cut_says_so(self):
        self.assertEqual(grace(timeout="10m", allowCuts=True), 10 + 600 + 30)

    def test_relays_are_upgraded_one_by_one(self):
        spec = only(rendered(), "StatefulSet")["spec"]
        self.assertEqual(
            spec["updateStrategy"], {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
        )
        self.assertEqual(spec["podManagementPolicy"], "Parallel")
        self.assertGreater(spec["minReadySeconds"], 0)

    def test_a_budget_of_zero_is_a_budget(self):
        for given, expected in [
            ({}, {"maxUnavailable": 1}),
            ({"maxUnavailable": 0}, {"maxUnavailable": 0}),
            ({"minAvailable": 0}, {"minAvailable": 0}),
            ({"minAvailable": "50%"}, {"minAvailable": "50%"}),
        ]:
            with self.subTest(given):
                spec = only(rendered(podDisruptionBudget=given), "PodDisruptionBudget")["spec"]
                del spec["selector"], spec["unhealthyPodEvictionPolicy"]
                self.assertEqual(spec, expected)
