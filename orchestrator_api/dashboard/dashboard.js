// Everything that comes from the API is put in as text, never as markup.
"use strict";

const EVERY_MS = 2000;
const SHOWN_BATCHES = 5;

function element(tag, attributes, ...children) {
  const made = tag === "svg" || tag === "rect"
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  for (const child of children) made.append(child instanceof Node ? child : String(child ?? "–"));
  return made;
}

async function ask(path) {
  const key = sessionStorage.getItem("key");
  const headers = key ? {Authorization: `Bearer ${key}`} : {};
  const answer = await fetch(`/api/v1${path}`, {headers});
  if (answer.status === 401) document.getElementById("key").hidden = false;
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || answer.statusText);
  return body;
}

function table(columns, rows) {
  if (!rows.length) return element("p", {class: "empty"}, "none");
  const kind = (value) => (typeof value === "number" ? {class: "number"} : {});
  const head = element("tr", {}, ...columns.map((name, i) => element("th", kind(rows[0][i]), name)));
  const lines = rows.map((row) => element("tr", {}, ...row.map((value) => element("td", kind(value), value))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines));
}

function stacked(parts, whole, words) {
  const picture = element("svg", {viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img"});
  let at = 0;
  for (const [kind, amount] of parts) {
    const width = whole ? Math.min(1000 - at, (1000 * (amount || 0)) / whole) : 0;
    picture.append(element("rect", {class: kind, x: at, y: 0, width, height: 10}));
    at += width;
  }
  picture.setAttribute("aria-label", words);
  return element("div", {class: "bar", title: words}, picture);
}

function bar(counts, total) {
  const parts = ["done", "failed", "running", "queued"].map((state) => [state, counts[state]]);
  return stacked(parts, total, `${counts.done || 0} done, ${counts.failed || 0} failed, ${counts.running || 0} running`);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.round(seconds);
  return s < 90 ? `${s} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);
const time = (ms) => (ms ? new Date(ms).toLocaleTimeString() : "–");

async function showBatches() {
  const {batches} = await ask(`/batches?limit=${SHOWN_BATCHES}`);
  const whole = await Promise.all(batches.map((one) => ask(`/batches/${encodeURIComponent(one.batch_id)}`)));
  if (!whole.length) return [element("p", {class: "empty"}, "none")];
  return whole.flatMap((batch) => {
    const counts = `${batch.done} of ${batch.total} done, ${batch.failed} failed, ${batch.skipped} skipped`;
    const pace = `${batch.rate_per_min} a minute, left: ${duration(batch.eta_s)}`;
    const stalled = batch.stalled ? [element("strong", {class: "bad"}, " stalled")] : [];
    // A node in a loop runs more often than there are items.
    const rows = batch.per_node.map((node) => {
      const most = Math.max(batch.total, node.done + node.failed + node.running + node.queued);
      return [element("code", {}, node.node_id), bar(node, most), node.queued, node.running, node.done, node.failed];
    });
    return [
      element("h3", {}, element("code", {}, batch.batch_id), ` ${batch.workflow_id} – ${batch.status}`, ...stalled),
      element("p", {class: "quiet"}, `${counts}; ${pace}`),
      bar({...batch, queued: batch.pending}, batch.total),
      table(["node", "", "queued", "running", "done", "failed"], rows),
    ];
  });
}

function breaker(model) {
  if (!model.breakers.length) return "closed";
  const words = model.breakers.map((one) => `${one.runner}: ${one.reason || "open"}`).join(", ");
  return element("span", {class: "bad"}, words);
}

async function showModels() {
  const {models} = await ask("/models");
  const rows = models.map((model) => [
    model.model, model.queued, model.interactive, duration(model.oldest_s), model.running, model.rate_per_min ?? "–",
    model.loads, model.holders.join(", ") || "–", breaker(model),
  ]);
  const columns = ["model", "queued", "fast", "oldest", "running", "a minute", "loads", "held by", "breaker"];
  return [table(columns, rows)];
}

function serves(runner) {
  if (!runner.engine) return runner.types.join(" ");
  const models = runner.models.map((model) => {
    const words = `${model.state === "ready" ? "" : model.state + " "}${model.model} ${model.running}/${model.slots}`;
    return element(model.model === runner.focus_model ? "strong" : "span", {}, words);
  });
  if (runner.target && !runner.residents.includes(runner.target)) models.push(`next ${runner.target}`);
  const listed = models.flatMap((model, i) => (i ? [", ", model] : [model]));
  const why = runner.held || (runner.state === "waiting" ? runner.reason : null);
  return element("span", {}, ...listed, ...(why ? [element("span", {class: "bad"}, ` ${why}`)] : []));
}

function shares(runner) {
  if (runner.active_share === null) return "–";
  const parts = ["active", "loading"].map((kind) => [kind, runner[`${kind}_share`]]);
  return stacked(parts, 1, ["active", "loading", "idle"].map((kind) => `${percent(runner[`${kind}_share`])} ${kind}`).join(", "));
}

async function showRunners() {
  const {runners} = await ask("/runners");
  const rows = runners.map((runner) => [
    runner.runner_id, [runner.kind, runner.engine].filter(Boolean).join(" ") || "–", runner.state, serves(runner),
    `${runner.running ?? 0} / ${runner.slots ?? 0}`, runner.loads ?? "–", shares(runner), percent(runner.active_share),
    percent(runner.loading_share), duration(runner.heartbeat_age_s),
  ]);
  const columns = ["runner", "GPU", "state", "serves", "tasks", "loads", "its time", "active", "loading", "heartbeat"];
  return [table(columns, rows)];
}

async function showRuns() {
  const {runs} = await ask("/runs?limit=20");
  const rows = runs.map((run) => [
    element("code", {}, run.run_id), run.workflow_id, run.status, time(run.created_at), time(run.ended_at),
    run.error ? run.error.message || run.error.reason || "" : "",
  ]);
  return [table(["run", "workflow", "status", "started", "ended", "error"], rows)];
}

async function showHealth() {
  const {status, components} = await ask("/health");
  const wrong = Object.entries(components).filter(([, part]) => part.status !== "ok");
  const words = wrong.map(([name, part]) => `${name}: ${part.reason || part.status}`).join(", ");
  const place = document.getElementById("health");
  place.className = wrong.length ? "bad" : "quiet";
  place.textContent = words || status;
}

async function show(id, build) {
  const place = document.getElementById(id);
  try {
    place.replaceChildren(...(await build()));
  } catch (error) {
    place.replaceChildren(element("p", {class: "bad"}, error.message));
  }
}

async function refresh() {
  if (!document.hidden) {
    await Promise.all([
      showHealth().catch((error) => { document.getElementById("health").textContent = error.message; }),
      show("batches", showBatches), show("models", showModels), show("runners", showRunners), show("runs", showRuns),
    ]);
  }
  setTimeout(refresh, EVERY_MS);
}

document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", new FormData(event.target).get("key"));
  event.target.hidden = true;
});
refresh();
