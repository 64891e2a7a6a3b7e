
"use strict";
// The server makes every view, and escapes whatever is not its own; here text is put as text. Without a script all of it works but two
// things: the key, which no link can carry, and the modules as they change.
const at = (id) => document.getElementById(id);
const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = String(text);
  if (kind) element.className = kind;
  return element;
};
const trouble = (text) => { at("trouble").textContent = text || ""; at("trouble").hidden = !text; };
const headers = (accept) => {
  const key = at("key").value;
  return Object.assign({ accept }, key ? { authorization: "Bearer " + key } : {});
};
const told = (text, status) => {
  try {
    const value = JSON.parse(text);
    return (value.parameters && value.parameters.message) || status;
  } catch (error) { return status; }
};
// Opens a view with the key: its answer is a whole page, of which the content is put in place of the one that is there.
async function open(url, options, remember) {
  try {
    const answer = await fetch(url, Object.assign({ headers: headers("text/html") }, options));
    const text = await answer.text();
    if (!(answer.headers.get("content-type") || "").startsWith("text/html")) throw new Error(told(text, answer.statusText));
    trouble("");
    const page = new DOMParser().parseFromString(text, "text/html");
    document.title = page.title;
    for (const part of ["main", "nav"]) document.querySelector(part).replaceWith(document.adoptNode(page.querySelector(part)));
    if (remember) history.pushState(null, "", url);
    at("main").focus();
    follow();
  } catch (error) { trouble(error.message); }
}
const isOurs = (link) => link.origin === location.origin && !link.hash && (link.pathname === "/" || link.pathname.startsWith("/page/"));
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || !at("key").value || !isOurs(link) || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  open(link.href, {}, true);
});
document.addEventListener("submit", (event) => {
  if (!at("key").value) return;
  event.preventDefault();
  const form = event.target, fields = new URLSearchParams(new FormData(form));
  if (form.method === "post") open(form.action, { method: "POST", body: fields }, false);
  else open(form.action + "?" + fields, {}, true);
});
addEventListener("popstate", () => { if (at("key").value) open(location.href, {}, false); else location.reload(); });
at("keys").hidden = false;
at("key").addEventListener("change", () => open(location.pathname === "/page/matrix" ? "/page/score" : location.href, {}, false));
// The modules as they are, for as long as their table is there.
const time = (us) => us === undefined || us === null ? "" : us < 1000 ? us + " µs" : (us / 1000).toFixed(1) + " ms";
const row = (module) => {
  const line = make("tr"), name = make("th", module.label + (module.mock ? " (mock)" : ""));
  name.scope = "row";
  name.title = module.flows.join(", ");
  line.append(name, make("td", module.state, module.state), ...[module.queue, time(module.p50_us), time(module.p99_us), module.restarts,
    module.calls, module.failures].map((value) => make("td", value, "n")), make("td", module.reason));
  return line;
};
function show(status) {
  if (!at("modules")) return;
  at("context").textContent = status.context ? "Context " + status.context : "No context";
  at("modules").tBodies[0].replaceChildren(...status.modules.map(row));
}
let following = null;
async function follow() {
  if (following) following.abort();
  following = null;
  if (!at("modules")) return;
  const own = following = new AbortController();
  const say = (text) => { if (at("live") && at("live").textContent !== text) at("live").textContent = text; };
  for (let pause = 2000; own === following && at("modules"); pause = Math.min(pause * 2, 60000)) {
    try {
      const answer = await fetch("/v1/events", { headers: headers("text/event-stream"), signal: own.signal });
      if (!answer.ok) throw new Error(told(await answer.text(), answer.statusText));
      say("(live)");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        const events = rest.split("\n\n");
        rest = events.pop();
        for (const event of events) {
          const data = event.split("\n").find((line) => line.startsWith("data: "));
          if (data && event.startsWith("event: status")) { show(JSON.parse(data.slice(6))); pause = 1000; }
        }
      }
      say("(not live: the connection ended)");
    } catch (error) {
      if (own !== following) return;
      say("(not live: " + error.message + ")");
    }
    await new Promise((go) => setTimeout(go, pause));
  }
}
follow();
