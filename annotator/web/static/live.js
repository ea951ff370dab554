// Keeps the dashboard's parts as new as the server has them. It is told by server-sent events
// which parts changed and fetches those; where events do not arrive, it asks every two seconds.
"use strict";

(() => {
  const POLL_MS = 2000;
  const RECONNECT_MS = 5000;
  const ANNOUNCE_MS = 10000;
  const state = document.getElementById("link-state");
  const announcer = document.getElementById("announcer");
  const busy = new Set();
  const again = new Set();
  const waiting = new Set();
  let latest = {};
  let polling = null;
  let changed = new Set();
  let announced = 0;
  let announcing = null;

  const say = (mode) => {
    const words = state.dataset[mode];
    if (state.textContent !== words) state.textContent = words;
  };

  const element = (name) => document.getElementById("part-" + name);

  // What the reader is at inside a part: found again in its new markup.
  const place = (part) => {
    const active = document.activeElement;
    if (!active || !part.contains(active)) return null;
    if (active.id) return "#" + CSS.escape(active.id);
    for (const name of ["href", "name"]) {
      const value = active.getAttribute(name);
      if (value) return "[" + name + "=\"" + CSS.escape(value) + "\"]";
    }
    return active.tagName.toLowerCase();
  };

  const isSelecting = (part) => {
    const selection = window.getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const openDetails = (part) => [...part.querySelectorAll("details")].map((one) => one.open);

  const replace = (name, html) => {
    const old = element(name);
    const fresh = new DOMParser().parseFromString(html, "text/html").querySelector("[data-part]");
    if (!old || !fresh) return;
    const focus = place(old);
    const open = openDetails(old);
    const scrolled = old.scrollLeft;
    const above = old.getBoundingClientRect().bottom < 0;
    const height = old.offsetHeight;
    old.replaceWith(document.adoptNode(fresh));
    fresh.querySelectorAll("details").forEach((one, i) => { if (open[i]) one.open = true; });
    fresh.scrollLeft = scrolled;
    // What is read further down stays where it is.
    if (above && !CSS.supports("overflow-anchor", "auto")) window.scrollBy(0, fresh.offsetHeight - height);
    if (focus) {
      const again = fresh.querySelector(focus);
      if (again) again.focus({ preventScroll: true });
    }
    fresh.classList.add("fresh");
    showAges();
    announce(fresh.dataset.heading);
  };

  const announce = (label) => {
    changed.add(label);
    if (announcing !== null) return;
    const wait = Math.max(0, announced + ANNOUNCE_MS - Date.now());
    announcing = setTimeout(() => {
      announcing = null;
      announced = Date.now();
      const votes = document.getElementById("n-votes");
      announcer.textContent = "Updated: " + [...changed].join(", ") + (votes ? ". " + votes.textContent + " votes." : ".");
      changed = new Set();
    }, wait);
  };

  const refresh = async (name) => {
    if (busy.has(name)) { again.add(name); return; }
    busy.add(name);
    try {
      const answer = await fetch("/fragments/" + encodeURIComponent(name), { cache: "no-store" });
      if (answer.status === 401) { window.location.assign("/login"); return; }
      if (answer.ok) replace(name, await answer.text());
    } catch (error) {
      // The next event or question brings it.
    } finally {
      busy.delete(name);
      if (again.delete(name)) refresh(name);
    }
  };

  const compare = () => {
    waiting.clear();
    for (const [name, [version, madeAt]] of Object.entries(latest)) {
      const part = element(name);
      if (!part) continue;
      if (part.dataset.version === version) {
        const time = part.querySelector(":scope > .age time");
        if (time && time.dateTime !== madeAt) { time.dateTime = madeAt; showAges(); }
      } else if (isSelecting(part)) {
        waiting.add(name);
      } else {
        refresh(name);
      }
    }
  };

  const ask = async () => {
    try {
      const answer = await fetch("/fragments", { cache: "no-store" });
      if (answer.status === 401) { window.location.assign("/login"); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      latest = await answer.json();
      say("polling");
      compare();
    } catch (error) {
      say("lost");
    }
  };

  const poll = (on) => {
    if (on && polling === null) { ask(); polling = setInterval(ask, POLL_MS); }
    if (!on && polling !== null) { clearInterval(polling); polling = null; }
  };

  const listen = () => {
    if (!("EventSource" in window)) { poll(true); return; }
    const events = new EventSource("/events");
    events.addEventListener("parts", (event) => {
      poll(false);
      say("live");
      latest = JSON.parse(event.data);
      compare();
    });
    events.addEventListener("error", () => {
      poll(true);
      if (events.readyState === EventSource.CLOSED) setTimeout(listen, RECONNECT_MS);
    });
  };

  const age = (seconds) => {
    if (seconds < 10) return "just now";
    if (seconds < 90) return Math.round(seconds / 10) * 10 + " s ago";
    if (seconds < 5400) return Math.round(seconds / 60) + " min ago";
    if (seconds < 129600) return Math.round(seconds / 3600) + " h ago";
    return Math.round(seconds / 86400) + " days ago";
  };

  const showAges = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      const words = age(Math.max(0, (Date.now() - at) / 1000));
      if (time.textContent !== words) time.textContent = words;
      time.title = new Date(at).toLocaleString();
    }
  };

  document.addEventListener("selectionchange", () => { if (waiting.size) compare(); });
  setInterval(showAges, 5000);
  showAges();
  listen();
})();
