import { InvalidOptionError, UNSHOWN } from '../errors.ts'

export type Key = string | Buffer

/** CRC-16/XMODEM, as in the Redis Cluster specification. */
const TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1
  return crc & 0xffff
})

/** The hash slot of a key, 0 to 16,383: of what stands in its first braces, where that is anything. */
export function keySlot(key: Key): number {
  const bytes = typeof key === 'string' ? Buffer.from(key) : key
  const open = bytes.indexOf(0x7b)
  const close = open < 0 ? -1 : bytes.indexOf(0x7d, open + 1)
  const hashed = close > open + 1 ? bytes.subarray(open + 1, close) : bytes
  let crc = 0
  for (const byte of hashed) crc = ((crc << 8) & 0xffff) ^ (TABLE[((crc >> 8) ^ byte) & 0xff] as number)
  return crc & 16_383
}

/**
 * The slot that all keys share; undefined for no keys.
 *
 * @param prefix what the client puts in front of every key.
 * @throws InvalidOptionError naming two keys that do not share one.
 */
export function sharedSlot(option: string, keys: readonly Key[], prefix: string): number | undefined {
  const [first] = keys
  if (first === undefined) return undefined
  const slot = keySlot(withPrefix(prefix, first))
  const stranger = keys.find((key) => keySlot(withPrefix(prefix, key)) !== slot)
  if (stranger === undefined) return slot
  throw new InvalidOptionError(
    option,
    UNSHOWN,
    `keys of one slot of the cluster, and '${first}' and '${stranger}' are in two. Nothing was sent. Give keys that belong together one hash tag: '{42}:stock' and '{42}:price' share a slot`,
  )
}

function withPrefix(prefix: string, key: Key): Key {
  return prefix === '' ? key : Buffer.concat([Buffer.from(prefix), Buffer.from(key as string)])
}
