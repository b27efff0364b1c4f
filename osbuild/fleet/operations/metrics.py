"""Metrics of the update server in Prometheus' text format."""

import os
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from osbuild.fleet.service import Service
from osbuild.fleet.tables import actions, bundles, devices, rollouts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_AGE = 10_000  # milliseconds for which counts are kept, because a count reads many rows
SEEN_WITHIN = 3600_000  # milliseconds
BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # seconds
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class RequestMetrics:
    """Counts requests by method, route and status, and measures their durations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "edge_fleet_requests", "Requests that were answered.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "edge_fleet_request_seconds", "Time to answer a request.", ("method", "route"), buckets=BUCKETS,
            registry=registry,
        )  # fmt: skip
        # `labels` takes longer than everything else here.
        self._known: dict[tuple[str, str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}

    def count(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count a request. `route` is the path of its route, with the names of its parameters."""
        key = (method if method in METHODS else "other", route, status)
        known = self._known.get(key)
        if known is None:
            counter, histogram = self._requests.labels(*key), self._seconds.labels(*key[:2])
            known = self._known[key] = counter.inc, histogram.observe
        increment, observe = known
        increment()
        observe(seconds)


class FleetCollector(Collector):
    """Counts devices, actions and rollouts in the database, at most every `MOST_AGE` milliseconds."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counted = -MOST_AGE
        self._families: list[GaugeMetricFamily] = []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = self._service.clock()
        if now - self._counted >= MOST_AGE:
            self._families = self._service.database.read(lambda connection: count_fleet(connection, now))
            self._counted = now
        yield from self._families
        storage = os.statvfs(self._service.files.folder)
        free = storage.f_bavail * storage.f_frsize
        yield GaugeMetricFamily("edge_fleet_free_bytes", "Free space where bundles are stored.", free)


def count_fleet(connection: Connection, now: int) -> list[GaugeMetricFamily]:
    """Return what is in the database."""
    used = devices.c.decommissioned.is_(None)
    seen = used & (devices.c.last_seen > now - SEEN_WITHIN)
    every = GaugeMetricFamily("edge_fleet_devices", "Devices in use.")
    every.add_metric([], connection.execute(select(func.count()).where(used)).scalar_one())
    recent = GaugeMetricFamily("edge_fleet_devices_seen", "Devices that were seen in the last hour.")
    recent.add_metric([], connection.execute(select(func.count()).where(seen)).scalar_one())
    installed = GaugeMetricFamily(
        "edge_fleet_devices_installed", "Devices by the last bundle that they have installed.",
        labels=("bundle", "version"),
    )  # fmt: skip
    joined = devices.join(actions, actions.c.id == devices.c.installed_action).join(bundles)
    grouped = select(bundles.c.name, bundles.c.version, func.count()).select_from(joined).where(used)
    for name, version, count in connection.execute(grouped.group_by(bundles.c.name, bundles.c.version)):
        installed.add_metric([name, version], count)
    active = GaugeMetricFamily("edge_fleet_active_actions", "Actions that have not ended, by state.", labels=("state",))
    grouped_actions = select(actions.c.state, func.count()).where(actions.c.active).group_by(actions.c.state)
    for state, count in connection.execute(grouped_actions):
        active.add_metric([state], count)
    staged = GaugeMetricFamily("edge_fleet_rollouts", "Rollouts by state.", labels=("state",))
    for state, count in connection.execute(select(rollouts.c.state, func.count()).group_by(rollouts.c.state)):
        staged.add_metric([state], count)
    return [every, recent, installed, active, staged]


class Metrics:
    """All metrics of one server."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(FleetCollector(service))
        self.requests = RequestMetrics(self._registry)

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
