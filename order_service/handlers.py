"""From HTTP to a use case and back."""

from uuid import UUID

from common.contracts.base import Page
from common.contracts.orders import (
    FINAL,
    CreateOrder,
    CreateOrderHeaders,
    ListOrdersQuery,
    OrderQuery,
    OrderTimeline,
    PatchOrder,
)
from common.paging import decode_cursor, encode_cursor
from common.routes import Call, Reply
from order_service.checkout import Checkout
from order_service.domain import OrderRow
from order_service.orders import Orders


class Handlers:
    def __init__(self, checkout: Checkout, orders: Orders) -> None:
        self._checkout = checkout
        self._orders = orders

    async def create(self, call: Call[CreateOrder, None, CreateOrderHeaders]) -> Reply:
        user_id = call.caller.acting_for(call.body.user_id)
        placed = await self._checkout.place(user_id, call.body, call.headers.idempotency_key)
        headers = {"Location": f"/orders/{placed.order.order_id}"}
        if placed.replayed:
            headers["Idempotent-Replayed"] = "true"
        if placed.failure is not None:
            return Reply.problem(placed.failure, headers)
        return Reply(_status(placed.order, done=201), placed.order.to_contract(), headers)

    async def get(self, call: Call[None, OrderQuery, None]) -> Reply:
        return Reply(200, (await self._orders.get(call.query.order_id, owner=call.caller.owner)).to_contract())

    async def get_or_list(self, call: Call[None, ListOrdersQuery, None]) -> Reply:
        query = call.query
        if query.order_id is not None:
            return Reply(200, (await self._orders.get(query.order_id, owner=call.caller.owner)).to_contract())
        before = decode_cursor(query.cursor, UUID)
        orders, next_before = await self._orders.find(
            user_id=call.caller.asking_for(query.user_id),
            status=query.status,
            before=str(before) if before else None,
            limit=query.limit,
        )
        return Reply(
            200,
            Page(
                items=[order.to_contract() for order in orders],
                next_cursor=encode_cursor(next_before) if next_before else None,
            ),
        )

    async def events(self, call: Call[None, OrderQuery, None]) -> Reply:
        events = await self._orders.events(call.query.order_id, owner=call.caller.owner)
        return Reply(200, OrderTimeline(order_id=call.query.order_id, events=[event.to_contract() for event in events]))

    async def patch(self, call: Call[PatchOrder, None, None]) -> Reply:
        order = await self._checkout.cancel(call.body.order_id, call.body.status, owner=call.caller.owner)
        return Reply(_status(order, done=200), order.to_contract())


def _status(order: OrderRow, *, done: int) -> int:
    return done if order.status in FINAL else 202
