"""Names in a real network namespace, handed over as a runner does it: DNS, ports that come with rules, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from cloned_proxy.local.slot_protocol import Handover, NamesHandover, OpenSlot, decode
from cloned_proxy.local.unix_sockets import new_socket
from cloned_proxy.proxy.slots.slot_api import SlotApi
from cloned_proxy.proxy.tunnel.last_words import ACCESS_DENIED
from cloned_proxy.runner.namespaces.names import NamePlan
from cloned_proxy.runner.namespaces.netns import Namespace
from cloned_proxy.runner.namespaces.slot_sockets import Descriptor, made_inside
from tests.proxy.slots.dns import AAAA, AXFR, NXDOMAIN, REFUSED, A, Reply, query, read
from tests.proxy.support import HOST, SERVER_HELLO, World, allow, hello, policy, upstream, world

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="a namespace of one's own takes root"),
]

TOOL = "demo@v1"
PUBLIC = IPv4Network("11.64.0.0/16")
STEERED = NamePlan(PUBLIC, (IPv4Interface("11.64.0.1/16"),), steered=True)
SPARES = NamePlan(IPv4Network("127.128.0.0/9"))
PLANS = [pytest.param(STEERED, id="steered"), pytest.param(SPARES, id="spares")]


def _new_namespace() -> Namespace:
    """One of its own, without a process in it: it lasts as long as its descriptor."""
    made: list[int] = []

    def body() -> None:
        os.unshare(os.CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return Namespace(made[0], "", 0, 0)


@pytest.fixture
def inside() -> Iterator[Namespace]:
    made = _new_namespace()
    yield made
    made.close()


@dataclass
class Slot:
    w: World
    api: SlotApi
    namespace: Namespace
    link: socket.socket

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        sock = self.namespace.inside(lambda: socket.socket(socket.AF_INET, kind))
        sock.setblocking(False)
        return sock

    async def connect(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = self.socket()
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except OSError:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def resolve(self, name: bytes, kind: int = A) -> Reply:
        loop = asyncio.get_running_loop()
        with self.socket(socket.SOCK_DGRAM) as sock:
            await loop.sock_connect(sock, ("127.0.0.1", 53))
            async with asyncio.timeout(60):
                await loop.sock_sendall(sock, query(name, kind))
                reply = read(await loop.sock_recv(sock, 4096))
        assert reply is not None
        return reply

    async def tried(self, name: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        with contextlib.suppress(ConnectionRefusedError):
            return await self.dial(name, port)
        return None

    async def dial(self, name: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self.connect(str((await self.resolve(name.encode())).address), port)


def hand_over(api: Path, names: NamesHandover, made: list[Descriptor]) -> socket.socket:
    link = new_socket()
    link.settimeout(60)
    link.connect(str(api))
    opening = OpenSlot(TOOL, "cafe", (Handover(8081),), names=names)
    socket.send_fds(link, [opening.encode()], [each.fileno() for each in made])
    for each in made:
        each.close()
    return link


@contextlib.asynccontextmanager
async def slot(directory: Path, inside: Namespace, plan: NamePlan, *rules: object) -> AsyncIterator[Slot]:
    async with world(*rules) as w:  # type: ignore[arg-type]
        path = directory / "s" / "slots.sock"
        api = SlotApi(gate=w.gate, path=path, on_run=lambda _: None, policy=lambda: w.policies.current)
        api.start()
        w.gate.at_sweep.add(api.policy_changed)
        made = made_inside(inside, (Handover(8081),), plan)
        link = await asyncio.to_thread(hand_over, path, plan.handover, list(made))
        reply = decode(await asyncio.to_thread(link.recv, 100_000))
        assert reply["ok"], reply
        yield Slot(w, api, inside, link)
        link.close()
        await api.close()


@pytest.mark.parametrize("plan", PLANS)
async def test_a_dialled_name_arrives_whatever_its_port(tmp_path: Path, inside: Namespace, plan: NamePlan) -> None:
    async with upstream() as server, slot(tmp_path, inside, plan, allow(HOST, server.port)) as s:
        reader, writer = await s.dial(HOST, server.port)
        writer.write(hello())
        assert (await reader.readexactly(1))[0] == SERVER_HELLO[0]
        writer.close()
        reader, writer = await s.dial("denied.example.com", 443)
        writer.write(hello("denied.example.com"))
        assert await reader.read() == ACCESS_DENIED
        writer.close()
        assert s.w.resolver.asked == [HOST]


@pytest.mark.parametrize("plan", PLANS)
async def test_the_rest_of_loopback_is_the_tools_own(tmp_path: Path, inside: Namespace, plan: NamePlan) -> None:
    """A tool's server on a port that names are dialled at neither disturbs nor is disturbed."""
    async with upstream() as server, slot(tmp_path, inside, plan, allow(HOST, server.port)) as s:
        own = inside.inside(lambda: socket.create_server(("127.0.0.1", 9000)))
        reader, writer = await s.connect("127.0.0.1", 9000)
        peer, _ = own.accept()
        peer.sendall(b"own")
        assert await reader.readexactly(3) == b"own"
        for each in (peer, own, writer):
            each.close()


async def test_a_tool_may_listen_everywhere_and_does_not_get_the_names(tmp_path: Path, inside: Namespace) -> None:
    async with upstream() as server, slot(tmp_path, inside, STEERED, allow(HOST, server.port)) as s:
        with inside.inside(lambda: socket.create_server(("0.0.0.0", server.port), reuse_port=True)):
            reader, writer = await s.dial(HOST, server.port)
            writer.write(hello())
            assert (await reader.readexactly(1))[0] == SERVER_HELLO[0]
            writer.close()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("port", [53, 8081])
async def test_the_proxys_own_ports_are_taken(tmp_path: Path, inside: Namespace, plan: NamePlan, port: int) -> None:
    async with slot(tmp_path, inside, plan):
        for reuse in (False, True):
            with pytest.raises(OSError, match="in use"):
                inside.inside(lambda: socket.create_server(("127.0.0.1", port), reuse_port=reuse))  # noqa: B023  run at once


async def test_a_new_rules_port_is_opened_in_a_slot_that_runs(tmp_path: Path, inside: Namespace) -> None:
    async with upstream() as server, slot(tmp_path, inside, SPARES) as s:
        with pytest.raises(ConnectionRefusedError):
            await s.dial(HOST, server.port)
        s.w.policies.current = replace(policy(allow(HOST, server.port)), version="v2")
        s.w.gate.sweep()
        async with asyncio.timeout(60):
            while (dialled := await s.tried(HOST, server.port)) is None:  # noqa: ASYNC110  nobody tells of it
                await asyncio.sleep(0.01)
        reader, writer = dialled
        writer.write(hello())
        assert (await reader.readexactly(1))[0] == SERVER_HELLO[0]
        writer.close()


async def test_more_ports_than_sockets_leave_the_usual_ones(tmp_path: Path, inside: Namespace) -> None:
    many = [allow(HOST, port) for port in range(2000, 2100)]
    async with slot(tmp_path, inside, SPARES, *many) as s:
        for port in (80, 443):
            _, writer = await s.dial(HOST, port)
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await s.dial(HOST, 2099)


@pytest.mark.parametrize("plan", PLANS)
async def test_the_end_of_the_runner_closes_everything(tmp_path: Path, inside: Namespace, plan: NamePlan) -> None:
    async with upstream() as server, slot(tmp_path, inside, plan, allow(HOST, server.port)) as s:
        address = str((await s.resolve(HOST.encode())).address)
        reader, writer = await s.connect(address, server.port)
        writer.write(hello())
        await reader.readexactly(1)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  names are enough
        s.link.close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        for port in (53, 8081):
            with pytest.raises(ConnectionRefusedError):
                await s.connect("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await s.connect(address, server.port)
        assert len(os.listdir("/proc/self/fd")) < before  # noqa: PTH208


async def test_dns_by_tcp_takes_several_questions_and_no_more_streams_than_it_has(
    tmp_path: Path, inside: Namespace
) -> None:
    async with slot(tmp_path, inside, SPARES) as s:
        reader, writer = await s.connect("127.0.0.1", 53)
        name = HOST.encode()
        asked = [(name, A, 0), (name, AAAA, 0), (name, AXFR, REFUSED), (b"127.1", A, NXDOMAIN)]
        sent = b"".join(struct.pack("!H", len(q)) + q for q in (query(name, kind) for name, kind, _ in asked))
        for at in range(len(sent)):
            writer.write(sent[at : at + 1])
            await writer.drain()
        codes, first = [], writer
        for _ in asked:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            reply = read(await reader.readexactly(size))
            assert reply is not None
            codes.append(reply.code)
        assert codes == [code for _, _, code in asked]
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                reader, writer = await s.connect("127.0.0.1", 53)
                stack.callback(writer.close)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(2)
            assert (await s.resolve(HOST.encode())).answers == 1
        first.close()


async def test_a_flood_of_names_in_one_slot_leaves_another_its_answers(tmp_path: Path, inside: Namespace) -> None:
    other = _new_namespace()
    (tmp_path / "other").mkdir()
    async with slot(tmp_path, inside, SPARES) as flooded, slot(tmp_path / "other", other, STEERED) as s:
        kept = (await s.resolve(b"kept.example.com")).address
        asked = 0
        with flooded.socket(socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 53))
            while asked < 20_000:
                for _ in range(100):
                    with contextlib.suppress(BlockingIOError):
                        sock.send(query(b"n%d.example.com" % asked))
                    asked += 1
                if asked % 2_000 == 0:
                    assert (await s.resolve(b"kept.example.com")).address == kept
                await asyncio.sleep(0)
        assert isinstance(kept, IPv4Address)
    other.close()


class Refusal:
    """What the API says of descriptors that are not what a slot's names take."""

    def __init__(self, said: str, make: Callable[[Namespace], list[Descriptor]], spares: int = 0) -> None:
        self.said = said
        self.make = make
        self.handover = NamesHandover("127.128.0.0/9", spares)


def _listener(namespace: Namespace) -> socket.socket:
    return namespace.listen(8081)


def _dns(namespace: Namespace, port: int = 53) -> list[Descriptor]:
    def made() -> list[Descriptor]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", port))
        return [datagrams, socket.create_server(("127.0.0.1", 53))]

    return namespace.inside(made)


def _on_host() -> list[Descriptor]:
    return [socket.socket()]


REFUSALS = {
    "a spare socket of the host's network": Refusal(
        "this host's own network", lambda n: [_listener(n), *_dns(n), *_on_host()], spares=1
    ),
    "a bound spare": Refusal("not an unbound TCP one", lambda n: [_listener(n), *_dns(n), n.listen(9000)], spares=1),
    "a name server elsewhere": Refusal(
        "not on 127.0.0.1:53", lambda n: [_listener(n), *_dns(n, 54), *_on_host()], spares=1
    ),
    "a steered socket outside of the network": Refusal(
        "does not listen in", lambda n: [_listener(n), *_dns(n), n.listen(9000), *_on_host()]
    ),
    "too few": Refusal("as many descriptors", lambda n: [_listener(n), *_dns(n)]),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_what_is_not_a_slots_is_refused_and_closed(tmp_path: Path, inside: Namespace, refusal: Refusal) -> None:
    async with world() as w:
        path = tmp_path / "s" / "slots.sock"
        api = SlotApi(gate=w.gate, path=path, on_run=lambda _: None, policy=lambda: w.policies.current)
        api.start()
        made = refusal.make(inside)
        before = len(os.listdir("/proc/self/fd")) - len(made)  # noqa: PTH208
        link = await asyncio.to_thread(hand_over, path, refusal.handover, made)
        reply = decode(await asyncio.to_thread(link.recv, 100_000))
        assert not reply["ok"]
        assert refusal.said in reply["error"]
        assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208  both ends of the link
        link.close()
        await api.close()
