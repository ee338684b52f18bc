// SPDX-License-Identifier: Apache-2.0

// Keeps the page as the server says it is: whole once after the connection, then part by part.
"use strict";
(() => {
  const main = document.getElementById("main");
  const spoken = document.getElementById("spoken");
  const connection = document.getElementById("connection");
  const connectionText = document.getElementById("connection-text");
  let stream;

  const options = {
    ignoreActiveValue: true, // what is being typed stays
    callbacks: {
      // What is the same is left alone.
      beforeNodeMorphed: (before, after) => !(before.nodeType === Node.ELEMENT_NODE && before.isEqualNode(after)),
    },
  };

  function element(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  // tell says how the connection is, once for each change.
  function tell(look, text) {
    if (connectionText.textContent === text) return;
    connection.dataset.look = look;
    connectionText.textContent = text;
  }

  function applyPart(part) {
    const old = document.getElementById(part.id);
    if (!part.html) {
      if (old) old.remove();
      return;
    }
    const made = element(part.html);
    ages(made);
    if (old) {
      Idiomorph.morph(old, made, { morphStyle: "outerHTML", ...options });
      return;
    }
    const within = document.getElementById(part.in);
    if (!within) return;
    const before = part.after && document.getElementById(part.after);
    if (before && before.parentElement === within) before.after(made);
    else within.prepend(made);
  }

  function apply(message) {
    const output = document.getElementById("output");
    const atEnd = output && output.scrollHeight - output.scrollTop - output.clientHeight < 24;
    if (message.main) {
      const made = element("<main>" + message.main + "</main>");
      ages(made); // what only got older is no difference
      Idiomorph.morph(main, made.innerHTML, { morphStyle: "innerHTML", ...options });
    }
    for (const part of message.parts || []) applyPart(part);
    ages(main); // all at one time, so that they agree
    if (message.say) spoken.textContent = message.say;
    if (output && atEnd) output.scrollTop = output.scrollHeight;
  }

  function connect() {
    if (stream) stream.close();
    stream = new EventSource(location.href);
    stream.onopen = () => tell("good", "Live");
    stream.onmessage = (event) => apply(JSON.parse(event.data));
    stream.onerror = () => {
      if (stream.readyState === EventSource.CLOSED) tell("bad", "Not live: reload the page, or start the dashboard again");
      else tell("bad", "Not live: waiting for the dashboard to answer");
    };
  }

  // age writes a time as kubectl does.
  function age(seconds) {
    const units = [["d", 86400], ["h", 3600], ["m", 60]];
    for (const [unit, size] of units) {
      if (seconds >= size) return Math.floor(seconds / size) + unit;
    }
    return Math.floor(seconds) + "s";
  }

  // ages turns the times within an element into ages; those to come are told as such.
  function ages(within) {
    for (const time of within.querySelectorAll("time")) {
      const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
      const text = seconds >= 0 ? age(seconds) : "in " + age(-seconds);
      if (time.textContent !== text) time.textContent = text;
      if (!time.title) time.title = new Date(time.dateTime).toLocaleString();
    }
  }

  // A browser has six connections for all pages of a server: one that nobody sees gives its own up.
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") connect();
    else if (stream) {
      stream.close();
      tell("wait", "Paused");
    }
  });

  // The filter works as it is typed, and stands in the address.
  let typing;
  function filter() {
    const form = document.getElementById("filter");
    const query = new URLSearchParams(new FormData(form));
    for (const [name, value] of [...query]) if (!value) query.delete(name);
    history.replaceState(null, "", query.size ? "?" + query : location.pathname);
    connect();
  }
  document.addEventListener("input", (event) => {
    if (!event.target.closest("#filter")) return;
    clearTimeout(typing);
    typing = setTimeout(filter, 200);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "filter") return;
    event.preventDefault();
    clearTimeout(typing);
    filter();
  });

  ages(main);
  setInterval(() => ages(main), 5000);
  connect();
})();
