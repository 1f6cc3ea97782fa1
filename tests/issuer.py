"""An OpenID Connect issuer for tests, as a process of its own: ``python -m tests.issuer --port N``.

It speaks the protocol of Keycloak, with the paths and claims that one has: discovery, JWKS, and tokens for users
(password) and services (client credentials). ``--control-port`` is for tests; it answers also while the issuer is down.
"""

import argparse
import asyncio
import json
import signal
from typing import Any

from aiohttp import web

from tests.issuer_realm import HOST, REALM, Behaviour, Client, Issuer, OAuthError, User

_HUGE_BYTES = 2 * 1024 * 1024


class Server:
    """The issuer on its two ports."""

    def __init__(self, port: int, control_port: int) -> None:
        self._port, self._control_port = port, control_port
        self.issuer = Issuer(f"http://{HOST}:{port}{REALM}")
        self._site: web.TCPSite | None = None
        self._public = web.AppRunner(self._public_app(), access_log=None, shutdown_timeout=0.1)
        self._control = web.AppRunner(self._control_app(), access_log=None, shutdown_timeout=0.1)

    async def run(self) -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await self._public.setup()
        await self._control.setup()
        try:
            await self._listen(True)
            await web.TCPSite(self._control, HOST, self._control_port).start()
            await stopped.wait()
        finally:
            await self._public.cleanup()
            await self._control.cleanup()

    async def _listen(self, wanted: bool) -> None:
        """Open or close the port; closing it cuts the connections that are kept."""
        if wanted and self._site is None:
            self._site = web.TCPSite(self._public, HOST, self._port, backlog=1024, reuse_address=True)
            await self._site.start()
        elif not wanted and self._site is not None:
            await self._site.stop()
            self._site = None
            assert self._public.server is not None
            self._public.server.pre_shutdown()

    def _public_app(self) -> web.Application:
        app = web.Application(middlewares=[self._trouble])
        app.router.add_get(f"{REALM}/.well-known/openid-configuration", self._discovery, name="discovery")
        app.router.add_get(f"{REALM}/protocol/openid-connect/certs", self._jwks, name="jwks")
        app.router.add_post(f"{REALM}/protocol/openid-connect/token", self._token, name="token")
        return app

    @web.middleware
    async def _trouble(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.issuer.asked[request.match_info.route.name or "other"] += 1
        match self.issuer.behaviour.mode:
            case "unavailable":
                raise web.HTTPServiceUnavailable
            case "hang":
                await asyncio.sleep(3_600)
        response: web.StreamResponse = await handler(request)
        return response

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(self.issuer.discovery())

    async def _jwks(self, request: web.Request) -> web.StreamResponse:
        behaviour = self.issuer.behaviour
        match behaviour.mode:
            case "garbage":
                return web.Response(text="<html>not now</html>", content_type="text/html")
            case "not_keys":
                return web.json_response({"keys": [7, None, {"kty": "RSA"}, {"kty": "oct", "kid": "x", "k": "eA"}]})
            case "redirect":
                raise web.HTTPFound(behaviour.elsewhere)
            case "huge":
                return await _huge(request, self.issuer.keys.jwks())
        return web.json_response(self.issuer.keys.jwks())

    async def _token(self, request: web.Request) -> web.Response:
        unstored = {"Cache-Control": "no-store", "Pragma": "no-cache"}
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        try:
            answer = self.issuer.grant(form, request.headers.get("Authorization"))
        except OAuthError as error:
            return web.json_response(error.body, status=error.status, headers={**unstored, **error.headers})
        return web.json_response(answer, headers=unstored)

    def _control_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/livez", self._alive)
        app.router.add_put("/behaviour", self._behave)
        app.router.add_put("/users/{name}", self._set_user)
        app.router.add_put("/clients/{name}", self._set_client)
        app.router.add_post("/rotate", self._rotate)
        app.router.add_get("/keys", self._private_keys)
        app.router.add_get("/asked", self._asked)
        return app

    async def _alive(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _behave(self, request: web.Request) -> web.Response:
        changes = Behaviour.model_validate_json(await request.read()).model_dump(exclude_unset=True)
        self.issuer.behaviour = self.issuer.behaviour.model_copy(update=changes)
        await self._listen(self.issuer.behaviour.mode != "refuse")
        return web.json_response(self.issuer.behaviour.model_dump())

    async def _set_user(self, request: web.Request) -> web.Response:
        self.issuer.users[request.match_info["name"]] = User.model_validate_json(await request.read())
        return web.json_response({})

    async def _set_client(self, request: web.Request) -> web.Response:
        self.issuer.clients[request.match_info["name"]] = Client.model_validate_json(await request.read())
        return web.json_response({})

    async def _rotate(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        return web.json_response(self.issuer.keys.rotate(wanted["algorithm"], keep=wanted["keep"]).jwk())

    async def _private_keys(self, _: web.Request) -> web.Response:
        return web.json_response(self.issuer.keys.private())

    async def _asked(self, _: web.Request) -> web.Response:
        return web.json_response(self.issuer.asked)


async def _huge(request: web.Request, jwks: dict[str, Any]) -> web.StreamResponse:
    """The keys, and two megabytes of others."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    filler = [{"kty": "oct", "k": "x" * 65_000}] * (_HUGE_BYTES // 65_000)
    await response.write(json.dumps({"keys": [*jwks["keys"], *filler]}).encode())
    return response


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.issuer", description="An OpenID Connect issuer for tests.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control-port", type=int, default=0)
    flags = parser.parse_args()
    asyncio.run(Server(flags.port, flags.control_port).run())


if __name__ == "__main__":
    main()
