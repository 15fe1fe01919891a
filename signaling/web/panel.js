// @ts-check
/**
 * The connection panel: which way the packets take, how fast, how much is lost, and the last minute as a chart.
 */

/**
 * @typedef {{at: number, bytesIn: number, bytesOut: number, received: number, lost: number}} Counters
 * @typedef {{path: "direct" | "relay", protocol: string, pair: string, rtt?: number, rateIn: number, rateOut: number,
 *   loss: number}} Sample
 */

export class Panel {
  /** @type {Counters | null} */ #before = null;
  /** @type {{rateIn: number, rateOut: number}[]} */ #history = [];
  /** @type {number | undefined} */ #timer;

  /** @param {(id: string) => HTMLElement} find */
  constructor(find) {
    this.find = find;
    this.canvas = /** @type {HTMLCanvasElement} */ (find("chart"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    addEventListener("resize", () => this.#draw());
    this.#draw();
  }

  /** @param {RTCPeerConnection} pc */
  watch(pc) {
    this.stop();
    const look = async () => {
      const sample = await this.#sample(pc).catch(() => null);
      if (sample) this.#show(sample);
    };
    void look();
    this.#timer = setInterval(look, INTERVAL);
  }

  stop() {
    clearInterval(this.#timer);
    this.#before = null;
    this.#history = [];
    const path = this.find("path");
    path.textContent = "No call yet";
    path.dataset.path = "";
    for (const id of ["rtt", "rate-in", "rate-out", "loss", "pair"]) this.find(id).textContent = "–";
    this.#draw();
  }

  /** @param {RTCPeerConnection} pc @returns {Promise<Sample | null>} */
  async #sample(pc) {
    const report = await pc.getStats();
    const all = /** @type {any[]} */ ([...report.values()]);
    const transport = all.find((one) => one.type === "transport");
    const pair = /** @type {any} */ (report.get(transport?.selectedCandidatePairId ?? ""))
      ?? all.find((one) => one.type === "candidate-pair" && one.nominated && one.state === "succeeded");
    if (!pair) return null;
    const local = /** @type {any} */ (report.get(pair.localCandidateId)) ?? {};
    const remote = /** @type {any} */ (report.get(pair.remoteCandidateId)) ?? {};
    const inbound = all.filter((one) => one.type === "inbound-rtp");
    const sum = (/** @type {string} */ key) => inbound.reduce((total, one) => total + (one[key] ?? 0), 0);
    const now = {
      at: performance.now(),
      bytesIn: pair.bytesReceived ?? 0,
      bytesOut: pair.bytesSent ?? 0,
      received: sum("packetsReceived"),
      lost: sum("packetsLost"),
    };
    const before = this.#before ?? now;
    this.#before = now;
    const seconds = (now.at - before.at) / 1000;
    const rate = (/** @type {number} */ from, /** @type {number} */ to) =>
      seconds > 0 ? Math.max(0, ((to - from) * 8) / seconds) : 0;
    const [lost, received] = [Math.max(0, now.lost - before.lost), now.received - before.received];
    const relayed = local.candidateType === "relay" || remote.candidateType === "relay";
    return {
      path: relayed ? "relay" : "direct",
      protocol: (local.relayProtocol ?? local.protocol ?? "").toUpperCase(),
      pair: `${end(local)} →\n${end(remote)}`,
      rtt: pair.currentRoundTripTime,
      rateIn: rate(before.bytesIn, now.bytesIn),
      rateOut: rate(before.bytesOut, now.bytesOut),
      loss: received + lost > 0 ? lost / (received + lost) : 0,
    };
  }

  /** @param {Sample} sample */
  #show(sample) {
    const path = this.find("path");
    path.dataset.path = sample.path;
    const words = sample.path === "direct" ? "Direct" : "Through a relay, still end to end";
    path.textContent = `${words} · ${sample.protocol}`;
    this.find("rtt").textContent = sample.rtt === undefined ? "–" : `${(sample.rtt * 1000).toFixed(sample.rtt < 0.01 ? 1 : 0)} ms`;
    this.find("rate-in").textContent = bits(sample.rateIn);
    this.find("rate-out").textContent = bits(sample.rateOut);
    this.find("loss").textContent = `${(sample.loss * 100).toFixed(1)} %`;
    this.find("pair").textContent = sample.pair;
    this.#history.push(sample);
    if (this.#history.length > KEPT) this.#history.shift();
    this.canvas.setAttribute(
      "aria-label",
      `Bit rate of the last minute: now ${bits(sample.rateIn)} in, ${bits(sample.rateOut)} out`,
    );
    this.#draw();
  }

  #draw() {
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    const { width, height } = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    if (!context) return;
    const style = getComputedStyle(canvas);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    context.scale(scale, scale);
    context.strokeStyle = colour("--line");
    context.lineWidth = 1;
    for (const part of [1 / 3, 2 / 3]) {
      context.beginPath();
      context.moveTo(0, Math.round(height * part) + 0.5);
      context.lineTo(width, Math.round(height * part) + 0.5);
      context.stroke();
    }
    const top = Math.max(64_000, ...this.#history.map((one) => Math.max(one.rateIn, one.rateOut))) * 1.15;
    /** @param {"rateIn" | "rateOut"} key @param {string} stroke */
    const line = (key, stroke) => {
      if (this.#history.length < 2) return;
      const step = width / (KEPT - 1);
      const x = (/** @type {number} */ index) => width - (this.#history.length - 1 - index) * step;
      const y = (/** @type {number} */ value) => height - 3 - (value / top) * (height - 8);
      context.beginPath();
      this.#history.forEach((one, index) => context.lineTo(x(index), y(one[key])));
      context.strokeStyle = stroke;
      context.lineWidth = 2;
      context.lineJoin = "round";
      context.stroke();
      context.lineTo(width, height);
      context.lineTo(x(0), height);
      context.closePath();
      context.globalAlpha = 0.1;
      context.fillStyle = stroke;
      context.fill();
      context.globalAlpha = 1;
    };
    line("rateOut", colour("--out"));
    line("rateIn", colour("--in"));
    if (this.#history.length > 1) {
      context.fillStyle = colour("--quiet");
      context.font = "11px system-ui, sans-serif";
      context.fillText(bits(top / 1.15), 6, 13);
    }
  }
}

/** @param {any} candidate */
function end({ candidateType = "?", address, ip, port, protocol = "" }) {
  const host = address ?? ip ?? "";
  const where = host ? ` ${host.includes(":") ? `[${host}]` : host}:${port}` : "";
  return `${candidateType}${where} ${protocol}`.trim();
}

/** @param {number} rate */
function bits(rate) {
  if (rate >= 1e6) return `${(rate / 1e6).toFixed(1)} Mbit/s`;
  return `${Math.round(rate / 1e3)} kbit/s`;
}

const INTERVAL = 1000;
const KEPT = 60;
