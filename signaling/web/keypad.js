// @ts-check
/** The keypad for tones (DTMF). */

import { button, find, say } from "./view.js";

const TONES = "123456789*0#";

/** Makes the keys. @param {() => RTCDTMFSender | null | undefined} sender */
export function makeKeypad(sender) {
  for (const tone of TONES) {
    const key = document.createElement("button");
    key.type = "button";
    key.textContent = tone;
    key.dataset.tone = tone;
    key.setAttribute("aria-label", `Tone ${{ "*": "star", "#": "hash" }[tone] ?? tone}`);
    key.onclick = () => {
      const dtmf = sender();
      if (!dtmf?.canInsertDTMF) return say("Tones need your microphone: it must not be muted.");
      // What is inserted replaces what has not been played yet.
      dtmf.insertDTMF(dtmf.toneBuffer + tone, DURATION, GAP);
      key.classList.add("playing");
      setTimeout(() => key.classList.remove("playing"), DURATION);
    };
    find("dtmf").append(key);
  }
  button("keypad").onclick = () => showKeypad(find("dtmf").hidden);
}

/** @param {boolean} shown */
export function showKeypad(shown) {
  find("dtmf").hidden = !shown;
  button("keypad").setAttribute("aria-expanded", String(shown));
}

/** Presses the key of a tone, if there is one and the keypad is shown. @param {string} tone */
export function pressTone(tone) {
  if (find("dtmf").hidden || !TONES.includes(tone)) return;
  /** @type {HTMLElement | null} */ (find("dtmf").querySelector(`[data-tone="${tone}"]`))?.click();
}

const DURATION = 200;
const GAP = 70;
