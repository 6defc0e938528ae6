// The page on a cluster: reads the engine's API with the token that was typed, and shows it. Texts of tasks
// and nodes are set as text, never as HTML.
"use strict";

const PAGE = 100;
// The most output that is shown, in characters.
const OUTPUT_MAX = 200000;
// Changes are shown at most this often, in milliseconds.
const EVERY = 700;
const STATUSES = ["pending", "backoff", "placed", "running", "stopping", "disconnected", "succeeded", "failed", "timed-out", "cancelled"];
const LOOKS = {
  succeeded: "good", running: "busy", placed: "busy", stopping: "wait", pending: "wait", backoff: "wait", disconnected: "wait",
  failed: "bad", "timed-out": "bad", cancelled: "idle",
  ready: "good", cordoned: "wait", draining: "wait", drained: "wait", degraded: "bad", lost: "bad",
};

const at = (id) => document.getElementById(id);
const state = { token: sessionStorage.getItem("token"), wanted: PAGE, task: null, output: null, live: null, changed: false, showing: false };

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

class Refused extends Error {}

async function call(path, options = {}) {
  const headers = { ...options.headers, authorization: `Bearer ${state.token}` };
  const answer = await fetch(`/api/v1${path}`, { ...options, headers, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(problem.detail || "the token is refused");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || problem.title || `the server answered ${answer.status}`);
  }
  return answer;
}

const get = async (path) => (await call(path)).json();
const post = (path, body) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

function badge(status) {
  return element("span", { className: `badge ${LOOKS[status] || "idle"}`, textContent: status.replace(/[-_]/g, " ") });
}

function ago(millis) {
  const seconds = Math.max(0, Math.round((Date.now() - millis) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

const time = (millis) => (millis === undefined || millis === null ? "" : new Date(millis).toLocaleString());
const cores = (millis) => String(Math.round(millis) / 1000);
const memory = (bytes) => (bytes >= 10 * 2 ** 30 ? `${Math.floor(bytes / 2 ** 30)}G` : `${Math.floor(bytes / 2 ** 20)}M`);

function used(free, all, show) {
  const meter = element("meter", { min: 0, max: Math.max(all, 1), value: all - free });
  return element("td", {}, meter, `${show(all - free)} of ${show(all)}`);
}

// ---- nodes

function nodeState(node) {
  const { state: known, scheduling, spec } = node.record;
  if (known === "lost") return "lost";
  if (spec.last_error) return "degraded";
  const mode = scheduling ? scheduling.mode : "open";
  if (mode === "open") return "ready";
  if (mode === "cordoned") return "cordoned";
  return node.tasks === 0 ? "drained" : "draining";
}

function nodeRow(node) {
  const { spec } = node.record;
  const now = nodeState(node);
  const labels = Object.entries(spec.labels || {}).map(([name, value]) => `${name}=${value}`).join(", ");
  const open = now === "ready" || now === "degraded";
  const path = `/nodes/${encodeURIComponent(spec.id)}/${open ? "cordon" : "uncordon"}`;
  const button = element("button", { type: "button", textContent: open ? "Cordon" : "Uncordon" });
  button.addEventListener("click", () => act(() => post(path, null)));
  return element(
    "tr", {},
    element("td", { className: "node", textContent: spec.id }),
    element("td", { title: spec.last_error || "" }, badge(now)),
    element("td", { className: "number", textContent: node.tasks }),
    used(node.free_cpu_millis, spec.capacity.cpu_millis || 0, cores),
    used(node.free_memory_bytes, spec.capacity.memory_bytes || 0, memory),
    element("td", { className: "wide", textContent: labels }),
    element("td", {}, now === "lost" ? null : button),
  );
}

// ---- tasks

function endText(end) {
  switch (end && end.end) {
    case undefined: return "";
    case "exited": return end.exit.signal ? `killed by signal ${end.exit.signal}` : `exit code ${end.exit.code}`;
    case "start_failed": return `could not start: ${end.failure.message}`;
    case "unhealthy": return `unhealthy: ${end.output}`;
    case "lost": return `lost: ${end.message}`;
    default: return end.end.replace(/[-_]/g, " ");
  }
}

function lastEnd(record) {
  const ended = (record.attempts || []).filter((attempt) => attempt.end);
  return ended.length === 0 ? "" : endText(ended[ended.length - 1].end);
}

function why(task) {
  if (task.explanation) return task.explanation.text;
  if (task.status === "failed") return lastEnd(task.record);
  if (task.status === "cancelled") return task.record.state.reason || "";
  if (["pending", "backoff"].includes(task.status)) return lastEnd(task.record);
  return (task.observed && task.observed.progress) || "";
}

function nodeOf(record) {
  const attempts = record.attempts || [];
  return record.state.node || (attempts.length ? attempts[attempts.length - 1].node : "");
}

function taskRow(task) {
  const { record } = task;
  const name = element("button", { type: "button", className: "link", textContent: record.spec.name });
  name.addEventListener("click", () => openTask(record.id));
  return element(
    "tr", {},
    element("td", { className: "wide" }, name),
    element("td", { className: "id", title: record.id, textContent: record.id.slice(0, 8) }),
    element("td", {}, badge(task.status)),
    element("td", { className: "node", textContent: nodeOf(record) }),
    element("td", { className: "number", textContent: record.attempts_made || "" }),
    element("td", { title: time(record.submitted_at), textContent: ago(record.submitted_at) }),
    element("td", { className: "wide", textContent: why(task) }),
  );
}

function emptyRow(columns, text) {
  return element("tr", {}, element("td", { colSpan: columns, className: "empty", textContent: text }));
}

async function loadTasks() {
  const query = new URLSearchParams({ order: "newest", count: "true", explain: "true", limit: Math.min(state.wanted, 1000) });
  if (at("status").value) query.set("status", at("status").value);
  if (at("name").value.trim()) query.set("name", at("name").value.trim());
  return get(`/tasks?${query}`);
}

// ---- one task

async function openTask(id) {
  stopOutput();
  state.task = id;
  at("output").textContent = "";
  await act(showTask);
  at("task").scrollIntoView({ block: "nearest" });
  followOutput(id);
}

function closeTask() {
  stopOutput();
  state.task = null;
  at("task").hidden = true;
}

async function showTask() {
  const id = state.task;
  if (!id) return;
  const task = await get(`/tasks/${id}`);
  if (state.task !== id) return;
  if (task.status === "pending") task.explanation = (await get(`/tasks/${id}/explain`)).explanation;
  const { record } = task;
  const { spec } = record;
  const work = spec.workload.image || spec.workload.program || "";
  const facts = {
    id: record.id,
    namespace: spec.namespace || "default",
    status: task.status.replace(/[-_]/g, " "),
    why: why(task),
    runs: [work, ...(spec.args || [])].join(" "),
    submitted: time(record.submitted_at),
    node: nodeOf(record),
    handle: task.observed && task.observed.handle,
  };
  at("task-head").textContent = spec.name;
  at("facts").replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [
      element("dt", { textContent: name }), element("dd", { textContent: value }),
    ]),
  );
  const attempts = (record.attempts || []).map((attempt) => element(
    "tr", {},
    element("td", { className: "number", textContent: attempt.number }),
    element("td", { className: "node", textContent: attempt.node }),
    element("td", { textContent: time(attempt.placed_at) }),
    element("td", { textContent: time(attempt.ended_at) }),
    element("td", { className: "wide", textContent: endText(attempt.end) }),
  ));
  at("attempts").replaceChildren(...(attempts.length ? attempts : [emptyRow(5, "No attempt yet.")]));
  at("cancel").hidden = record.state.phase === "finished" || task.status === "stopping";
  at("task").hidden = false;
}

function stopOutput() {
  if (state.output) state.output.abort();
  state.output = null;
}

async function followOutput(id) {
  const reading = new AbortController();
  state.output = reading;
  const shown = at("output");
  try {
    const answer = await call(`/tasks/${id}/logs?follow=true&tail=1000`, { signal: reading.signal });
    const chunks = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await chunks.read();
      if (done) break;
      const atEnd = shown.scrollHeight - shown.scrollTop - shown.clientHeight < 40;
      shown.textContent = (shown.textContent + value).slice(-OUTPUT_MAX);
      if (atEnd) shown.scrollTop = shown.scrollHeight;
    }
    if (!shown.textContent) shown.textContent = "It printed nothing.";
  } catch (error) {
    if (!reading.signal.aborted) shown.textContent += `\n[output broke off: ${error.message}]`;
  }
}

// ---- everything

function summary(status, nodes) {
  const ready = nodes.filter((node) => node.record.state !== "lost").length;
  const tasks = Object.entries(status.tasks).filter(([, count]) => count > 0);
  const counts = tasks.map(([name, count]) => `${count} ${name.replace(/[-_]/g, " ")}`).join(", ");
  const error = status.consensus.last_error || status.scheduler_error;
  return [`${ready} of ${nodes.length} nodes`, counts || "no tasks", error].filter(Boolean).join(" · ");
}

async function refresh() {
  const [status, { nodes }, page] = await Promise.all([get("/status"), get("/nodes"), loadTasks(), showTask()]);
  at("summary").textContent = summary(status, nodes);
  at("nodes").replaceChildren(...(nodes.length ? nodes.map(nodeRow) : [emptyRow(7, "No node has joined yet.")]));
  at("tasks").replaceChildren(...(page.tasks.length ? page.tasks.map(taskRow) : [emptyRow(7, "No task is like that.")]));
  at("total").textContent = page.total > page.tasks.length ? `${page.tasks.length} of ${page.total}` : `${page.total}`;
  at("more").hidden = !page.next || state.wanted >= 1000;
}

// Does something the user asked for, then shows what is there; a failure is told, and a refused token asked for again.
async function act(work) {
  try {
    await work();
    if (work !== refresh) await refresh();
    return true;
  } catch (error) {
    if (error instanceof Refused) leave(error.message);
    else at("summary").textContent = error.message;
    return false;
  }
}

// Shows what is there before long. What changes while that is under way is shown after it.
async function soon() {
  state.changed = true;
  if (state.showing) return;
  state.showing = true;
  while (state.changed) {
    await new Promise((resume) => setTimeout(resume, EVERY));
    state.changed = false;
    await act(refresh);
  }
  state.showing = false;
}

// Something changes: each event asks for a refresh. When the connection breaks it is opened again.
async function live() {
  const listening = new AbortController();
  state.live = listening;
  while (!listening.signal.aborted) {
    try {
      const answer = await call("/events", { signal: listening.signal });
      const chunks = answer.body.getReader();
      soon();
      while (!(await chunks.read()).done) soon();
    } catch (error) {
      if (error instanceof Refused) return leave(error.message);
      if (listening.signal.aborted) return;
      at("summary").textContent = "The server cannot be reached; trying again.";
    }
    await new Promise((resume) => setTimeout(resume, 2000));
  }
}

async function enter(token) {
  state.token = token;
  at("refused").textContent = "";
  if (!(await act(refresh))) return;
  sessionStorage.setItem("token", token);
  at("enter").hidden = true;
  at("cluster").hidden = false;
  at("leave").hidden = false;
  live();
}

function leave(reason) {
  closeTask();
  if (state.live) state.live.abort();
  sessionStorage.removeItem("token");
  state.token = null;
  at("summary").textContent = "";
  at("cluster").hidden = true;
  at("leave").hidden = true;
  at("enter").hidden = false;
  at("token").value = "";
  at("refused").textContent = reason || "";
  at("token").focus();
}

at("status").append(...STATUSES.map((status) => element("option", { value: status, textContent: status.replace(/[-_]/g, " ") })));
at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(at("token").value.trim());
});
at("filter").addEventListener("submit", (event) => event.preventDefault());
for (const change of ["input", "change"]) at("filter").addEventListener(change, () => {
  state.wanted = PAGE;
  soon();
});
at("more").addEventListener("click", () => {
  state.wanted += PAGE;
  act(refresh);
});
at("leave").addEventListener("click", () => leave());
at("close").addEventListener("click", closeTask);
at("cancel").addEventListener("click", () => {
  const id = state.task;
  if (id && confirm("Cancel this task?")) act(() => post(`/tasks/${id}/cancel`, { reason: "cancelled on the page" }));
});
if (state.token) enter(state.token);
else leave();
