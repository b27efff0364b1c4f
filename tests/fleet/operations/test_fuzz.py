"""Requests that are made from the OpenAPI description, by schemathesis, against a running server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.examples import examples
from tests.support.update_server import BASE, RunningServer, enrol_with_update, running_server

CHECKS = [
    status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
]  # fmt: skip
ROLES = ("viewer", "operator", "admin")
DEVICE = "shop-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    """A server with a device that has an action, a rollout, and a token of each role."""
    with running_server(folder) as server:
        enrol_with_update(server, DEVICE, folder)
        server.create_rollout("winter", 1, 100, kind="soft")
        yield server
    assert server.process.stderr is not None
    defects = [line for line in server.process.stderr if "has failed" in line or "Traceback" in line]
    assert defects == []


@pytest.fixture(scope="module")
def api(server: RunningServer) -> Any:
    with server.anybody() as anybody:
        document = anybody.get("/openapi.json", headers={"authorization": f"Bearer {server.token}"}).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.url)
    return schema


def sessions(server: RunningServer) -> requests.Session:
    session = requests.Session()
    session.verify = str(server.data / "tls/server-ca.crt")
    session.trust_env = False
    return session


def operations(api: Any, prefix: str) -> list[Any]:
    found = [result.ok() for result in api.get_all_operations()]
    chosen = [operation for operation in found if operation.path.startswith(prefix)]
    assert len(chosen) > 10
    return chosen


def cases(operation: Any, known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Requests for an operation, valid and invalid ones. Half of them are for things that exist."""
    names = [parameter.name for parameter in operation.path_parameters]
    values = st.fixed_dictionaries({name: known[name] for name in names if name in known})
    made = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    return st.one_of(
        [*made, *(values.flatmap(lambda chosen: operation.as_strategy(path_parameters=chosen)) for _ in "12")]
    )


def check_answer(case: Any, session: requests.Session, headers: dict[str, str]) -> None:
    response = case.call(session=session, headers=headers, verify=session.verify, cert=session.cert)
    assert response.status_code < 500 or case.operation.path == "/readyz"
    case.validate_response(response, checks=CHECKS)


def test_a_device_gets_documented_answers_only(api: Any, server: RunningServer, folder: Path) -> None:
    known = {
        "tenant": st.just("DEFAULT"), "device": st.just(DEVICE), "action": st.integers(0, 3),
        "bundle": st.integers(0, 2), "request": st.integers(0, 2),
        "name": st.sampled_from(["one.raucb", "one.raucb.MD5SUM"]),
    }  # fmt: skip
    requested = st.sampled_from(operations(api, BASE.replace("DEFAULT", "{tenant}"))).flatmap(
        lambda operation: cases(operation, known)
    )
    with sessions(server) as session:
        session.cert = (str(folder / f"{DEVICE}.crt"), str(folder / f"{DEVICE}.key"))

        @hypothesis.settings(max_examples=examples(750), deadline=None, suppress_health_check=list(HealthCheck))
        @given(requested)
        def send(case: Any) -> None:
            check_answer(case, session, {})

        send()


def test_people_get_documented_answers_only(api: Any, server: RunningServer) -> None:
    tokens = {"admin": server.token}
    with server.people() as people:
        for role in ROLES[:2]:
            tokens[role] = people.post("/tokens", json={"name": role, "role": role}).json()["token"]
    known = {
        "name": st.sampled_from([DEVICE, "winter"]), "action": st.integers(0, 3), "number": st.integers(0, 3),
        "filename": st.just("one.raucb"),
    }  # fmt: skip
    # A device that is decommissioned would answer no more.
    kept = [one for one in operations(api, "/") if (one.method, one.path) != ("delete", "/api/v1/devices/{name}")]
    requested = st.sampled_from(kept).flatmap(lambda operation: cases(operation, known))
    with sessions(server) as session:

        @hypothesis.settings(max_examples=examples(750), deadline=None, suppress_health_check=list(HealthCheck))
        @given(requested, st.sampled_from(ROLES))
        def send(case: Any, role: str) -> None:
            check_answer(case, session, {"authorization": f"Bearer {tokens[role]}"})

        send()
