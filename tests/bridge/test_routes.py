"""Routes: read from the annotations, literals before variables, rests with slashes."""

from __future__ import annotations

import pytest
from spotplane_bridge.routes import Router, load_routes, load_services


def router(*routes: tuple[str, str]) -> Router[str]:
    made: Router[str] = Router()
    for method, template in routes:
        made.add(method, template, template)
    return made


def test_every_annotation_is_a_route() -> None:
    """Additional bindings are routes of their own."""
    routes = {(route.method, route.template): route for route in load_routes()}
    assert routes["PUT", "/admin/tenants/{id}"].rpc == "/spotplane.v1.TenantService/UpdateTenant"
    assert routes["GET", "/api/v1/admin/models/{id}"].binding == 1
    assert {service.name for service in load_services()} >= {"TenantService", "AgentService"}


def test_routes_of_the_whole_api_do_not_collide() -> None:
    """Two RPCs of one method and shape could not both be reached."""
    assert (
        router(*((route.method, route.template) for route in load_routes())).allowed("/admin") == []
    )


def test_literals_win_over_variables() -> None:
    """A name in the path is not taken for an id."""
    found = router(("GET", "/m/{id}"), ("GET", "/m/r2"), ("GET", "/m/r2/x"), ("GET", "/m/{id}/y"))
    assert found.find("GET", "/m/r2") == ("/m/r2", [])
    assert found.find("GET", "/m/r3") == ("/m/{id}", ["r3"])
    assert found.find("GET", "/m/r2/y") == ("/m/{id}/y", ["r2"])


def test_a_method_that_the_literal_lacks_is_the_variables() -> None:
    """A literal takes only the methods it has."""
    found = router(("GET", "/m/r2"), ("DELETE", "/m/{id}"))
    assert found.find("DELETE", "/m/r2") == ("/m/{id}", ["r2"])
    assert found.allowed("/m/r2") == ["DELETE", "GET"]
    assert found.find("PUT", "/m/r2") is None


@pytest.mark.parametrize("path", ["/v1/models/org/name", "/v1/models/org%2Fname"])
def test_a_rest_takes_slashes_raw_and_escaped(path: str) -> None:
    """Names of models contain slashes."""
    found = router(("GET", "/v1/models"), ("GET", "/v1/models/{model=**}"))
    assert found.find("GET", path) == ("/v1/models/{model=**}", ["org/name"])


def test_variables_are_decoded_once() -> None:
    """An escaped slash stays within its segment, an escaped percent sign is one."""
    found = router(("GET", "/t/{id}"), ("GET", "/t/{id}/k"))
    assert found.find("GET", "/t/a%2Fk") == ("/t/{id}", ["a/k"])
    assert found.find("GET", "/t/%2541") == ("/t/{id}", ["%41"])


@pytest.mark.parametrize("path", ["/t/", "/t//", "/t/a/", "//t/a", "", "/", "/T/a"])
def test_empty_segments_are_nothing(path: str) -> None:
    """A path with a slash too many is another path."""
    assert router(("GET", "/t/{id}"), ("GET", "/u")).find("GET", path) is None


@pytest.mark.parametrize("template", ["t", "/a/{b", "/a/{b}:verb", "/a/{b=**}/c", "/a/{b=x/*}"])
def test_what_cannot_be_served_stops_the_start(template: str) -> None:
    """An annotation that is not understood must not be left out silently."""
    with pytest.raises(ValueError, match=r"path|last"):
        Router[str]().add("GET", template, "")


def test_one_shape_has_one_route() -> None:
    with pytest.raises(ValueError, match="taken"):
        router(("GET", "/t/{id}"), ("GET", "/t/{other}"))
