
"use strict";
// Whatever is shown is put as text: nothing here makes HTML of what the mesh says.
const at = (id) => document.getElementById(id);
const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = String(text);
  if (kind) element.className = kind;
  return element;
};
const trouble = (text) => { at("trouble").textContent = text || ""; at("trouble").hidden = !text; };
const headers = (more) => {
  const key = at("key").value;
  return Object.assign(key ? { authorization: "Bearer " + key } : {}, more);
};
async function ask(path, body) {
  const options = body === undefined ? { headers: headers() }
    : { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error((value.parameters && value.parameters.message) || (value.error && value.error.message) || answer.statusText);
  return value;
}
const time = (us) => us === undefined || us === null ? "" : us < 1000 ? us + " µs" : (us / 1000).toFixed(1) + " ms";
function showStatus(status) {
  at("context").textContent = status.context ? "context " + status.context : "no context";
  at("modules").tBodies[0].replaceChildren(...status.modules.map((module) => {
    const row = make("tr");
    const name = make("td", module.label + (module.mock ? " (mock)" : ""));
    name.title = module.flows.join(", ");
    row.append(name, make("td", module.state, module.state), make("td", module.queue), make("td", time(module.p50_us)),
      make("td", time(module.p99_us)), make("td", module.restarts), make("td", module.calls), make("td", module.reason || ""));
    return row;
  }));
}
async function follow() {
  for (;;) {
    try {
      const answer = await fetch("/v1/events", { headers: headers({ accept: "text/event-stream" }) });
      if (!answer.ok) throw new Error("the status is not open without a key, or to this one");
      trouble("");
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
          if (data && event.startsWith("event: status")) showStatus(JSON.parse(data.slice(6)));
        }
      }
    } catch (error) { trouble(error.message); }
    await new Promise((go) => setTimeout(go, 2000));
  }
}
async function list() {
  try {
    const { indexes } = await ask("/v1/indexes");
    at("index").replaceChildren(...indexes.map((index) => make("option", index.name)));
  } catch (error) { at("index").replaceChildren(); }
  try {
    const { datasets } = await ask("/v1/datasets");
    at("datasets").replaceChildren(...datasets.map((dataset) => {
      const details = make("details");
      const table = make("table");
      for (const column of dataset.columns || []) {
        const row = make("tr");
        row.append(make("td", column.name), make("td", column.arrow_type), make("td", column.source_type));
        table.append(row);
      }
      details.append(make("summary", dataset.name + ", generation " + dataset.generation + ", " + dataset.rows + " rows"), table);
      return details;
    }));
  } catch (error) { at("datasets").replaceChildren(make("p", error.message)); }
}
at("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const path = "/v1/indexes/" + encodeURIComponent(at("index").value) + "/search";
    const found = await ask(path, { text: at("query").value, mode: at("mode").value, k: 10 });
    trouble("");
    at("hits").replaceChildren(...found.results[0].map((hit) => {
      const item = make("li");
      item.append(make("b", hit.doc_id), " ", make("span", "line " + hit.line + ", score " + hit.score.toFixed(3)),
        hit.heading ? make("div", hit.heading) : "", make("pre", hit.text));
      return item;
    }));
  } catch (error) { trouble(error.message); }
});
at("key").addEventListener("change", list);
follow();
list();
