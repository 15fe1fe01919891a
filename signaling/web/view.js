// @ts-check
/** The page's elements by name, and the few things that are done to many of them. */

export const find = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
export const button = (/** @type {string} */ id) => /** @type {HTMLButtonElement} */ (find(id));
export const input = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (find(id));
export const video = (/** @type {string} */ id) => /** @type {HTMLVideoElement} */ (find(id));

/** A line for the person, read out by screen readers; nothing takes it away. @param {string} text */
export function say(text) {
  const notice = find("notice");
  notice.textContent = text;
  notice.hidden = text === "";
}

/** @param {string} id @param {boolean} pressed @param {string} label What it does when pressed now. */
export function press(id, pressed, label) {
  button(id).setAttribute("aria-pressed", String(pressed));
  button(id).setAttribute("aria-label", label);
}

/** @param {string} text */
export function showStatus(text) {
  find("status").dataset.status = text;
  find("status-text").textContent = text;
}

/** Fills a list with texts. @param {string} id @param {string[]} texts */
export function fill(id, texts) {
  find(id).replaceChildren(
    ...texts.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
}

/** What a person can do about it. @param {import("./media.js").Help | null} help */
export function showHelp(help) {
  find("help").hidden = help === null;
  if (!help) return;
  find("help-title").textContent = help.title;
  find("help-text").textContent = help.text;
  fill("help-steps", help.steps);
  button("help-retry").hidden = !navigator.mediaDevices;
}
