"""Clients that hold a connection and give nothing for it, each in a way of its own, and how long they are let."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator

from tests.e2e.raw import Answer, Server, read_answer

# Ten seconds, and something for a machine that has other things to do.
CUT_WITHIN_S = 12.0
ASK = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"
HEAD = b"POST /orders HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
# One that goes on for ever says each time when it has got further.
BeSlow = Callable[[socket.socket], Iterator[None] | None]


def says_nothing(_: socket.socket) -> None:
    """Connects, shakes hands if there is TLS, and that is all."""


def begins_a_head(connection: socket.socket) -> None:
    connection.sendall(HEAD)


def goes_on_with_a_head(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    dribble(connection, b"X")


def begins_a_second_head(connection: socket.socket) -> None:
    connection.sendall(ASK)
    assert read_answer(connection).status == 200
    connection.sendall(HEAD)


def begins_a_body(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")


def goes_on_with_a_body(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
    dribble(connection, b" ")


def reads_nothing_of(path: str) -> BeSlow:
    """Asks for more than fits into the buffers on the way, again and again."""

    def reads_nothing(connection: socket.socket) -> Iterator[None]:
        while True:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode() * 100)
            yield

    return reads_nothing


def dribble(connection: socket.socket, byte: bytes) -> None:
    """A byte now and then, for as long as it is let."""
    while True:
        connection.sendall(byte)
        time.sleep(0.5)


def life(connection: socket.socket, be_slow: BeSlow) -> float:
    """Seconds until the connection is closed, one way or the other; TimeoutError when it is not. Of who does not take
    what he has asked for, from when nothing more of that fitted in."""
    connection.settimeout(2 * CUT_WITHIN_S)
    started = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
        for _ in be_slow(connection) or ():
            started = time.monotonic()
        read_to_the_end(connection)
    return time.monotonic() - started


def send_half_a_body(server: Server) -> Answer:
    with server.connect() as connection:
        begins_a_body(connection)
        return read_answer(connection)


def read_to_the_end(connection: socket.socket) -> bytes:
    read = bytearray()
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while data := connection.recv(65_536):
            read += data
    return bytes(read)
