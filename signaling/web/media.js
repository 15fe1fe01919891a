// @ts-check
/**
 * Camera, microphone and screen: asked for once, each with what a person can do when it is not there.
 */

/**
 * @typedef {{title: string, text: string, steps: string[]}} Help
 */

export class Media {
  /** @type {MediaStreamTrack | null} */ audio = null;
  /** @type {MediaStreamTrack | null} */ video = null;
  /** @type {MediaStreamTrack | null} */ screen = null;
  /** What kept us from having all of it. @type {Help | null} */
  help = null;
  /** The stream that both belong to, at the other side too. */
  stream = new MediaStream();

  /** Asks for both; makes do with one, or with none. */
  async open() {
    this.help = null;
    if (!navigator.mediaDevices?.getUserMedia) {
      this.help = insecure();
      return;
    }
    try {
      await this.#take({ audio: true, video: VIDEO });
    } catch (error) {
      this.help = explain(error, "camera and microphone");
      if (isRefusal(error)) return;
      // One of the two may be missing or taken.
      const [audio, video] = [await this.#try({ audio: true }), await this.#try({ video: VIDEO })];
      if (audio && !video) this.help = explain(error, "camera");
      else if (video && !audio) this.help = explain(error, "microphone");
      else if (audio && video) this.help = null;
    }
  }

  /** The camera anew, after it was off. */
  async openCamera() {
    await this.#take({ video: VIDEO });
    return this.video;
  }

  closeCamera() {
    if (!this.video) return;
    this.video.stop();
    this.stream.removeTrack(this.video);
    this.video = null;
  }

  /** @returns {Promise<MediaStreamTrack | null>} The screen, unless the person thought better of it. */
  async openScreen() {
    try {
      const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { max: 15 } }, audio: false });
      this.screen = stream.getVideoTracks()[0] ?? null;
    } catch (error) {
      if (!isRefusal(error)) throw error;
    }
    return this.screen;
  }

  closeScreen() {
    this.screen?.stop();
    this.screen = null;
  }

  /** @param {MediaStreamConstraints} constraints */
  async #try(constraints) {
    try {
      await this.#take(constraints);
      return true;
    } catch {
      return false;
    }
  }

  /** @param {MediaStreamConstraints} constraints */
  async #take(constraints) {
    const stream = await navigator.mediaDevices.getUserMedia(constraints);
    for (const track of stream.getTracks()) {
      this.stream.addTrack(track);
      if (track.kind === "audio") this.audio = track;
      else this.video = track;
    }
  }
}

const VIDEO = { width: { ideal: 1280 }, height: { ideal: 720 } };

/** @param {unknown} error */
function isRefusal(error) {
  return error instanceof DOMException && (error.name === "NotAllowedError" || error.name === "SecurityError");
}

/** @returns {Help} */
function insecure() {
  return {
    title: "This page may not use your camera",
    text: `Browsers allow that on secure pages only, and ${location.host} was opened without encryption.`,
    steps: [
      `Put https before ${location.host} in the address, if whoever runs this server has set up a certificate.`,
      "On the machine that runs the server, localhost works without one.",
      "You can still connect, watch, listen and write.",
    ],
  };
}

/** @param {unknown} error @param {string} what @returns {Help} */
function explain(error, what) {
  const name = error instanceof DOMException ? error.name : "";
  const anyway = "You can still call: the other side is told that it cannot see or hear you.";
  switch (name) {
    case "NotAllowedError":
    case "SecurityError":
      return {
        title: `Your ${what} may not be used`,
        text: "You or your browser said no to this page.",
        steps: [
          "Click the camera or the lock beside the address of this page, and allow camera and microphone.",
          "If your system asks too, allow it for this browser in its privacy settings.",
          "Then choose Try again. " + anyway,
        ],
      };
    case "NotFoundError":
    case "OverconstrainedError":
      return {
        title: `No ${what} was found`,
        text: `This device has no ${what}, or it is not plugged in.`,
        steps: ["Plug it in, or switch it on.", "Then choose Try again. " + anyway],
      };
    case "NotReadableError":
    case "AbortError":
      return {
        title: `Your ${what} cannot be opened`,
        text: "Another program may be using it.",
        steps: ["Close other programs and tabs that make calls.", "Then choose Try again. " + anyway],
      };
    default:
      return { title: `Your ${what} cannot be opened`, text: String(error), steps: ["Choose Try again. " + anyway] };
  }
}
