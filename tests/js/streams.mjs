// Data over a stream, and how the stream ended.

import { pEvent } from 'p-event'

const CHUNK_BYTES = 32 * 1024

// Echoes received data; reports the number of bytes and how the stream ended.
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

// Sends `bytes` bytes while receiving their echo, and verifies each byte.
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

// Yields received data until the other side closes the stream; throws if it is cut before that.
// js-libp2p's own iterator ends the same way in both cases if the connection is lost.
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

// A pattern with a prime period, so that blocks whose size is a power of two, the usual unit of
// lost, repeated or reordered data, all differ.
const PERIOD = 251
const REPEATED = Uint8Array.from({ length: 1024 * 1024 }, (_, index) => index % PERIOD)

function pattern (offset, length) {
  const start = offset % PERIOD
  return REPEATED.subarray(start, start + length)
}
