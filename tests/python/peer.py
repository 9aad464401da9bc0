"""A py-libp2p node on a relay, for tests/interop/python.rs.

    peer.py listen RELAY            reserves there, and echoes what it is sent
    peer.py dial ADDRESS BYTES      dials a peer through its relay, and checks the echo

It prints one JSON object per line, asserts nothing, and ends with its standard input.
"""

import json
import sys

import multiaddr
import trio
from libp2p import new_host
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service

ECHO = "/descord-relay/test"
CHUNK_BYTES = 16 * 1024


def say(**message):
    print(json.dumps(message), flush=True)


async def listen(host, transport, relay, nursery):
    info = info_from_p2p_addr(multiaddr.Multiaddr(relay))
    await host.connect(info)
    stream = await host.new_stream(info.peer_id, [PROTOCOL_ID])
    reserved = await transport.reserve(stream, info.peer_id, nursery)
    say(event="reserved", ok=reserved, peer=str(host.get_id()))


async def dial(host, transport, address, count):
    address = multiaddr.Multiaddr(address)
    await transport.dial(address)
    target = info_from_p2p_addr(address).peer_id
    stream = await host.new_stream(target, [ECHO])
    data = bytes(position % 251 for position in range(count))
    echoed = bytearray()

    async def send():
        for start in range(0, count, CHUNK_BYTES):
            await stream.write(data[start : start + CHUNK_BYTES])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while len(echoed) < count:
            echoed += await stream.read(CHUNK_BYTES)
    say(event="echoed", received=len(echoed), matches=bytes(echoed) == data)
    await stream.close()


async def echo(stream):
    received = 0
    try:
        while True:
            chunk = await stream.read(CHUNK_BYTES)
            received += len(chunk)
            await stream.write(chunk)
    except StreamEOF:
        await stream.close()
        say(event="stream ended", received=received, end="clean")
    except Exception as error:
        say(event="stream ended", received=received, end="cut", error=repr(error))


async def main(command, *arguments):
    host = new_host()
    # Clients take circuits (STOP); a dialer that is a CLIENT too would reserve before it dials.
    roles = RelayRole.STOP | RelayRole.CLIENT if command == "listen" else RelayRole.STOP
    config = RelayConfig(roles=roles)
    protocol = CircuitV2Protocol(host, config.limits, allow_hop=False)
    async with host.run(listen_addrs=[]), trio.open_nursery() as nursery:
        host.set_stream_handler(ECHO, echo)
        async with background_trio_service(protocol):
            transport = CircuitV2Transport(host, protocol, config)
            if command == "listen":
                await listen(host, transport, *arguments, nursery)
            else:
                await dial(host, transport, arguments[0], int(arguments[1]))
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()


trio.run(main, *sys.argv[1:])
