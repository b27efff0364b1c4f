"""Metrics of the update server in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from osbuild.fleet.service import Service
from osbuild.fleet.tables import actions, bundles, devices, rollouts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_AGE = 10_000  # milliseconds for which counts are kept, because a count reads many rows
SEEN_WITHIN = 3600_000  # milliseconds
BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # seconds
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class RequestMetrics(Collector):
    """Counts requests by method, route and status, and measures their durations.

    They are plain numbers until somebody reads them: a counter of Prometheus' library takes a tenth of a poll.
    """

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._buckets: dict[tuple[str, str], list[int]] = {}  # requests by duration: up to each bound, and longer
        self._seconds: dict[tuple[str, str], float] = {}

    def count(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count a request. `route` is the path of its route, with the names of its parameters."""
        method = method if method in METHODS else "other"
        self._requests[method, route, status] += 1
        key = (method, route)
        if key not in self._buckets:
            self._buckets[key] = [0] * (len(BUCKETS) + 1)
        self._buckets[key][bisect_left(BUCKETS, seconds)] += 1
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "edge_fleet_requests", "Requests that were answered.", labels=("method", "route", "status")
        )
        for labels, number in self._requests.items():
            requests.add_metric(labels, number)
        durations = HistogramMetricFamily(
            "edge_fleet_request_seconds", "Time to answer a request.", labels=("method", "route")
        )
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        for key, numbers in self._buckets.items():
            durations.add_metric(key, list(zip(bounds, accumulate(numbers), strict=True)), self._seconds[key])
        yield from (requests, durations)


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
        free = self._service.files.free_space()
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
        self.requests = RequestMetrics()
        self._registry.register(self.requests)

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
