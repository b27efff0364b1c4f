"""The OpenAPI description: it has every route of the API, and nothing else."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import BaseRoute, Route

from osbuild.fleet.application import make_application
from osbuild.fleet.authorities import load_authority
from osbuild.fleet.bundles import FileStore
from osbuild.fleet.database import Database
from osbuild.fleet.description import ApiRoute
from osbuild.fleet.operations.openapi import describe_api
from osbuild.fleet.operations.operation_table import OPERATIONS, find_operation
from osbuild.fleet.page.routes import page_routes
from osbuild.fleet.service import Service
from tests.support.update_server import running_server


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    database = Database(folder / "fleet.db")
    yield Service(database, FileStore(folder / "files"), load_authority(folder, "device-ca"), folder / "keyring.pem")
    database.close()


@pytest.fixture(scope="module")
def routes(service: Service) -> list[BaseRoute]:
    return list(make_application(service).routes)


def test_every_route_is_described_and_every_description_is_of_a_route(
    service: Service, routes: list[BaseRoute]
) -> None:
    pages = {route.path for route in page_routes(service) if isinstance(route, Route)}
    api = set()
    for route in routes:
        assert isinstance(route, Route) and route.methods is not None
        if route.path in pages:
            continue
        assert isinstance(route, ApiRoute), f"{route.path}: make it an ApiRoute, so that it is described"
        assert route.handlers.keys() == route.methods - {"HEAD"}
        api |= {(re.sub(r":\w+}", "}", route.path), method.lower()) for method in route.handlers}
    paths = describe_api(routes)["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == api
    assert len(api) > 40


def test_handlers_that_read_a_body_or_parameters_say_which(routes: list[BaseRoute]) -> None:
    for route in routes:
        for handler in (route.handlers if isinstance(route, ApiRoute) else {}).values():
            source, operation = inspect.getsource(handler), find_operation(handler)
            if re.search(r"read_body|request\.stream|store_feedback", source):
                assert operation.body is not None, f"{handler.__name__}: name the body in OPERATIONS"
            if "query_params" in source:
                assert operation.query, f"{handler.__name__}: name the parameters in OPERATIONS"


def test_schemas_are_valid_and_all_references_lead_to_one(routes: list[BaseRoute]) -> None:
    document = describe_api(routes)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    assert set(re.findall(r"#/components/schemas/(\w+)", repr(document))) <= schemas.keys()
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names) and {key.rpartition(".")[2] for key in OPERATIONS} <= {
        name.rpartition(".")[2] for name in names
    }
    assert schemas["ActionFeedback"]["required"] == ["status"]


def test_people_with_a_token_read_the_description(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, server.people() as people, server.anybody() as anybody:
        viewer = people.post("/tokens", json={"name": "ann", "role": "viewer"}).json()["token"]
        answer = anybody.get("/openapi.json", headers={"authorization": f"Bearer {viewer}"})
        assert answer.json()["openapi"] == "3.1.0" and "/healthz" in answer.json()["paths"]
        assert anybody.get("/openapi.json").status_code == 401
