"""The realm for Keycloak gives each of our scopes, to whom it should, and to nobody else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.contracts.access import SERVICE_SCOPE, Scope, Service
from order_service.settings import Settings
from tests.issuer_process import BUYER

FOLDER = Path(__file__).parents[2] / "deploy" / "keycloak"
STAFF_ONLY = {"orders:admin", "stock:write", "payments:refund"}
ORDER_SCOPE = f"{SERVICE_SCOPE}{Service.ORDER}"
AUDIENCE_SCOPE = "vv-ecommerce-audience"


@pytest.fixture(scope="module")
def text() -> str:
    return (FOLDER / "realm.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def realm(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def named(items: list[dict[str, Any]], name: str, key: str = "name") -> dict[str, Any]:
    [found] = [item for item in items if item[key] == name]
    return found


def client(realm: dict[str, Any], client_id: str) -> dict[str, Any]:
    return named(realm["clients"], client_id, "clientId")


def scopes_of(client: dict[str, Any]) -> list[str]:
    return [*client["defaultClientScopes"], *client["optionalClientScopes"]]


def role_of(realm: dict[str, Any], scope: str) -> str:
    """The role that a user must have for a scope."""
    [role] = named(realm["scopeMappings"], scope, "clientScope")["roles"]
    return str(role)


def test_it_has_our_scopes_and_no_others(realm: dict[str, Any]) -> None:
    """Each stands in the claim ``scope`` of the token. A scope that no service knows would be a typing mistake."""
    shown = [
        scope["name"]
        for scope in realm["clientScopes"]
        if scope["attributes"]["include.in.token.scope"] == "true" and scope["protocol"] == "openid-connect"
    ]
    assert sorted(shown) == sorted([*Scope, ORDER_SCOPE])


@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_needs_its_role(scope: Scope, realm: dict[str, Any]) -> None:
    """Without a mapping Keycloak would give it to everybody. Staff's must be asked for, buyers' are there always."""
    shop = client(realm, "shop-web")
    if scope in BUYER:
        assert role_of(realm, scope) == "buyer"
        assert scope in shop["defaultClientScopes"]
    else:
        assert scope in STAFF_ONLY
        assert role_of(realm, scope) == "staff"
        assert scope in shop["optionalClientScopes"]


def test_groups_have_their_roles(realm: dict[str, Any]) -> None:
    """Buyers are buyers, staff are buyers as well, and a new user is no more than a buyer."""
    assert {group["path"]: set(group["realmRoles"]) for group in realm["groups"]} == {
        "/buyers": {"buyer"},
        "/staff": {"buyer", "staff"},
    }
    assert realm["defaultGroups"] == ["/buyers"]
    assert not realm["registrationAllowed"]


def test_roles_contain_no_others(realm: dict[str, Any]) -> None:
    """Keycloak gives a scope to whoever has any role within its role: a composite would open staff's to buyers."""
    roles = realm["roles"]["realm"]
    assert {role["name"] for role in roles} == {"buyer", "staff"}
    assert [role for role in roles if role.get("composite") or role.get("composites")] == []


def test_the_service_scope_is_the_order_services_alone(realm: dict[str, Any]) -> None:
    """Its client has that scope only, has tokens of its own, and none of anybody who logs in."""
    holders = [found["clientId"] for found in realm["clients"] if ORDER_SCOPE in scopes_of(found)]
    assert holders == ["order-service"]
    defaults = [*realm["defaultDefaultClientScopes"], *realm["defaultOptionalClientScopes"]]
    assert not {ORDER_SCOPE, AUDIENCE_SCOPE, *Scope} & set(defaults)
    service = client(realm, "order-service")
    assert set(scopes_of(service)) == {"basic", AUDIENCE_SCOPE, ORDER_SCOPE}
    assert service["serviceAccountsEnabled"]
    assert not service["publicClient"]
    flows = ("standardFlowEnabled", "implicitFlowEnabled", "directAccessGrantsEnabled")
    assert [flow for flow in flows if service[flow]] == []


def test_the_shop_logs_in_by_code_and_pkce(realm: dict[str, Any]) -> None:
    """A public client: no implicit flow, no passwords that pass through the shop, and exact addresses to return to."""
    shop = client(realm, "shop-web")
    assert (shop["publicClient"], shop["standardFlowEnabled"]) == (True, True)
    others = ("implicitFlowEnabled", "directAccessGrantsEnabled", "serviceAccountsEnabled", "fullScopeAllowed")
    assert [flow for flow in others if shop[flow]] == []
    assert shop["attributes"]["pkce.code.challenge.method"] == "S256"
    assert [uri for uri in [*shop["redirectUris"], *shop["webOrigins"]] if "*" in uri or "+" in uri] == []


@pytest.mark.parametrize("client_id", ["order-service", "shop-web"])
def test_tokens_have_our_audience_and_a_subject(client_id: str, realm: dict[str, Any]) -> None:
    """Both come from scopes which every token of the client has; the audience is the one that services expect."""
    assert {"basic", AUDIENCE_SCOPE} <= set(client(realm, client_id)["defaultClientScopes"])
    [subject] = named(realm["clientScopes"], "basic")["protocolMappers"]
    assert (subject["protocolMapper"], subject["config"]["access.token.claim"]) == ("oidc-sub-mapper", "true")
    [audience] = named(realm["clientScopes"], AUDIENCE_SCOPE)["protocolMappers"]
    assert (audience["protocolMapper"], audience["config"]["access.token.claim"]) == ("oidc-audience-mapper", "true")
    assert audience["config"]["included.custom.audience"] == Settings.model_fields["auth_audience"].default


def test_names_that_are_used_exist(realm: dict[str, Any]) -> None:
    """Keycloak skips a scope that does not exist, and makes a role that does not: neither says that it failed."""
    scopes = {scope["name"] for scope in realm["clientScopes"]}
    used = {scope for found in realm["clients"] for scope in scopes_of(found)}
    assert used | {mapping["clientScope"] for mapping in realm["scopeMappings"]} <= scopes
    roles = {role["name"] for role in realm["roles"]["realm"]}
    assert {role for mapping in realm["scopeMappings"] for role in mapping["roles"]} <= roles
    assert {role for group in realm["groups"] for role in group["realmRoles"]} <= roles


def test_tokens_are_short_and_the_file_has_no_secrets(realm: dict[str, Any], text: str) -> None:
    """Five minutes; what is secret comes from the environment, and the page says how."""
    assert realm["accessTokenLifespan"] == 300
    assert realm["defaultSignatureAlgorithm"] == "RS256"
    assert "users" not in realm
    assert "components" not in realm
    assert re.findall(r'"secret": "(.*)"', text) == ["${ORDER_SERVICE_SECRET}"]
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"\$\{(\w+)\}", text) if f"export {name}=" not in page] == []
