// @ts-check
/**
 * One peer connection to one participant: perfect negotiation (W3C WebRTC 1.0, section 10.7), trickled candidates,
 * ICE restarts, and the chat channel. It says what is to be sent and hears what came; where to is not its business.
 *
 * Both sides may offer at once. The impolite side then ignores the other's offer, the polite one takes its own back.
 * Every description and candidate carries the id of the negotiation that it belongs to, as in `farcall-peer`.
 */

/**
 * @typedef {import("./farcall-wire.js").Message} Message
 *
 * @typedef {object} Settings
 * @property {string} id Unlike that of any other link of anybody.
 * @property {boolean} polite Who joined earlier gives way.
 * @property {RTCConfiguration} configuration
 * @property {() => Promise<RTCIceServer[]>} freshServers For a restart, after the first credentials have run out.
 * @property {(message: Message) => void} send
 */

/**
 * Events: `up` and `broken` (it was up), `failed` with `detail` (why it is over), `track`, `chat` with `detail` (a
 * text), `chatopen`, `negotiated` with `detail` (`{kind, direction, sdp}`).
 */
export class Link extends EventTarget {
  /** Packets pass. */
  isUp = false;
  wasUp = false;
  /** Whether this side may offer: somebody called, or there was an offer before. */
  mayOffer = false;

  #steps = Promise.resolve();
  #offers = 0;
  /** The negotiation that the outstanding or the last description belongs to. */
  #current = "";
  /** The other side's offer that lost against ours. */
  #ignored = "";
  /** Remote candidates that came before their description was set. @type {Message[]} */
  #early = [];
  /** Ours since the last restart, to be repeated with each description. */
  #local = { ufrag: "", candidates: /** @type {Message[]} */ ([]), complete: false };
  #remoteOrigin = "";
  #restarts = 0;
  /** @type {number | undefined} */ #timer;
  #closed = false;

  /** @param {Settings} settings */
  constructor(settings) {
    super();
    this.settings = settings;
    this.polite = settings.polite;
    const pc = new RTCPeerConnection(settings.configuration);
    this.pc = pc;
    pc.onnegotiationneeded = () => this.mayOffer && this.#step(() => this.#offer());
    pc.onicecandidate = ({ candidate }) => this.#localCandidate(candidate);
    pc.ontrack = (event) => this.#tell("track", event);
    pc.onconnectionstatechange = () => this.#stateChanged();
    // Agreed beforehand by both sides, so that two offers at once make no second channel.
    this.chat = pc.createDataChannel("chat", { negotiated: true, id: 0 });
    this.chat.onopen = () => this.#tell("chatopen");
    this.chat.onmessage = ({ data }) => typeof data === "string" && this.#tell("chat", data);
    this.#timer = setTimeout(() => this.#tell("failed", "no path to the other side was found in time"), CONNECT_WITHIN);
  }

  /** Offers as soon as no other negotiation is under way. */
  call() {
    this.mayOffer = true;
    return this.#step(() => this.#offer());
  }

  /** Whether a description is of another peer connection than the one that we talk to. @param {string} sdp */
  isForeign(sdp) {
    return this.#remoteOrigin !== "" && origin(sdp) !== this.#remoteOrigin;
  }

  /** Takes a description or candidates of the other side. @param {Message} message */
  receive(message) {
    return this.#step(() =>
      message.payload === "description" ? this.#description(message) : this.#candidates(message),
    );
  }

  /** The other side came back under a new session: what it may have missed is said again. */
  repeat() {
    return this.#step(() => {
      if (this.pc.signalingState === "have-local-offer") this.#sayDescription();
    });
  }

  /** New servers for new generations of candidates. @param {RTCIceServer[]} iceServers */
  useServers(iceServers) {
    const configuration = { ...this.settings.configuration, iceServers };
    this.settings.configuration = configuration;
    try {
      this.pc.setConfiguration(configuration);
    } catch (error) {
      console.warn("The new ICE servers are not used", error);
    }
  }

  /** Looks for a new path. */
  async restart() {
    this.mayOffer = true;
    try {
      this.useServers(await this.settings.freshServers());
    } catch {
      // Signaling is away: the old ones may do.
    }
    if (!this.#closed) this.pc.restartIce();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.pc.onconnectionstatechange = this.pc.onicecandidate = this.pc.onnegotiationneeded = this.pc.ontrack = null;
    this.pc.close();
  }

  /** One after the other; a failed one leaves the connection where it was. @param {() => unknown} step */
  #step(step) {
    this.#steps = this.#steps.then(async () => {
      if (this.#closed) return;
      try {
        await step();
      } catch (error) {
        if (!this.#closed) console.warn("A step of the negotiation failed", error);
      }
    });
    return this.#steps;
  }

  async #offer() {
    // If not, the browser asks again when it is.
    if (this.pc.signalingState !== "stable") return;
    this.#offers += 1;
    const id = `${this.settings.id}-${this.#offers}`;
    const before = this.#current;
    this.#current = id;
    try {
      await this.pc.setLocalDescription(await this.pc.createOffer());
    } catch (error) {
      this.#current = before;
      throw error;
    }
    this.#sayDescription();
  }

  /** @param {Message} message */
  async #description({ negotiationId, description }) {
    const { pc } = this;
    const { sdp } = description;
    if (description.type === "SESSION_DESCRIPTION_TYPE_OFFER") {
      this.#tell("negotiated", { kind: "offer", direction: "received", sdp });
      if (pc.signalingState !== "stable" && !this.polite) {
        this.#ignored = negotiationId;
        return;
      }
      this.#ignored = "";
      // Takes our own offer back, if there is one.
      await pc.setRemoteDescription({ type: "offer", sdp });
      this.#current = negotiationId;
      await this.#remoteIsSet(sdp);
      this.mayOffer = true;
      await pc.setLocalDescription(await pc.createAnswer());
      this.#sayDescription();
    } else if (description.type === "SESSION_DESCRIPTION_TYPE_ANSWER") {
      this.#tell("negotiated", { kind: "answer", direction: "received", sdp });
      // The answer to an offer that was taken back has nothing to answer any more.
      if (pc.signalingState !== "have-local-offer" || (negotiationId && negotiationId !== this.#current)) return;
      this.#ignored = "";
      await pc.setRemoteDescription({ type: "answer", sdp });
      await this.#remoteIsSet(sdp);
    }
  }

  /** @param {string} sdp */
  async #remoteIsSet(sdp) {
    this.#remoteOrigin = origin(sdp);
    for (const message of this.#early.splice(0)) await this.#candidates(message);
  }

  /** @param {Message} message */
  async #candidates(message) {
    const { negotiationId, candidates: batch } = message;
    if (this.#ignored && (!negotiationId || negotiationId === this.#ignored)) return;
    if (!this.pc.remoteDescription) {
      if (this.#early.length < MAX_EARLY) this.#early.push(message);
      return;
    }
    for (const { candidate, sdpMid = null, sdpMLineIndex = 0, usernameFragment } of batch.candidates) {
      if (candidate === "") continue;
      const ufrag = usernameFragment || batch.usernameFragment || null;
      // One that belongs to a generation that is over is no misfortune.
      await this.pc.addIceCandidate({ candidate, sdpMid, sdpMLineIndex, usernameFragment: ufrag }).catch(() => {});
    }
    if (batch.endOfCandidates) await this.pc.addIceCandidate().catch(() => {});
  }

  /** @param {RTCIceCandidate | null} found */
  #localCandidate(found) {
    if (found === null) {
      this.#local.complete = true;
      this.#sayCandidates([], true);
    } else if (found.candidate !== "") {
      const { candidate, sdpMid, sdpMLineIndex, usernameFragment } = found;
      if (usernameFragment && usernameFragment !== this.#local.ufrag) {
        this.#local = { ufrag: usernameFragment, candidates: [], complete: false };
      }
      const one = { candidate, sdpMid, sdpMLineIndex };
      this.#local.candidates.push(one);
      this.#sayCandidates([one], false);
    }
  }

  /** @param {Message[]} candidates @param {boolean} endOfCandidates */
  #sayCandidates(candidates, endOfCandidates) {
    const usernameFragment = this.#local.ufrag;
    this.settings.send({
      negotiationId: this.#current,
      candidates: { candidates, endOfCandidates, usernameFragment },
    });
  }

  /** What we are set to, and the candidates that belong to it: the other side may have dropped them. */
  #sayDescription() {
    const description = this.pc.localDescription;
    if (!description || !(description.type === "offer" || description.type === "answer")) return;
    const { type, sdp } = description;
    this.#tell("negotiated", { kind: type, direction: "sent", sdp });
    this.settings.send({
      negotiationId: this.#current,
      description: { type: `SESSION_DESCRIPTION_TYPE_${type.toUpperCase()}`, sdp },
    });
    const same = this.#local.ufrag !== "" && sdp.includes(`a=ice-ufrag:${this.#local.ufrag}\r\n`);
    if (same) this.#sayCandidates(this.#local.candidates, this.#local.complete);
  }

  #stateChanged() {
    switch (this.pc.connectionState) {
      case "connected":
        this.isUp = this.wasUp = true;
        this.#restarts = 0;
        clearTimeout(this.#timer);
        this.#tell("up");
        break;
      case "disconnected":
      case "failed":
        if (this.isUp) {
          this.isUp = false;
          this.#tell("broken");
          // If both restart at once, one of the offers is in vain: the polite side waits a little.
          this.#restartAfter(this.polite ? 2 * RESTART_INTERVAL : RESTART_INTERVAL);
        }
        break;
    }
  }

  /** @param {number} pause */
  #restartAfter(pause) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#restarts >= MAX_RESTARTS) {
        this.#tell("failed", "the connection was lost and did not come back");
        return;
      }
      void this.restart();
      this.#restartAfter(RESTART_INTERVAL * 2 ** this.#restarts);
      this.#restarts += 1;
    }, pause);
  }

  /** @param {string} type @param {any} [detail] */
  #tell(type, detail) {
    if (!this.#closed) this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The `sess-id` of the origin line, which stays the same as long as the connection behind it. @param {string} sdp */
function origin(sdp) {
  return /^o=\S+ (\S+)/m.exec(sdp)?.[1] ?? "";
}

const CONNECT_WITHIN = 25_000;
const RESTART_INTERVAL = 2_000;
const MAX_RESTARTS = 5;
const MAX_EARLY = 128;
