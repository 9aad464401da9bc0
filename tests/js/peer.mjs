// A js-libp2p node that is controlled by tests/interop/js.rs.
//
// Commands come as JSON lines on standard input, {"id", "do", ...}; the answer to each is a JSON
// line on standard output, {"id", "ok"} or {"id", "error"}. Asynchronous events are lines of the form
// {"event", ...}. Assertions are in the Rust tests.

import { createInterface } from 'node:readline'

import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { generateKeyPair, privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

import { describeError, echo, exchange } from './streams.mjs'
import { describeReservation } from './voucher.mjs'

const ECHO = '/descord-relay/test'
const CIRCUIT = /^\/libp2p\/circuit\/relay\/0\.2\.0\/(hop|stop)$/

// QUIC is a native module that only exists for some platforms.
const transports = {
  tcp: () => tcp(),
  websocket: () => webSockets(),
  quic: async () => (await import('@chainsafe/libp2p-quic')).quic()
}
const encrypters = { noise, tls }

const { transport = 'tcp', encrypter = 'noise', swarmKey, identity = {} } = JSON.parse(process.argv[2] ?? '{}')
// The content of a `swarm.key` file.
const privateNetwork = swarmKey == null
  ? {}
  : { connectionProtector: preSharedKey({ psk: new TextEncoder().encode(swarmKey) }) }

// The identity key: a given one, or a new one of this type.
async function privateKey ({ protobuf, type = 'Ed25519' }) {
  return protobuf == null
    ? generateKeyPair(type)
    : privateKeyFromProtobuf(Buffer.from(protobuf, 'base64'))
}

const node = await createLibp2p({
  privateKey: await privateKey(identity),
  addresses: { listen: [] },
  transports: [await transports[transport](), circuitRelayTransport()],
  connectionEncrypters: [encrypters[encrypter]()],
  streamMuxers: [yamux()],
  ...privateNetwork,
  services: { identify: identify(), ping: ping() },
  // The relay is on loopback, which js-libp2p does not dial by default in every environment.
  connectionGater: { denyDialMultiaddr: () => false }
})

const identified = new Map()
const watched = new WeakSet()
let waitingForIdentify = []
node.addEventListener('peer:identify', ({ detail }) => {
  identified.set(detail.peerId.toString(), detail)
  waitingForIdentify = waitingForIdentify.filter(check => !check())
})
node.addEventListener('connection:close', ({ detail: connection }) => {
  say({ event: 'connection closed', ...describeConnection(connection) })
})

// The echo server; reports how each stream ended.
await node.handle(ECHO, async (stream, connection) => {
  watchCircuits()
  say({ event: 'stream accepted', ...describeConnection(connection) })
  say({ event: 'stream ended', ...await echo(stream) })
}, { runOnLimitedConnection: true })

const commands = {
  // Reserves on a relay, with js-libp2p's own client.
  async reserve ({ relay }) {
    await node.components.transportManager.listen([multiaddr(`${relay}/p2p-circuit`)])
    return reservation(relay)
  },

  // Reserves on any connected relay, now or later, and on another one when that relay
  // is lost.
  async discover () {
    reservations().addEventListener('relay:created-reservation', ({ detail }) => {
      say({ event: 'reserved', relay: detail.relay.toString() })
    })
    await node.components.transportManager.listen([multiaddr('/p2p-circuit')])
    return {}
  },

  async listening () {
    return { addresses: node.getMultiaddrs().map(String) }
  },

  // Runs what js-libp2p's timer runs shortly before the reservation expires.
  async renew ({ relay }) {
    await reservations().addRelay(connectionTo(relay).remotePeer, 'configured')
    return reservation(relay)
  },

  async dial ({ address }) {
    const connection = await node.dial(multiaddr(address))
    watchCircuits()
    return describeConnection(connection)
  },

  async ping ({ address }) {
    return { milliseconds: await node.services.ping.ping(multiaddr(address)) }
  },

  // Sends data to a connected peer, and verifies the echo.
  async echo ({ address, bytes }) {
    const connection = connectionTo(address)
    const stream = await connection.newStream(ECHO, { runOnLimitedConnection: true })
    return exchange(stream, bytes)
  },

  async identify ({ address }) {
    const peer = connectionTo(address).remotePeer.toString()
    if (!identified.has(peer)) {
      await new Promise(resolve => {
        waitingForIdentify.push(() => identified.has(peer) && (resolve(), true))
      })
    }
    const { protocols, listenAddrs, agentVersion, signedPeerRecord } = identified.get(peer)
    return {
      protocols,
      agent: agentVersion,
      addresses: listenAddrs.map(String),
      signed_record: signedPeerRecord != null
    }
  },

  async stop () {
    await node.stop()
    return {}
  }
}

function reservations () {
  return node.components.transportManager.getTransports()
    .find(transport => transport.reservationStore != null)
    .reservationStore
}

async function reservation (relay) {
  const relayId = connectionTo(relay).remotePeer
  return {
    ...await describeReservation(reservations().getReservation(relayId)),
    listening: node.getMultiaddrs().map(String)
  }
}

// The connection to the last peer id of an address.
function connectionTo (address) {
  const id = address.split('/p2p/').at(-1)
  const connection = node.getConnections().find(({ remotePeer }) => remotePeer.toString() === id)
  if (connection == null) {
    throw new Error(`not connected to ${id}`)
  }
  return connection
}

function describeConnection (connection) {
  const { limits } = connection
  return {
    peer: connection.remotePeer.toString(),
    address: connection.remoteAddr.toString(),
    encryption: connection.encryption,
    limits: limits == null ? null : { bytes: Number(limits.bytes), seconds: limits.seconds }
  }
}

// Reports how the relay ends the streams that carry circuits: a cut circuit must not look complete.
function watchCircuits () {
  const circuits = node.getConnections().flatMap(connection => connection.streams)
    .filter(stream => CIRCUIT.test(stream.protocol) && !watched.has(stream))
  for (const stream of circuits) {
    watched.add(stream)
    let ended = false
    let reset = false
    stream.addEventListener('remoteCloseWrite', () => { ended = true })
    // The QUIC package treats a reset like the end of the data; only its log differs.
    stream.log.trace = message => { reset ||= message.startsWith('read ended') }
    stream.addEventListener('close', ({ error }) => {
      say({
        event: 'circuit closed',
        end: ended && !reset ? 'clean' : 'cut',
        error: error == null ? null : describeError(error)
      })
    })
  }
}

function say (message) {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

say({ event: 'ready', peer: node.peerId.toString() })
for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: command, ...rest } = JSON.parse(line)
  commands[command](rest).then(
    ok => say({ id, ok }),
    error => say({ id, error: describeError(error) })
  )
}
// The node exits when the test closes its standard input.
process.exit(0)
