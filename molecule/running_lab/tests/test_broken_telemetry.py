"""Telemetry that is broken is an error that names the broken part: a missing edge never passes for a denial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fleet import verify
from running_lab import Lab


@contextmanager
def scaled_to_zero(lab: Lab, name: str) -> Iterator[None]:
    """A Deployment of istio-system without a pod, and as it was afterwards."""
    deployment = ("-n", "istio-system", f"deployment/{name}")
    try:
        lab.kubectl("scale", *deployment, "--replicas=0")
        lab.kubectl("wait", "-n", "istio-system", "--for=delete", "pod", "-l", f"app={name}", "--timeout=30s")
        yield
    finally:
        lab.kubectl("scale", *deployment, "--replicas=1")
        lab.kubectl("rollout", "status", *deployment, "--timeout=60s")


def test_no_prometheus_is_an_error_that_names_it(lab: Lab) -> None:
    """curl-deny has no edge then, and that proves nothing."""
    with scaled_to_zero(lab, "prometheus"):
        run = verify(lab.folder, "l4")
    assert run.returncode != 0
    assert "why:  Prometheus (istio-system/prometheus) does not answer" in run.stdout


def test_no_kiali_is_an_error_that_names_it(lab: Lab) -> None:
    """Nobody draws anything."""
    with scaled_to_zero(lab, "kiali"):
        run = verify(lab.folder, "l4")
    assert run.returncode != 0
    assert "why:  Kiali (istio-system/kiali) does not answer" in run.stdout


def test_a_waypoint_that_does_not_count_is_an_error_that_names_it(lab: Lab) -> None:
    """The exporter is cut off; the waypoint goes on refusing, as the curl claims of the same run show."""
    waypoint = ("-n", "layer7", "deployment/waypoint")
    pods = ("pod", "-n", "layer7", "-l", "gateway.networking.k8s.io/gateway-name=waypoint")
    (pod,) = lab.get(*pods)["items"]
    try:
        lab.kubectl("exec", *waypoint, "--", "rm", "/etc/istio/proxy/metrics")
        run = verify(lab.folder, "l7")
    finally:
        lab.kubectl("rollout", "restart", *waypoint)
        lab.kubectl("rollout", "status", *waypoint, "--timeout=60s")
        lab.kubectl("wait", "-n", "layer7", "--for=delete", f"pod/{pod['metadata']['name']}", "--timeout=60s")
    assert run.returncode != 0
    assert "has no istio_requests_total" in run.stdout
