// @ts-check
/**
 * farcall's signaling for any page: join a room, hear who is there, and say things to them that arrive once and in
 * order, however often the connection to the server breaks.
 *
 *     import { join } from "./farcall.js";
 *     const session = await join({ room: "our room", name: "Ada" });
 *     session.addEventListener("message", (event) => console.log(event.detail.text));
 *     session.send({ text: "hello" });
 *
 * What is sent and received are the protocol's `PeerMessage`s as plain objects: one of `description`, `candidates`,
 * `text`, `data`, `hangup`, and `toSessionId` for one participant alone. See README.md beside this file.
 */

import { Client, RpcError, UNAVAILABLE, milliseconds } from "./farcall-wire.js";

export { RpcError };

/**
 * @typedef {import("./farcall-wire.js").Message} Message
 *
 * @typedef {object} Options
 * @property {string} room The room key, 1 to 64 characters.
 * @property {string} [name] What the others are shown.
 * @property {string} [token] A bearer token, where the server wants one.
 * @property {string | URL} [server] The server's address; where this module came from, if it is not said.
 * @property {string[]} [features] Names of abilities that the others are told of.
 * @property {string} [userAgent] Name and version of the application, for people.
 * @property {AbortSignal} [signal] Gives up joining.
 */

/**
 * Enters a room. Tries once; what fails later is tried again for as long as it takes.
 * @param {Options} options
 * @returns {Promise<Session>}
 * @throws {RpcError} With `reason` "ROOM_FULL", "BAD_TOKEN" and so on, or code 14 if there is no answer.
 */
export async function join(options) {
  const server = new URL(options.server ?? ".", options.server ? location.href : import.meta.url);
  const client = await Client.connect(server, options.signal);
  const session = new Session(client, options);
  await session.begin(options.signal);
  return session;
}

/**
 * A participant's place in a room.
 *
 * Events, all with `detail`:
 * - `message`: a `PeerMessage` of somebody else, with `fromSessionId`.
 * - `participant`: `{participant, reason}`: somebody entered, left or changed state.
 * - `state`: `"lost"`, then `"resumed"` (nothing was lost) or `"rejoined"` (a new session: `id`, `self` and `others`
 *   changed, and what was under way may be lost).
 * - `iceservers`: the new list, before the old credentials run out.
 * - `undeliverable`: a message of ours that had nobody to go to.
 * - `closed`: `{reason, message}`: it is over, and not by `leave()`.
 */
export class Session extends EventTarget {
  /** Our session, as others see it. */
  id = "";
  /** Ourselves. @type {Message} */
  self = {};
  /** Everybody else, by session. @type {Map<string, Message>} */
  others = new Map();
  /** STUN and TURN servers, as a peer connection takes them. @type {RTCIceServer[]} */
  iceServers = [];
  /** @type {"joining" | "connected" | "lost" | "closed"} */
  state = "joining";

  /** @type {Client} */ #client;
  /** @type {Options} */ #options;
  /** @type {{sessionId: string, resumeSecret: Uint8Array} | undefined} */ #identity;
  #requestId = randomId();
  #heartbeat = 20_000;
  #tries = 0;
  #stream = new AbortController();
  /** Ends a pause at once. */
  #wake = () => {};

  /** What the server has not taken yet, oldest first; the first has the number `#taken + 1`.
   * @type {{message: Message, taken: () => void, refused: (error: Error) => void}[]} */
  #outbox = [];
  #taken = 0;
  #calling = false;
  #oneByOne = false;
  #lastCall = 0;
  #failures = 0;
  /** @type {number | undefined} */ #flushTimer;

  /** The last frame that was taken, and the last one that the server knows of. */
  #received = 0;
  #acked = 0;
  #heardAt = 0;

  /** @param {Client} client @param {Options} options @hideconstructor */
  constructor(client, options) {
    super();
    this.#client = client;
    this.#options = options;
  }

  /** Joins for the first time. @param {AbortSignal} [signal] @hidden */
  async begin(signal) {
    signal?.addEventListener("abort", () => this.#stream.abort(), { once: true });
    await new Promise((resolve, reject) => this.#run(() => resolve(undefined), reject));
    addEventListener("pagehide", this.#onPageHide);
    addEventListener("online", this.#onOnline);
    addEventListener("offline", this.#onOffline);
    this.#tick();
  }

  /**
   * Says something, to everybody else or to `toSessionId`. Waits its turn while the server is away.
   * @param {Message} message
   * @returns {Promise<void>} Resolves when the server has it, rejects if it refuses it or the session ends before.
   */
  send(message) {
    if (this.state === "closed") return Promise.reject(new Error("the session has ended"));
    const done = new Promise((resolve, reject) => {
      this.#outbox.push({ message, taken: () => resolve(undefined), refused: reject });
    });
    // Whoever does not wait need not handle it either.
    done.catch(() => {});
    this.#flushSoon(0);
    return /** @type {Promise<void>} */ (done);
  }

  /** Fresh ICE servers, for a call that outlives the credentials of the first. */
  async refreshIceServers() {
    const answer = await this.#client.unary("GetIceServers", this.#whoami(), this.#callOptions());
    this.iceServers = iceServers(answer.iceServers);
    return this.iceServers;
  }

  /** Leaves the room at once. */
  async leave() {
    if (this.state === "closed") return;
    const identity = this.#identity && this.#whoami();
    this.#close();
    if (!identity) return;
    try {
      // Outlives the page if that is what is ending.
      await this.#client.unary("Leave", identity, { ...this.#callOptions(), keepalive: true });
    } catch {
      // Then the lease runs out by itself.
    }
  }

  /** Streams, one after the other. @param {() => void} joined @param {(error: Error) => void} refused */
  async #run(joined, refused) {
    let joinedBefore = false;
    for (;;) {
      let pause;
      try {
        for await (const frame of this.#frames()) {
          if (frame.body === "welcome") {
            this.#welcome(frame.welcome, joinedBefore);
            joinedBefore = true;
            joined();
          } else if (this.#take(frame.seq)) {
            pause = this.#handle(frame);
            if (pause !== undefined) break;
          }
        }
        // A stream that ends well without a word: the session is over, which the next join finds out.
      } catch (error) {
        if (this.#over()) return;
        if (!joinedBefore) {
          this.#close();
          return refused(/** @type {Error} */ (error));
        }
        const { reason, message, retryAfter } = error instanceof RpcError ? error : new RpcError(UNAVAILABLE, String(error));
        if (reason === "SESSION_SUPERSEDED") {
          return this.#closeSaying(reason, "this session was taken over elsewhere");
        }
        if (FINAL.includes(reason)) return this.#closeSaying(reason, message);
        if (reason === "SESSION_NOT_FOUND" || reason === "BAD_RESUME_SECRET") this.#forget();
        pause = retryAfter;
      }
      if (this.#over()) return;
      if (this.state === "connected") this.#change("lost");
      await this.#sleep(Math.max(this.#backoff(), Math.min(pause ?? 0, LONGEST_PAUSE)));
      if (this.#over()) return;
    }
  }

  /** Another call may have ended it while we waited. */
  #over() {
    return this.state === "closed";
  }

  #frames() {
    this.#stream.abort();
    this.#stream = new AbortController();
    this.#heardAt = performance.now();
    const { room, name = "", features = [], userAgent = "farcall.js" } = this.#options;
    return this.#client.stream(
      "Join",
      {
        room,
        displayName: name,
        requestId: this.#requestId,
        capabilities: { userAgent, features },
        resume: this.#identity && { ...this.#identity, lastReceivedSeq: this.#received },
      },
      { token: this.#options.token, signal: this.#stream.signal },
    );
  }

  /** @param {Message} welcome @param {boolean} joinedBefore */
  #welcome(welcome, joinedBefore) {
    const resumed = welcome.resumeResult === "RESUME_RESULT_RESUMED";
    this.#identity = { sessionId: welcome.sessionId, resumeSecret: welcome.resumeSecret };
    this.id = welcome.sessionId;
    this.self = welcome.self;
    this.iceServers = iceServers(welcome.iceServers);
    this.#heartbeat = milliseconds(welcome.heartbeatInterval) || this.#heartbeat;
    this.#tries = 0;
    this.#heardAt = this.#lastCall = performance.now();
    this.#oneByOne = false;
    this.#failures = 0;
    /** @type {Message[]} */
    let homeless = [];
    if (resumed) {
      // Between what we have seen and `nextSeq` comes the replay, with who came and went.
      this.#settle(welcome.lastClientSeq);
    } else {
      this.others = new Map(welcome.others.map((/** @type {Message} */ other) => [other.sessionId, other]));
      this.#received = this.#acked = welcome.nextSeq - 1;
      this.#taken = 0;
      // What was for somebody who is gone is not for anybody else.
      const gone = (/** @type {{message: Message}} */ { message }) => message.toSessionId && !this.others.has(message.toSessionId);
      homeless = this.#outbox.filter(gone).map(({ message }) => message);
      for (const { refused } of this.#outbox.filter(gone)) refused(new Error("its receiver has left"));
      this.#outbox = this.#outbox.filter((waiting) => !gone(waiting));
      this.#settle(welcome.lastClientSeq);
    }
    const before = this.state;
    this.state = "connected";
    if (joinedBefore && before === "lost") this.#tell("state", resumed ? "resumed" : "rejoined");
    this.#tell("iceservers", this.iceServers);
    for (const message of homeless) this.#tell("undeliverable", message);
    this.#flushSoon(0);
  }

  /** Whether a frame is news. @param {number} seq */
  #take(seq) {
    this.#heardAt = performance.now();
    if (seq === 0) return true;
    if (seq <= this.#received) return false;
    if (seq > this.#received + 1) throw new RpcError(UNAVAILABLE, "a frame is missing");
    this.#received = seq;
    if (this.#received - this.#acked >= ACK_EVERY) this.#flushSoon(0);
    return true;
  }

  /** @param {Message} frame @returns {number | undefined} How long to pause, if the stream is over. */
  #handle(frame) {
    switch (frame.body) {
      case "message":
        this.#tell("message", frame.message);
        return;
      case "participant": {
        const { participant } = frame.participant;
        if (participant.state === "PARTICIPANT_STATE_LEFT") this.others.delete(participant.sessionId);
        else if (participant.sessionId === this.id) this.self = participant;
        else this.others.set(participant.sessionId, participant);
        this.#tell("participant", frame.participant);
        return;
      }
      case "iceServers":
        this.iceServers = iceServers(frame.iceServers.iceServers);
        this.#tell("iceservers", this.iceServers);
        return;
      case "resyncRequired":
        // Only a new session knows for certain who is there.
        this.#abandon();
        return 0;
      case "goAway": {
        const { action, reason, delay } = frame.goAway;
        if (action === "GO_AWAY_ACTION_STOP") this.#closeSaying("REMOVED", reason);
        if (action === "GO_AWAY_ACTION_RECONNECT") this.#abandon();
        return milliseconds(delay);
      }
      default:
        // Nothing happened, or something that is newer than this module.
        return;
    }
  }

  /** Leaves the session for a new one. */
  #abandon() {
    if (this.#identity) this.#client.unary("Leave", this.#whoami(), this.#callOptions()).catch(() => {});
    this.#forget();
  }

  #forget() {
    this.#identity = undefined;
    this.#requestId = randomId();
  }

  /** The server has taken everything up to this number. @param {number} number */
  #settle(number) {
    while (this.#taken < number && this.#outbox.length > 0) {
      this.#outbox.shift()?.taken();
      this.#taken += 1;
    }
    this.#taken = Math.max(this.#taken, number);
  }

  /** @param {number} pause */
  #flushSoon(pause) {
    clearTimeout(this.#flushTimer);
    this.#flushTimer = setTimeout(() => this.#flush(), pause);
  }

  /** One call at a time; what is said meanwhile goes with the next. */
  async #flush() {
    if (this.#calling || this.state !== "connected" || !this.#identity) return;
    const batch = this.#outbox.slice(0, this.#oneByOne ? 1 : MOST_FRAMES);
    const ack = this.#received;
    const frames = batch.map(({ message }, index) => ({ clientSeq: this.#taken + 1 + index, message }));
    const identity = this.#identity;
    this.#calling = true;
    this.#lastCall = performance.now();
    /** @type {number | undefined} */
    let pause;
    try {
      const answer = await this.#client.unary("Send", { ...this.#whoami(), frames, ack }, this.#callOptions());
      if (this.#identity === identity) {
        const first = this.#taken + 1;
        this.#acked = Math.max(this.#acked, ack);
        this.#settle(answer.lastClientSeq);
        this.#oneByOne = false;
        this.#failures = 0;
        for (const { clientSeq } of answer.undeliverable) {
          const lost = batch[clientSeq - first];
          if (lost) this.#tell("undeliverable", lost.message);
        }
        if (this.#outbox.length > 0 || this.#received - this.#acked >= ACK_EVERY) pause = 0;
      }
    } catch (error) {
      if (this.#identity === identity) pause = this.#sendFailed(error, batch.length);
    } finally {
      this.#calling = false;
    }
    if (pause !== undefined) this.#flushSoon(pause);
    else if (this.#outbox.length > 0) this.#flushSoon(SEND_AGAIN_AFTER);
  }

  /** @param {unknown} error @param {number} count @returns {number | undefined} When to try again. */
  #sendFailed(error, count) {
    const reason = error instanceof RpcError ? error.reason : "";
    switch (reason) {
      case "SESSION_NOT_FOUND":
      case "BAD_RESUME_SECRET":
      case "CLIENT_SEQ_GAP":
        // Joining again tells what the server has taken, or makes a new session.
        this.#cut("the session is to be joined again");
        return undefined;
      case "BAD_FIELD":
        if (count > 1) {
          // Which of them is bad is to be found out.
          this.#oneByOne = true;
        } else {
          this.#outbox.shift()?.refused(/** @type {Error} */ (error));
        }
        return 0;
      default: {
        this.#failures += 1;
        const asked = error instanceof RpcError ? error.retryAfter : undefined;
        // Nobody answers: then the stream is of no use either, and a new one says when there is a server again.
        if (reason === "" && this.#failures >= MOST_FAILURES) this.#cut("calls are not answered");
        return Math.min(asked || SEND_AGAIN_AFTER * 2 ** (this.#failures - 1), LONGEST_PAUSE);
      }
    }
  }

  /** Heartbeats, and the end of streams that have gone silent. */
  #tick() {
    if (this.#over()) return;
    const now = performance.now();
    if (this.state === "connected") {
      if (now - this.#heardAt > SILENCE) this.#cut("the stream has gone silent");
      else if (now - this.#lastCall >= this.#heartbeat) this.#flushSoon(0);
    }
    setTimeout(() => this.#tick(), Math.min(this.#heartbeat / 4, 5_000));
  }

  /** Half is certain, half is chance, so that not all come back at once. */
  #backoff() {
    const ceiling = Math.min(FIRST_PAUSE * 2 ** this.#tries, LONGEST_PAUSE);
    this.#tries += 1;
    return ceiling / 2 + (Math.random() * ceiling) / 2;
  }

  /** @param {number} pause */
  #sleep(pause) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, pause);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
    });
  }

  #onPageHide = () => void this.leave();

  #onOnline = () => {
    this.#tries = 0;
    this.#wake();
  };

  /** A stream that nothing can come through is not worth waiting for. */
  #onOffline = () => this.#cut("the network is away");

  /** @param {string} why */
  #cut(why) {
    this.#stream.abort(new RpcError(UNAVAILABLE, why));
  }

  #whoami() {
    return { ...this.#identity };
  }

  #callOptions() {
    return { token: this.#options.token, signal: AbortSignal.timeout(CALL_TIMEOUT) };
  }

  /** @param {"lost"} state */
  #change(state) {
    this.state = state;
    this.#tell("state", state);
  }

  /** @param {string} reason @param {string} message */
  #closeSaying(reason, message) {
    this.#close();
    this.#tell("closed", { reason, message });
  }

  #close() {
    this.state = "closed";
    this.#stream.abort();
    clearTimeout(this.#flushTimer);
    this.#wake();
    removeEventListener("pagehide", this.#onPageHide);
    removeEventListener("online", this.#onOnline);
    removeEventListener("offline", this.#onOffline);
    for (const { refused } of this.#outbox.splice(0)) refused(new Error("the session has ended"));
  }

  /** @param {string} type @param {any} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {Message[]} list @returns {RTCIceServer[]} */
function iceServers(list) {
  return list.map(({ urls, username, credential }) => (username ? { urls, username, credential } : { urls }));
}

function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The token is no good any more, which trying again does not change. */
const FINAL = ["BAD_TOKEN", "TOKEN_EXPIRED", "NOT_GRANTED"];
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 15_000;
/** The pause after a call that failed without a word about when to come back. */
const SEND_AGAIN_AFTER = 250;
const CALL_TIMEOUT = 20_000;
/** A stream says something every 15 seconds. */
const SILENCE = 45_000;
const MOST_FAILURES = 3;
const MOST_FRAMES = 64;
const ACK_EVERY = 32;
