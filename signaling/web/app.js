// @ts-check
/**
 * The page: what a person does and sees. It holds a session (signaling), at most one link (the peer connection) and
 * the local media, each of which may come and go without the others.
 */

import { RpcError, join } from "./farcall.js";
import { Link } from "./link.js";
import { addSetup, addText } from "./log.js";
import { makeKeypad, pressTone, showKeypad } from "./keypad.js";
import { Media } from "./media.js";
import { Panel } from "./panel.js";
import * as remote from "./remote.js";
import { safetyWords } from "./safety.js";
import { button, fill, find, input, press, say, showHelp, showStatus, video } from "./view.js";

/**
 * @typedef {import("./farcall-wire.js").Message} Message
 * @typedef {import("./farcall.js").Session} Session
 */

/** What the address says. `0`, `false` and nothing mean no, as they always did. */
const address = new URLSearchParams(location.search);
const flag = (/** @type {string} */ name, /** @type {boolean} */ otherwise) =>
  address.has(name) ? !["0", "false", ""].includes(address.get(name) ?? "") : otherwise;
const wanted = {
  key: address.get("key") ?? "",
  call: flag("call", false),
  stun: flag("stunuri", true),
  turn: flag("turnuri", false),
  /** TURN is the last resort: unless it is refused, it is tried when nothing else works. */
  turnAtLast: flag("turnuri", true),
  relayOnly: flag("relay", false),
  token: address.get("token") ?? undefined,
  name: address.get("name") ?? "",
};

/** Tells this page from any other, also under a new session. */
const instance = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const media = new Media();
const panel = new Panel(find);
/** Ours for as long as the page lives, and so are its safety words. @type {RTCCertificate | null} */
let certificate = null;

/** @type {Session | null} */ let session = null;
let joining = false;
/** @type {Message | null} */ let other = null;
/** @type {Link | null} */ let link = null;
/** Whom the link leads to. */
const end = { session: "", instance: "" };
let linksMade = 0;
let mediaReady = false;
let turnWanted = wanted.turn || wanted.relayOnly;
/** Whether the first of two arrives to find a call that begins by itself. */
let callsByItself = wanted.call;
/** Texts that had nobody to go to. @type {string[]} */
let held = [];
/** @type {RTCRtpTransceiver | null} */ let screenSender = null;
let muted = false;
let cameraOff = false;

// Local media.

const opening = openMedia();

async function openMedia() {
  await media.open();
  mediaReady = true;
  video("local").srcObject = media.stream;
  showMedia();
  if (link) attachMedia(link);
  update();
}

function showMedia() {
  showHelp(media.help);
  find("local").parentElement?.classList.toggle("live", media.video !== null);
  find("local-note").textContent = cameraOff ? "Your camera is off" : mediaReady ? "No camera" : "Allow your camera and microphone";
  button("mute").disabled = media.audio === null;
  button("camera").disabled = media.video === null && !cameraOff;
}

button("help-retry").onclick = async () => {
  mediaReady = false;
  await openMedia();
};

/** Sends what we have, and is ready to receive what we have not. @param {Link} to */
function attachMedia(to) {
  const { pc } = to;
  for (const kind of /** @type {const} */ (["audio", "video"])) {
    const track = media[kind];
    const sender = senderOf(pc, kind);
    if (track && sender) {
      void sender.sender.replaceTrack(track);
      sender.sender.setStreams(media.stream);
      sender.direction = directionOf(kind);
    } else if (track) {
      pc.addTrack(track, media.stream);
    } else if (to.mayOffer && !sender) {
      pc.addTransceiver(kind, { direction: "recvonly" });
    }
  }
  if (media.audio) media.audio.enabled = !muted;
}

/** The first of a kind is the camera or the microphone; a screen comes after it.
 * @param {RTCPeerConnection} pc @param {string} kind */
function senderOf(pc, kind) {
  return pc.getTransceivers().find((one) => one !== screenSender && one.receiver.track.kind === kind) ?? null;
}

/** @param {"audio" | "video"} kind @returns {RTCRtpTransceiverDirection} */
function directionOf(kind) {
  const off = kind === "audio" ? muted : cameraOff;
  return off || !media[kind] ? "recvonly" : "sendrecv";
}

button("mute").onclick = () => {
  muted = !muted;
  if (media.audio) media.audio.enabled = !muted;
  const sender = link && senderOf(link.pc, "audio");
  // The other side is told, which is why its sign for it is right.
  if (sender) sender.direction = directionOf("audio");
  press("mute", muted, muted ? "Unmute my microphone" : "Mute my microphone");
  update();
};

button("camera").onclick = async () => {
  cameraOff = !cameraOff;
  const sender = link && senderOf(link.pc, "video");
  if (cameraOff) {
    // Stopped, not only hidden: its light goes out.
    media.closeCamera();
    await sender?.sender.replaceTrack(null);
  } else {
    try {
      const track = await media.openCamera();
      if (sender) {
        await sender.sender.replaceTrack(track);
        sender.sender.setStreams(media.stream);
      } else if (link && track) link.pc.addTrack(track, media.stream);
    } catch (error) {
      cameraOff = true;
      say("The camera cannot be opened again.");
    }
  }
  if (sender) sender.direction = directionOf("video");
  press("camera", cameraOff, cameraOff ? "Turn my camera on" : "Turn my camera off");
  showMedia();
};

button("share").onclick = async () => {
  if (media.screen) return stopSharing();
  try {
    const track = await media.openScreen();
    if (!track || !link) return media.closeScreen();
    track.addEventListener("ended", stopSharing);
    const idle = screenSender;
    if (idle) {
      await idle.sender.replaceTrack(track);
      idle.direction = "sendonly";
    } else {
      screenSender = link.pc.addTransceiver(track, { direction: "sendonly", streams: [new MediaStream([track])] });
    }
    press("share", true, "Stop sharing my screen");
    say("You are sharing your screen.");
  } catch (error) {
    say("The screen cannot be shared.");
  }
};

async function stopSharing() {
  if (!media.screen) return;
  media.closeScreen();
  press("share", false, "Share my screen");
  say("");
  if (screenSender && link) {
    screenSender.direction = "inactive";
    await screenSender.sender.replaceTrack(null);
  }
}

// Signaling.

find("join").addEventListener("submit", (event) => {
  event.preventDefault();
  if (session || joining) void disconnect();
  else void connect();
});

/** @type {AbortController | null} */ let attempt = null;

async function connect() {
  const room = input("key").value.trim();
  if (!room) return input("key").focus();
  joining = true;
  attempt = new AbortController();
  say("");
  update();
  try {
    certificate ??= await RTCPeerConnection.generateCertificate(KEY);
    const joined = await join({
      room,
      name: wanted.name,
      token: wanted.token,
      features: [`instance=${instance}`],
      userAgent: "farcall-page",
      signal: attempt.signal,
    });
    session = joined;
    listen(joined);
    find("stage").focus({ preventScroll: true });
    for (const one of joined.others.values()) present(one);
  } catch (error) {
    if (!attempt.signal.aborted) say(refusal(error));
  } finally {
    joining = false;
    update();
  }
}

async function disconnect() {
  attempt?.abort();
  hangUp();
  const leaving = session;
  session = null;
  other = null;
  held = [];
  callsByItself = wanted.call;
  say("");
  update();
  await leaving?.leave();
}

/** @param {unknown} error */
function refusal(error) {
  const reason = error instanceof RpcError ? error.reason : "";
  switch (reason) {
    case "ROOM_FULL":
      return "Two people use this key already. Choose another key, or ask one of them to leave; if that is you in another tab, close it.";
    case "BAD_TOKEN":
      return "This server asks for an invitation: open the link that you were given.";
    case "TOKEN_EXPIRED":
      return "Your invitation has run out. Ask for a new one.";
    case "NOT_GRANTED":
      return "Your invitation is for another key.";
    case "MAY_NOT_CREATE":
      return "Nobody uses this key yet, and your invitation does not let you be the first. Try again when the other side is there.";
    case "LIMIT_EXCEEDED":
      return "The server asks for patience: there were too many attempts from here. Try again in a moment.";
    case "SERVER_FULL":
      return "The server is full. Try again in a moment.";
    case "DRAINING":
      return "The server is being restarted. Try again in a moment.";
    case "BAD_FIELD":
      return "This key cannot be used: it may have 1 to 64 characters.";
    default:
      return error instanceof RpcError && error.code !== 14
        ? `The server refused: ${error.message}`
        : "The server does not answer. Check your network, and try again.";
  }
}

/** @param {Session} to */
function listen(to) {
  const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
    to.addEventListener(type, (event) => {
      if (session !== to) return;
      handle(/** @type {CustomEvent} */ (event).detail);
      update();
    });
  on("participant", ({ participant, reason }) => {
    if (participant.sessionId === to.id) return;
    if (participant.state === "PARTICIPANT_STATE_LEFT") absent(participant, reason);
    else present(participant);
  });
  on("message", receive);
  on("state", (state) => {
    if (state === "lost") say(link?.isUp ? "The server is away; the call goes on." : "The server is away. Trying again …");
    else say("");
    if (state === "rejoined") rejoined(to);
  });
  on("iceservers", () => link?.useServers(servers()));
  on("undeliverable", (message) => {
    if (message.payload === "text" || message.text !== undefined) held.push(message.text);
  });
  on("closed", ({ message }) => {
    session = null;
    other = null;
    if (!link?.isUp) hangUp();
    say(message || "The session has ended.");
  });
}

/** The server lost us: everybody is under a new session, and calls that were not up begin anew. @param {Session} to */
function rejoined(to) {
  other = null;
  if (link && !link.wasUp) {
    dropLink();
    callsByItself ||= wanted.call;
  }
  for (const one of to.others.values()) present(one);
}

/** @param {Message} participant */
function instanceOf(participant) {
  const features = /** @type {string[]} */ (participant.capabilities?.features ?? []);
  return features.find((feature) => feature.startsWith("instance="))?.slice("instance=".length) ?? "";
}

/** Somebody is in the room. @param {Message} participant */
function present(participant) {
  // One call at a time: whoever came first.
  if (other && other.sessionId !== participant.sessionId && other.state !== "PARTICIPANT_STATE_RECONNECTING") return;
  const before = other;
  other = participant;
  const away = participant.state === "PARTICIPANT_STATE_RECONNECTING";
  if (away) say("The other side has lost the server" + (link?.isUp ? "; the call goes on." : "."));
  else if (before?.state === "PARTICIPANT_STATE_RECONNECTING") say("");
  if (link) {
    if (end.session === participant.sessionId) return;
    if (link.wasUp && end.instance !== "" && end.instance === instanceOf(participant)) {
      // The same page under a new session: the connection never noticed.
      end.session = participant.sessionId;
      link.polite = isPolite(participant);
      void link.repeat();
    } else {
      dropLink();
      say("Somebody else is in the room now.");
    }
  }
  for (const text of held.splice(0)) void session?.send({ text, toSessionId: participant.sessionId });
  if (!before || before.sessionId !== participant.sessionId) void readyToCall();
}

/** Somebody is out of the room. @param {Message} participant @param {string} reason */
function absent(participant, reason) {
  if (other?.sessionId === participant.sessionId) other = null;
  if (link && end.session === participant.sessionId) {
    // It lost signaling, which is no reason to end a call that goes on without it.
    const byItself = reason === "LEAVE_REASON_LEFT" || reason === "LEAVE_REASON_REMOVED";
    if (byItself || !link.isUp) {
      dropLink();
      say("The other side has left.");
    }
  }
  callsByItself = wanted.call;
  for (const one of session?.others.values() ?? []) present(one);
}

/** When the second of two is ready, its call begins by itself if the address says so. */
async function readyToCall() {
  await opening;
  if (!callsByItself || !session || !other || link || isPolite(other)) return;
  callsByItself = false;
  void call();
}

/** Who joined earlier gives way. @param {Message} participant */
function isPolite(participant) {
  return (session?.self.ordinal ?? 0) < participant.ordinal;
}

/** @param {Message} message */
function receive(message) {
  if (message.payload === "text") return heard(message.text);
  if (!other || message.fromSessionId !== other.sessionId) return;
  switch (message.payload) {
    case "description":
      if (message.description.type === "SESSION_DESCRIPTION_TYPE_OFFER") {
        if (link?.isForeign(message.description.sdp)) dropLink();
        if (!link) answerCall(other);
      }
      pass(message);
      break;
    case "candidates":
      logCandidates("received", message.candidates);
      pass(message);
      break;
    case "hangup":
      if (link && end.session === message.fromSessionId) {
        dropLink();
        say(message.hangup.reason === "ICE_FAILED" ? NO_PATH : message.hangup.reason || "The other side hung up.");
      }
      break;
  }
}

/** @param {Message} message */
function pass(message) {
  const to = link;
  patience = patience.then(() => to?.receive(message));
}

/** What comes while the person is still being asked for the camera waits a little. @type {Promise<unknown>} */
let patience = Promise.resolve();

// The call.

async function call() {
  await opening;
  if (!session || !other || link) return;
  const made = makeLink(other);
  made.mayOffer = true;
  attachMedia(made);
  void made.call();
  say("Calling …");
  update();
}

/** @param {Message} caller */
function answerCall(caller) {
  const made = makeLink(caller);
  say("Somebody is calling …");
  patience = Promise.race([opening, pause(ANSWER_WITHIN)]).then(() => link === made && attachMedia(made));
}

/** @param {Message} to */
function makeLink(to) {
  linksMade += 1;
  end.session = to.sessionId;
  end.instance = instanceOf(to);
  turnWanted = wanted.turn || wanted.relayOnly;
  const made = new Link({
    id: `${instance}-${linksMade}`,
    polite: isPolite(to),
    configuration: {
      iceServers: servers(),
      iceTransportPolicy: wanted.relayOnly ? "relay" : "all",
      bundlePolicy: "max-bundle",
      certificates: certificate ? [certificate] : [],
    },
    freshServers: async () => {
      await session?.refreshIceServers();
      return servers();
    },
    send: (message) => {
      if (message.candidates) logCandidates("sent", message.candidates);
      void session?.send({ ...message, toSessionId: end.session });
    },
  });
  link = made;
  const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
    made.addEventListener(type, (event) => {
      if (link !== made) return;
      handle(/** @type {CustomEvent} */ (event).detail);
      update();
    });
  on("track", (event) => {
    remote.showTrack(event, made.pc, () => showPictures());
    showPictures();
  });
  on("chat", heard);
  on("negotiated", ({ kind, direction, sdp }) => addSetup(find(direction), kind, sdp));
  on("up", () => up(made));
  on("broken", () => say("The connection is interrupted. Looking for another path …"));
  on("failed", (why) => {
    void session?.send({ hangup: { reason: made.wasUp ? "" : "ICE_FAILED" }, toSessionId: end.session });
    dropLink();
    say(made.wasUp ? `The call is over: ${why}.` : NO_PATH);
  });
  setTimeout(() => lastResort(made), LAST_RESORT_AFTER);
  return made;
}

/** @param {Link} made */
async function up(made) {
  say("");
  showPictures();
  panel.watch(made.pc);
  try {
    const words = await safetyWords(made.pc);
    if (link !== made) return;
    fill("words", words);
    find("words").hidden = false;
    find("words-help").textContent = "Read them aloud to each other. If both see the same ones, nobody is in between.";
  } catch (error) {
    find("words-help").textContent = "This browser does not show the certificates of a call, so there are no safety words.";
  }
}

/** Nothing direct works: relays may, unless the address says no. @param {Link} made */
function lastResort(made) {
  const relays = session?.iceServers.some((server) => isTurn(server));
  if (link !== made || made.wasUp || turnWanted || !wanted.turnAtLast || !relays) return;
  turnWanted = true;
  made.useServers(servers());
  // One of the two is enough, and the other then looks for relays as well. If it is no page, it may leave that to us.
  if (!made.polite) return made.pc.restartIce();
  const before = iceGeneration(made.pc);
  setTimeout(() => {
    if (link === made && !made.wasUp && iceGeneration(made.pc) === before) made.pc.restartIce();
  }, LAST_RESORT_GRACE);
}

/** Changes with every ICE restart of the other side. @param {RTCPeerConnection} pc */
function iceGeneration(pc) {
  return pc.remoteDescription?.sdp.match(/^a=ice-ufrag:(\S+)/m)?.[1];
}

/** The servers that we were told of, as far as the address wants them. @returns {RTCIceServer[]} */
function servers() {
  const all = session?.iceServers ?? [];
  return all.filter((server) => (isTurn(server) ? turnWanted : wanted.stun && !wanted.relayOnly));
}

/** @param {RTCIceServer} server */
function isTurn({ urls }) {
  return [urls].flat().some((url) => /^turns?:/.test(url));
}

function hangUp() {
  if (!link) return;
  void session?.send({ hangup: { reason: "" }, toSessionId: end.session });
  dropLink();
}

function dropLink() {
  link?.close();
  link = null;
  patience = Promise.resolve();
  screenSender = null;
  media.closeScreen();
  press("share", false, "Share my screen");
  panel.stop();
  remote.clear();
  find("words").hidden = true;
  fill("words", []);
  find("words-help").textContent = "Once you are on a call, twelve words appear here. If the other side reads the same ones aloud, nobody is in between.";
  showKeypad(false);
}

// Messages.

/** @param {string} text */
function heard(text) {
  addText(find("received"), text);
}

/** @param {string} way @param {Message} batch */
function logCandidates(way, batch) {
  const lines = batch.candidates.map((/** @type {Message} */ one) => one.candidate);
  if (batch.endOfCandidates) lines.push("(no more)");
  addSetup(find(way), "candidates", lines.join("\n"));
}

find("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input("text").value;
  if (!text.trim()) return;
  if (link?.chat.readyState === "open") link.chat.send(text);
  else if (session && other) void session.send({ text, toSessionId: other.sessionId });
  else held.push(text);
  addText(find("sent"), text);
  input("text").value = "";
});

input("show-setup").onchange = () => {
  find("say").parentElement?.classList.toggle("setup-shown", input("show-setup").checked);
};

// Controls.

button("call").onclick = () => void call();
button("hangup").onclick = () => {
  hangUp();
  update();
};

button("invite").onclick = async () => {
  const link = new URL(location.pathname, location.href);
  link.searchParams.set("key", input("key").value.trim());
  if (wanted.token) link.searchParams.set("token", wanted.token);
  try {
    await navigator.clipboard.writeText(link.href);
    say("Copied. Send it to whom you want to talk to.");
  } catch {
    say(link.href);
  }
};

makeKeypad(() => link && senderOf(link.pc, "audio")?.sender.dtmf);

addEventListener("keydown", (event) => {
  const at = /** @type {HTMLElement} */ (event.target);
  if (event.ctrlKey || event.metaKey || event.altKey || at.matches("input, textarea")) return;
  const shortcut = { m: "mute", v: "camera", s: "share", k: "keypad" }[event.key.toLowerCase()];
  if (shortcut && !button(shortcut).disabled) button(shortcut).click();
  else pressTone(event.key);
});

/** @returns {string} The original's states, and what to do about them. */
function status() {
  if (link?.isUp) return "On call";
  if (link?.wasUp) return "Reconnecting";
  if (!session) return "Disconnected";
  if (!other || other.state === "PARTICIPANT_STATE_RECONNECTING") return "Waiting";
  if (!mediaReady) return "Connected";
  return "Ready for call";
}

const HINTS = /** @type {Record<string, string>} */ ({
  Disconnected: "Agree on a key with somebody, type it above, and connect.",
  Waiting: "Waiting for the other side. It needs the same key.",
  Connected: "The other side is here. Allow your camera and microphone to go on.",
  "Ready for call": "The other side is here. Call, or wait to be called.",
});

function showPictures() {
  remote.showPictures(link?.isUp === true);
}

function update() {
  const now = status();
  const line = find("status");
  if (line.dataset.status !== now) {
    if (now === "Ready for call" && !link && line.dataset.status !== "On call") showStatus("Set up");
    showStatus(now);
  }
  const there = session !== null;
  button("connect").textContent = there ? "Disconnect" : joining ? "Cancel" : "Connect";
  button("connect").classList.toggle("primary", !there && !joining);
  input("key").readOnly = there || joining;
  button("call").hidden = link !== null;
  button("call").disabled = now !== "Ready for call";
  button("hangup").hidden = link === null;
  button("share").disabled = !link?.isUp || !navigator.mediaDevices?.getDisplayMedia;
  button("keypad").disabled = !link?.isUp || media.audio === null;
  const canWrite = there || link?.isUp === true;
  input("text").disabled = button("send").disabled = !canWrite;
  find("empty").hidden = link?.wasUp === true;
  find("hint").textContent = link && !link.wasUp ? "Connecting …" : HINTS[now] ?? "";
  button("invite").hidden = now !== "Waiting";
}

/** @param {number} milliseconds */
function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

const NO_PATH = "No path to the other side was found. A network in between may block calls.";
const KEY = /** @type {any} */ ({ name: "ECDSA", namedCurve: "P-256" });
const ANSWER_WITHIN = 5_000;
const LAST_RESORT_AFTER = 4_000;
/** For the other side to begin. */
const LAST_RESORT_GRACE = 1500;

input("key").value = wanted.key;
update();
if (wanted.key) void connect();
