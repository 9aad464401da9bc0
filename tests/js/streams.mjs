// Data over a stream, and how the stream ended.

import { pEvent } from 'p-event'

const CHUNK_BYTES = 32 * 1024

// Sends back what arrives; tells how much that was, and how it ended.
export async function echo (stream) {
  let received = 0
  try {
    for await (const chunk of untilEnd(stream)) {
      received += chunk.byteLength
      await send(stream, chunk.subarray())
    }
    await stream.close()
    return { received, end: 'clean' }
  } catch (error) {
    return { received, end: 'cut', error: describeError(error) }
  }
}

// Sends `bytes` bytes while it receives their echo, and checks each one.
export async function exchange (stream, bytes) {
  const result = { sent: 0, received: 0, matches: true }
  const sending = (async () => {
    while (result.sent < bytes) {
      const chunk = pattern(result.sent, Math.min(CHUNK_BYTES, bytes - result.sent))
      await send(stream, chunk)
      result.sent += chunk.byteLength
    }
    await stream.close()
  })()
  const receiving = (async () => {
    for await (const chunk of untilEnd(stream)) {
      const expected = pattern(result.received, chunk.byteLength)
      result.matches &&= Buffer.compare(expected, chunk.subarray()) === 0
      result.received += chunk.byteLength
    }
  })()
  const [sent, received] = await Promise.allSettled([sending, receiving])
  const error = received.reason ?? sent.reason
  return error == null
    ? { ...result, end: 'clean' }
    : { ...result, end: 'cut', error: describeError(error) }
}

export function describeError (error) {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error?.type ?? error)
}

// What a stream brings until the other side is done; throws when it is cut before that.
// js-libp2p's own iterator ends the same way in both cases when the connection below is gone.
async function * untilEnd (stream) {
  let ended = false
  stream.addEventListener('remoteCloseWrite', () => { ended = true })
  yield * stream
  if (!ended) {
    throw new Error('closed before the end of the data')
  }
}

async function send (stream, chunk) {
  if (!stream.send(chunk)) {
    await pEvent(stream, 'drain', { rejectionEvents: ['close'] })
  }
}

// Bytes that tell their position. The period is a prime, so that blocks of two's powers, in which
// networks lose, repeat or swap data, all look different.
const PERIOD = 251
const REPEATED = Uint8Array.from({ length: 1024 * 1024 }, (_, index) => index % PERIOD)

function pattern (offset, length) {
  const start = offset % PERIOD
  return REPEATED.subarray(start, start + length)
}
