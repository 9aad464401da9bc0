// Validates a reservation's voucher with js-libp2p's own code.

import { peerIdFromMultihash, peerIdFromPublicKey } from '@libp2p/peer-id'
import { RecordEnvelope } from '@libp2p/peer-record'
import { multiaddr } from '@multiformats/multiaddr'
import * as Digest from 'multiformats/hashes/digest'

// Internal modules that the package does not export.
import {
  Envelope, ReservationVoucher
} from './node_modules/@libp2p/circuit-relay-v2/dist/src/pb/index.js'
import {
  ReservationVoucherRecord
} from './node_modules/@libp2p/circuit-relay-v2/dist/src/server/reservation-voucher.js'

export async function describeReservation ({ expire, addrs, voucher }) {
  return {
    expire: Number(expire),
    addresses: addrs.map(bytes => multiaddr(bytes).toString()),
    voucher: voucher == null ? null : await openVoucher(voucher)
  }
}

// Throws if the signature is not the signer's for js-libp2p's signature domain.
async function openVoucher (voucher) {
  const { relay, peer, expiration } = voucher.payload
  const record = new ReservationVoucherRecord({
    relay: peerId(relay),
    peer: peerId(peer),
    expiration
  })
  const envelope = await RecordEnvelope.openAndCertify(Envelope.encode(voucher), record.domain)
  return {
    signer: peerIdFromPublicKey(envelope.publicKey).toString(),
    payload_type: Buffer.from(envelope.payloadType).toString('hex'),
    relay: peerId(relay).toString(),
    peer: peerId(peer).toString(),
    expiration: Number(ReservationVoucher.decode(envelope.payload).expiration),
    same_bytes: Buffer.compare(envelope.payload, record.marshal()) === 0
  }
}

function peerId (bytes) {
  return peerIdFromMultihash(Digest.decode(bytes))
}
