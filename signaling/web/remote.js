// @ts-check
/** What comes from the other side: its camera, its microphone, its screen. */

import { find, say, video } from "./view.js";

/** @param {RTCTrackEvent} event @param {RTCPeerConnection} pc @param {() => void} changed */
export function showTrack({ track, transceiver }, pc, changed) {
  const videos = pc.getTransceivers().filter((one) => one.receiver.track.kind === "video");
  // The first picture is the camera; a screen comes after it.
  const isScreen = track.kind === "video" && videos[0] !== transceiver;
  const shown = video(isScreen ? "remote-screen" : "remote");
  const stream = shown.srcObject instanceof MediaStream ? shown.srcObject : new MediaStream();
  stream.addTrack(track);
  if (shown.srcObject !== stream) shown.srcObject = stream;
  track.onmute = track.onunmute = track.onended = changed;
  shown.play().catch((error) => {
    if (error?.name !== "NotAllowedError") return;
    say("Click anywhere to see and hear the other side.");
    addEventListener("pointerdown", () => void shown.play().then(() => say("")), { once: true });
  });
}

/** Shows what there is to see, and says what there is not. @param {boolean} isUp */
export function showPictures(isUp) {
  const [camera, screen] = [video("remote"), video("remote-screen")];
  const [seen, heard, shared] = [live(camera, "video"), live(camera, "audio"), live(screen, "video")];
  camera.hidden = !seen && (shared || !isUp);
  screen.hidden = !shared;
  camera.parentElement?.classList.toggle("sharing", shared);
  const note = find("remote-note");
  note.textContent = seen
    ? "Their microphone is off"
    : heard ? "Their camera is off" : "Their camera and microphone are off";
  note.hidden = !isUp || (seen && heard);
}

export function clear() {
  for (const id of ["remote", "remote-screen"]) video(id).srcObject = null;
  showPictures(false);
}

/** @param {HTMLVideoElement} shown @param {string} kind */
function live(shown, kind) {
  const tracks = shown.srcObject instanceof MediaStream ? shown.srcObject.getTracks() : [];
  return tracks.some((track) => track.kind === kind && track.readyState === "live" && !track.muted);
}
