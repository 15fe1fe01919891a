// @ts-check
/** The lists of what was sent and received, the newest first. Whatever comes from elsewhere is text and stays text. */

/**
 * @param {HTMLElement} list
 * @param {string} text
 */
export function addText(list, text) {
  const item = entry(list);
  const words = document.createElement("span");
  words.textContent = text;
  item.append(words);
}

/**
 * A part of setting the call up, folded away.
 * @param {HTMLElement} list
 * @param {string} title
 * @param {string} content
 */
export function addSetup(list, title, content) {
  const item = entry(list);
  item.className = "setup";
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const body = document.createElement("pre");
  summary.textContent = title;
  body.textContent = content.replaceAll("\r\n", "\n");
  details.append(summary, body);
  item.append(details);
}

/** @param {HTMLElement} list */
function entry(list) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  const now = new Date();
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString();
  item.append(time);
  list.prepend(item);
  while (list.childElementCount > KEPT) list.lastElementChild?.remove();
  return item;
}

const KEPT = 500;
