// @ts-check
/**
 * Safety words: twelve words that both ends of a call compute from what they see of each other's keys. Whoever sits
 * in between has keys of its own, and the words differ.
 *
 * For each end, K is the SHA-256 fingerprint of the certificate that its DTLS used; its six words are the bytes of
 * PBKDF2-HMAC-SHA256(K, SALT, ITERATIONS). The rows are in the order of their keys, so that both ends read the same.
 */

/** The list, one word for each byte; the server's own copy. @type {Promise<string[]> | undefined} */
let list;

/** @param {RTCPeerConnection} pc Connected. @returns {Promise<string[]>} Twelve words. */
export async function safetyWords(pc) {
  const keys = [await localKey(pc), await remoteKey(pc)].sort(compare);
  const rows = await Promise.all(keys.map(wordsOf));
  return rows.flat();
}

/** @param {Uint8Array<ArrayBuffer>} key @returns {Promise<string[]>} The six words of one end. */
export async function wordsOf(key) {
  list ??= fetch(new URL("farcall/safety-words.txt", import.meta.url))
    .then((response) => response.text())
    .then((text) => text.split("\n").filter((line) => line !== ""));
  const words = await list;
  const material = await crypto.subtle.importKey("raw", key, "PBKDF2", false, ["deriveBits"]);
  const salt = new TextEncoder().encode(SALT);
  const derivation = { name: "PBKDF2", hash: "SHA-256", salt, iterations: ITERATIONS };
  const bytes = new Uint8Array(await crypto.subtle.deriveBits(derivation, material, 48));
  return Array.from(bytes, (byte) => words[byte] ?? "");
}

/** Our own certificate, as our own browser describes it. @param {RTCPeerConnection} pc */
async function localKey(pc) {
  return fingerprint(pc.localDescription?.sdp ?? "");
}

/** The certificate that the other side really showed; where a browser hides it, what it compared that with. */
async function remoteKey(/** @type {RTCPeerConnection} */ pc) {
  const transport = pc.sctp?.transport ?? pc.getReceivers()[0]?.transport;
  const der = transport?.getRemoteCertificates?.()[0];
  if (der) return new Uint8Array(await crypto.subtle.digest("SHA-256", der));
  return fingerprint(pc.remoteDescription?.sdp ?? "");
}

/** RFC 8122. @param {string} sdp */
function fingerprint(sdp) {
  const hex = /^a=fingerprint:sha-256 ([0-9a-f:]+)/im.exec(sdp)?.[1];
  if (!hex) throw new Error("there is no SHA-256 fingerprint");
  return Uint8Array.from(hex.split(":"), (byte) => parseInt(byte, 16));
}

/** @param {Uint8Array} a @param {Uint8Array} b */
function compare(a, b) {
  const at = a.findIndex((byte, index) => byte !== b[index]);
  return at < 0 ? 0 : (a[at] ?? 0) - (b[at] ?? 0);
}

const SALT = "farcall safety words v1";
const ITERATIONS = 100_000;
