// @ts-check
/**
 * gRPC-Web and protobuf, as far as farcall's signaling needs them.
 *
 * There is no field number here: the server serves its own descriptor as JSON, and that drives both directions.
 * Messages are plain objects with camelCase names. Enumerations are strings. 64-bit numbers are numbers, since
 * nothing in the protocol counts that far. Of a `oneof` only the member that was set is there, and the oneof's own
 * name says which: `message.payload === "text"`.
 */

/**
 * @typedef {{name: string, number: number, type: string, repeated?: boolean, of?: string, oneof?: string,
 *   optional?: boolean}} Field
 * @typedef {{path: string, input: string, output: string, stream: boolean}} Method
 * @typedef {{methods: Record<string, Method>, messages: Record<string, Field[]>,
 *   enums: Record<string, Record<string, number>>}} Descriptor
 * @typedef {Record<string, any>} Message
 */

/** An error that the server answered with, or that kept the server from answering (`code` 14). */
export class RpcError extends Error {
  /**
   * @param {number} code gRPC's status code.
   * @param {string} message For people.
   * @param {Message[]} [details] `google.rpc` messages, each with its `$type`.
   */
  constructor(code, message, details = []) {
    super(message);
    this.name = "RpcError";
    this.code = code;
    this.details = details;
  }

  /** What a program matches on: `ErrorInfo.reason`, such as "ROOM_FULL"; empty if the server gave none. */
  get reason() {
    return this.details.find((detail) => detail.$type === "google.rpc.ErrorInfo")?.reason ?? "";
  }

  /** When to try again, in milliseconds, if the server said so. @returns {number | undefined} */
  get retryAfter() {
    const retry = this.details.find((detail) => detail.$type === "google.rpc.RetryInfo");
    return retry?.retryDelay && milliseconds(retry.retryDelay);
  }
}

/** No answer came. */
export const UNAVAILABLE = 14;

/** A `google.protobuf.Duration` in milliseconds. @param {Message | undefined} duration */
export function milliseconds(duration) {
  return (duration?.seconds ?? 0) * 1000 + (duration?.nanos ?? 0) / 1e6;
}

/** Encodes and decodes the messages of one descriptor. */
export class Codec {
  /** @param {Descriptor} descriptor */
  constructor(descriptor) {
    this.descriptor = descriptor;
    /** @type {Map<string, Map<number, Field>>} */
    this.byNumber = new Map();
    /** @type {Map<string, Map<number, string>>} */
    this.enumNames = new Map();
    for (const [name, fields] of Object.entries(descriptor.messages)) {
      this.byNumber.set(name, new Map(fields.map((field) => [field.number, field])));
    }
    for (const [name, values] of Object.entries(descriptor.enums)) {
      this.enumNames.set(name, new Map(Object.entries(values).map(([text, number]) => [number, text])));
    }
  }

  /**
   * @param {string} type
   * @param {Message} message
   * @returns {Uint8Array<ArrayBuffer>}
   */
  encode(type, message) {
    const writer = new Writer();
    for (const field of this.#fields(type)) {
      const value = message[field.name];
      if (value === undefined || value === null) continue;
      if (field.repeated) {
        for (const one of value) this.#write(writer, field, one);
      } else if (field.optional || field.oneof || !isDefault(value)) {
        this.#write(writer, field, value);
      }
    }
    return writer.bytes();
  }

  /**
   * @param {string} type
   * @param {Uint8Array} bytes
   * @returns {Message}
   */
  decode(type, bytes) {
    /** @type {Message} */
    const message = {};
    for (const field of this.#fields(type)) {
      if (field.repeated) message[field.name] = [];
      else if (!field.oneof && !field.optional && field.type !== "message") message[field.name] = this.#empty(field);
    }
    const reader = new Reader(bytes);
    while (reader.more()) {
      const key = reader.varint();
      const field = this.byNumber.get(type)?.get(Math.floor(key / 8));
      const value = reader.value(key % 8);
      if (!field) continue;
      if (field.repeated && value instanceof Uint8Array && !["string", "bytes", "message"].includes(field.type)) {
        const packed = new Reader(value);
        while (packed.more()) message[field.name].push(this.#read(field, packed.varint()));
      } else if (field.repeated) {
        message[field.name].push(this.#read(field, value));
      } else {
        if (field.oneof) {
          delete message[message[field.oneof]];
          message[field.oneof] = field.name;
        }
        message[field.name] = this.#read(field, value);
      }
    }
    return message;
  }

  /** @param {string} type */
  #fields(type) {
    const fields = this.descriptor.messages[type];
    if (!fields) throw new TypeError(`the server does not describe ${type}`);
    return fields;
  }

  /** @param {Field} field */
  #empty(field) {
    switch (field.type) {
      case "string": return "";
      case "bytes": return new Uint8Array();
      case "bool": return false;
      case "enum": return this.#enumName(field, 0);
      default: return 0;
    }
  }

  /** @param {Field} field @param {number} number */
  #enumName(field, number) {
    return this.enumNames.get(field.of ?? "")?.get(number) ?? number;
  }

  /** @param {Writer} writer @param {Field} field @param {any} value */
  #write(writer, field, value) {
    switch (field.type) {
      case "string": return writer.field(field.number, utf8.encode(value));
      case "bytes": return writer.field(field.number, value);
      case "message": return writer.field(field.number, this.encode(field.of ?? "", value));
      case "bool": return writer.number(field.number, value ? 1 : 0);
      case "enum": return writer.number(field.number, this.descriptor.enums[field.of ?? ""]?.[value] ?? Number(value));
      case "uint32": case "uint64": case "int32": case "int64": return writer.number(field.number, value);
      default: throw new TypeError(`${field.name}: no field of type ${field.type} is sent by this client`);
    }
  }

  /** @param {Field} field @param {number | Uint8Array} value */
  #read(field, value) {
    if (value instanceof Uint8Array) {
      switch (field.type) {
        case "string": return text.decode(value);
        case "message": return this.decode(field.of ?? "", value);
        default: return value;
      }
    }
    switch (field.type) {
      case "bool": return value !== 0;
      case "enum": return this.#enumName(field, value);
      default: return value;
    }
  }
}

/** Calls the methods of one server. */
export class Client {
  /**
   * Fetches the descriptor; everything else waits for it.
   * @param {URL} server Where `farcall/descriptor.json` is.
   * @param {AbortSignal} [signal]
   */
  static async connect(server, signal) {
    /** @type {Response} */
    let response;
    try {
      response = await fetch(new URL("farcall/descriptor.json", server), { signal });
    } catch (error) {
      throw unanswered(error);
    }
    if (!response.ok) throw new RpcError(UNAVAILABLE, `the server answered ${response.status}`);
    return new Client(server, new Codec(await response.json()));
  }

  /** @param {URL} server @param {Codec} codec */
  constructor(server, codec) {
    this.server = server;
    this.codec = codec;
  }

  /**
   * A call with one answer.
   * @param {string} method
   * @param {Message} request
   * @param {{token?: string, signal?: AbortSignal, keepalive?: boolean}} [options]
   * @returns {Promise<Message>}
   */
  async unary(method, request, options = {}) {
    /** @type {Message | undefined} */
    let answer;
    for await (const message of this.stream(method, request, options)) answer = message;
    if (!answer) throw new RpcError(UNAVAILABLE, "the server answered nothing");
    return answer;
  }

  /**
   * A call with a stream of answers. Ends when the server ends it well, and throws otherwise.
   * @param {string} method
   * @param {Message} request
   * @param {{token?: string, signal?: AbortSignal, keepalive?: boolean}} [options]
   * @returns {AsyncGenerator<Message, void, void>}
   */
  async *stream(method, request, { token, signal, keepalive } = {}) {
    const described = this.codec.descriptor.methods[method];
    if (!described) throw new TypeError(`the server does not know ${method}`);
    /** @type {Record<string, string>} */
    const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };
    if (token) headers.authorization = `Bearer ${token}`;
    const body = frame(this.codec.encode(described.input, request));
    const url = new URL(described.path.slice(1), this.server);
    /** @type {Response} */
    let response;
    try {
      response = await fetch(url, { method: "POST", headers, body, signal, keepalive, cache: "no-store" });
    } catch (error) {
      throw unanswered(error);
    }
    // A refusal without any message has its status in the headers.
    if (response.headers.has("grpc-status")) this.#end(response.headers);
    if (!response.ok || !response.body) throw new RpcError(UNAVAILABLE, `the server answered ${response.status}`);
    const reader = response.body.getReader();
    let buffered = new Uint8Array();
    try {
      for (;;) {
        while (buffered.length >= 5) {
          const length = new DataView(buffered.buffer, buffered.byteOffset).getUint32(1);
          if (buffered.length < 5 + length) break;
          const [flag, content] = [buffered[0], buffered.subarray(5, 5 + length)];
          buffered = buffered.subarray(5 + length);
          if ((flag ?? 0) & 0x80) {
            this.#end(trailers(content));
            return;
          }
          yield this.codec.decode(described.output, content);
        }
        /** @type {ReadableStreamReadResult<Uint8Array>} */
        let read;
        try {
          read = await reader.read();
        } catch (error) {
          throw unanswered(error);
        }
        if (read.done) throw new RpcError(UNAVAILABLE, "the connection was cut");
        const joined = new Uint8Array(buffered.length + read.value.length);
        joined.set(buffered);
        joined.set(read.value, buffered.length);
        buffered = joined;
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  /** Throws unless the status is OK. @param {Headers} headers */
  #end(headers) {
    const code = Number(headers.get("grpc-status") ?? 2);
    if (code === 0) return;
    let message = headers.get("grpc-message") ?? "";
    try {
      message = decodeURIComponent(message);
    } catch {
      // Shown as it came.
    }
    throw new RpcError(code, message, this.#details(headers.get("grpc-status-details-bin")));
  }

  /** @param {string | null} encoded @returns {Message[]} */
  #details(encoded) {
    try {
      const bytes = Uint8Array.from(atob(encoded ?? ""), (char) => char.charCodeAt(0));
      return this.codec.decode("google.rpc.Status", bytes).details.flatMap((/** @type {Message} */ any) => {
        const $type = any.typeUrl.slice(any.typeUrl.lastIndexOf("/") + 1);
        return $type in this.codec.descriptor.messages ? [{ $type, ...this.codec.decode($type, any.value) }] : [];
      });
    } catch {
      return [];
    }
  }
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

/** @param {any} value */
function isDefault(value) {
  return value === 0 || value === "" || value === false || (value instanceof Uint8Array && value.length === 0);
}

/** @param {Uint8Array} message */
function frame(message) {
  const framed = new Uint8Array(5 + message.length);
  new DataView(framed.buffer).setUint32(1, message.length);
  framed.set(message, 5);
  return framed;
}

/** @param {Uint8Array} bytes */
function trailers(bytes) {
  const headers = new Headers();
  for (const line of text.decode(bytes).split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) headers.set(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  return headers;
}

/** Anything that kept the server from answering, but for our own abort. @param {unknown} error */
function unanswered(error) {
  if (error instanceof DOMException && error.name === "AbortError") return error;
  return new RpcError(UNAVAILABLE, error instanceof Error ? error.message : String(error));
}

class Writer {
  /** @type {number[]} */
  #head = [];
  /** @type {Uint8Array[]} */
  #parts = [];

  /** @param {number} number @param {Uint8Array} content */
  field(number, content) {
    this.#varint(number * 8 + 2);
    this.#varint(content.length);
    this.#parts.push(Uint8Array.from(this.#head), content);
    this.#head = [];
  }

  /** @param {number} number @param {number} value */
  number(number, value) {
    this.#varint(number * 8);
    this.#varint(value);
  }

  bytes() {
    this.#parts.push(Uint8Array.from(this.#head));
    const all = new Uint8Array(this.#parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  /** @param {number} value Not negative. */
  #varint(value) {
    while (value >= 128) {
      this.#head.push((value % 128) | 128);
      value = Math.floor(value / 128);
    }
    this.#head.push(value);
  }
}

class Reader {
  #at = 0;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
  }

  more() {
    return this.#at < this.bytes.length;
  }

  varint() {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.bytes[this.#at++];
      if (byte === undefined || scale > 2 ** 63) throw new RangeError("a message that is cut off");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  /** @param {number} wireType @returns {number | Uint8Array} */
  value(wireType) {
    switch (wireType) {
      case 0: return this.varint();
      case 1: return this.#take(8);
      case 2: return this.#take(this.varint());
      case 5: return this.#take(4);
      default: throw new RangeError(`wire type ${wireType}`);
    }
  }

  /** @param {number} length */
  #take(length) {
    if (this.#at + length > this.bytes.length) throw new RangeError("a message that is cut off");
    this.#at += length;
    return this.bytes.subarray(this.#at - length, this.#at);
  }
}
