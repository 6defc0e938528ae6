// The page on a cluster: reads the engine's API with the token that was typed, and shows it. Texts of tasks
// and nodes are set as text, never as HTML.
"use strict";

const PAGE = 100;
// The most rows of tasks, the most output that is shown (in characters), and times in milliseconds: between
// two refreshes, of an answer, of silence of the events, and before something is tried again.
const ROWS_MAX = 1000;
const OUTPUT_MAX = 200000;
const EVERY = 700;
const ANSWER_WITHIN = 15000;
const SILENCE_MAX = 45000;
const RETRY_DELAY = 2000;
const STATUSES = ["pending", "backoff", "placed", "running", "stopping", "disconnected", "succeeded", "failed", "timed-out", "cancelled"];
const LOOKS = {
  succeeded: "good", running: "busy", placed: "busy", stopping: "wait", pending: "wait", backoff: "wait", disconnected: "wait",
  failed: "bad", "timed-out": "bad", cancelled: "idle",
  ready: "good", cordoned: "wait", draining: "wait", drained: "wait", degraded: "bad", lost: "bad",
};

const at = (id) => document.getElementById(id);
const pause = (time) => new Promise((resume) => setTimeout(resume, time));
const words = (text) => text.replace(/[-_]/g, " ");

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// The text is set only where it is another one: a live region would say it again.
function tell(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

// ---- calls

class Refused extends Error {}
class Gone extends Error {}

// One use of a token, from its entry until it is forgotten. What belongs to an earlier one is dropped.
class Session {
  constructor(token) {
    this.token = token;
    this.ended = new AbortController();
    this.wanted = PAGE;
    this.task = null;
    this.follower = null;
    this.changed = false;
    this.showing = false;
  }

  get isOver() {
    return this.ended.signal.aborted;
  }

  // `within` bounds the time until the answer begins; a stream has no bound on its length.
  async call(path, options = {}, within = ANSWER_WITHIN) {
    const signals = [this.ended.signal];
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), within);
    signals.push(late.signal);
    if (options.signal) signals.push(options.signal);
    const headers = { ...options.headers, authorization: `Bearer ${this.token}` };
    let answer;
    try {
      answer = await fetch(`/api/v1${path}`, { ...options, headers, cache: "no-store", signal: AbortSignal.any(signals) });
    } catch (error) {
      throw late.signal.aborted ? new Error("the server does not answer") : new Error("the server cannot be reached");
    } finally {
      clearTimeout(timer);
    }
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    const detail = problem.detail || problem.title || `the server answered ${answer.status}`;
    if (answer.status === 401 || answer.status === 403) throw new Refused(detail);
    throw answer.status === 404 ? new Gone(detail) : new Error(detail);
  }

  async get(path) {
    return (await this.call(path)).json();
  }

  post(path, body) {
    return this.call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  }
}

let session = null;

// ---- values

function badge(status) {
  return element("span", { className: `badge ${LOOKS[status] || "idle"}`, textContent: words(status) });
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

// ---- rows, which stay while their key does, so that focus and clicks are not lost by a refresh

function showRows(table, columns, entries, none) {
  const body = at(table);
  const before = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const rows = entries.map(({ key, cells, title }) => {
    const row = before.get(key) || element("tr", {});
    row.dataset.key = key;
    if (title) row.title = title;
    cells.forEach((cell, number) => {
      const old = row.children[number];
      if (!old) row.append(cell);
      else if (old.outerHTML !== cell.outerHTML) old.replaceWith(cell);
    });
    return row;
  });
  if (rows.length === 0) rows.push(element("tr", {}, element("td", { colSpan: columns, className: "empty", textContent: none })));
  const same = rows.length === body.children.length && rows.every((row, number) => row === body.children[number]);
  if (!same) body.replaceChildren(...rows);
}

function cell(text, className = "") {
  return element("td", { className, textContent: text === undefined || text === null ? "" : String(text) });
}

// A button whose meaning is in its data: one handler for each table finds it.
function action(text, deed, key, label) {
  const made = element("button", { type: "button", textContent: text });
  Object.assign(made.dataset, { deed, key });
  if (label) made.setAttribute("aria-label", label);
  return made;
}

function used(what, free, all, show) {
  const text = `${show(all - free)} of ${show(all)}`;
  const meter = element("meter", { min: 0, max: Math.max(all, 1), value: all - free });
  meter.setAttribute("aria-label", `${what}: ${text} in use`);
  return element("td", {}, meter, text);
}

// ---- nodes

function nodeState(node) {
  const { state, scheduling, spec } = node.record;
  if (state === "lost") return "lost";
  if (spec.last_error) return "degraded";
  const mode = scheduling ? scheduling.mode : "open";
  if (mode === "open") return "ready";
  if (mode === "cordoned") return "cordoned";
  return node.tasks === 0 ? "drained" : "draining";
}

function nodeEntry(node) {
  const { spec } = node.record;
  const now = nodeState(node);
  const deed = now === "ready" || now === "degraded" ? "cordon" : "uncordon";
  const button = action(deed === "cordon" ? "Cordon" : "Uncordon", deed, spec.id, `${deed} ${spec.id}`);
  const labels = Object.entries(spec.labels || {}).map(([name, value]) => `${name}=${value}`).join(", ");
  const cells = [
    cell(spec.id, "node"),
    element("td", {}, badge(now)),
    cell(node.tasks, "number"),
    used("CPU", node.free_cpu_millis, spec.capacity.cpu_millis || 0, cores),
    used("memory", node.free_memory_bytes, spec.capacity.memory_bytes || 0, memory),
    cell(labels, "wide"),
    element("td", {}, now === "lost" ? null : button),
  ];
  return { key: spec.id, cells, title: spec.last_error || "" };
}

// ---- tasks

function endText(end) {
  switch (end && end.end) {
    case undefined: return "";
    case "exited": return end.exit.signal ? `killed by signal ${end.exit.signal}` : `exit code ${end.exit.code}`;
    case "start_failed": return `could not start: ${end.failure.message}`;
    case "unhealthy": return `unhealthy: ${end.output}`;
    case "lost": return `lost: ${end.message}`;
    default: return words(end.end);
  }
}

function lastEnd(record) {
  const ended = (record.attempts || []).filter((attempt) => attempt.end);
  return ended.length === 0 ? "" : endText(ended[ended.length - 1].end);
}

function why(task) {
  if (task.explanation) return task.explanation.text;
  if (["failed", "pending", "backoff"].includes(task.status)) return lastEnd(task.record);
  if (task.status === "cancelled") return task.record.state.reason || "";
  return (task.observed && task.observed.progress) || "";
}

function nodeOf(record) {
  const attempts = record.attempts || [];
  return record.state.node || (attempts.length ? attempts[attempts.length - 1].node : "");
}

function taskEntry(task) {
  const { record } = task;
  const name = action(record.spec.name, "open", record.id);
  name.className = "link";
  const cells = [
    element("td", { className: "wide" }, name),
    element("td", { className: "id", title: record.id, textContent: record.id.slice(0, 8) }),
    element("td", {}, badge(task.status)),
    cell(nodeOf(record), "node"),
    cell(record.attempts_made || "", "number"),
    element("td", { title: time(record.submitted_at), textContent: ago(record.submitted_at) }),
    cell(why(task), "wide"),
  ];
  return { key: record.id, cells };
}

// Pages until as many tasks are there as are wanted: a page with large tasks ends early.
async function loadTasks(of) {
  const query = new URLSearchParams({ order: "newest", explain: "true" });
  if (at("status").value) query.set("status", at("status").value);
  if (at("name").value.trim()) query.set("name", at("name").value.trim());
  const all = { tasks: [], total: 0, next: null };
  do {
    query.set("limit", of.wanted - all.tasks.length);
    query.set("count", all.next === null);
    if (all.next !== null) query.set("after", all.next);
    const page = await of.get(`/tasks?${query}`);
    all.tasks.push(...page.tasks);
    if (all.next === null) all.total = page.total;
    all.next = page.next;
  } while (all.next && all.tasks.length < of.wanted);
  return all;
}

// ---- one task

function openTask(of, id) {
  stopOutput(of);
  of.task = id;
  at("task").hidden = true;
  at("output").textContent = "";
  followOutput(of, id);
  act(of, async () => {
    await showTask(of);
    if (of.task === id) at("task").scrollIntoView({ block: "nearest" });
  });
}

function closeTask(of) {
  stopOutput(of);
  of.task = null;
  at("task").hidden = true;
}

async function showTask(of) {
  const id = of.task;
  if (!id) return;
  let task;
  try {
    task = await of.get(`/tasks/${id}`);
    if (task.status === "pending") task.explanation = (await of.get(`/tasks/${id}/explain`)).explanation;
  } catch (error) {
    if (!(error instanceof Gone)) throw error;
    if (of.task === id) {
      closeTask(of);
      tell("notice", "The task that was open is no longer kept.");
    }
    return;
  }
  if (of.task !== id || of.isOver) return;
  const { record } = task;
  const { spec } = record;
  const work = spec.workload.image || spec.workload.program || "";
  const facts = {
    id: record.id,
    namespace: spec.namespace || "default",
    status: words(task.status),
    why: why(task),
    runs: [work, ...(spec.args || [])].join(" "),
    submitted: time(record.submitted_at),
    node: nodeOf(record),
    handle: task.observed && task.observed.handle,
  };
  tell("task-head", spec.name);
  at("facts").replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [
      element("dt", { textContent: name }), element("dd", { textContent: value }),
    ]),
  );
  const attempts = (record.attempts || []).map((attempt) => ({
    key: String(attempt.number),
    cells: [
      cell(attempt.number, "number"), cell(attempt.node, "node"), cell(time(attempt.placed_at)),
      cell(time(attempt.ended_at)), cell(endText(attempt.end), "wide"),
    ],
  }));
  showRows("attempts", 5, attempts, "No attempt yet.");
  Object.assign(at("cancel").dataset, { key: id, name: spec.name });
  at("cancel").hidden = record.state.phase === "finished" || task.status === "stopping";
  at("task").hidden = false;
}

function stopOutput(of) {
  if (of.follower) of.follower.abort();
  of.follower = null;
}

// Shows the last lines and what follows. When the connection breaks, the last lines are read again.
async function followOutput(of, id) {
  const follower = new AbortController();
  of.follower = follower;
  const shown = at("output");
  const isCurrent = () => of.follower === follower && !of.isOver;
  while (isCurrent()) {
    try {
      const answer = await of.call(`/tasks/${id}/logs?follow=true&tail=1000`, { signal: follower.signal });
      const chunks = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      if (isCurrent()) shown.textContent = "";
      for (;;) {
        const { value, done } = await chunks.read();
        if (!isCurrent()) return;
        if (done) break;
        const atEnd = shown.scrollHeight - shown.scrollTop - shown.clientHeight < 40;
        shown.textContent = (shown.textContent + value).slice(-OUTPUT_MAX);
        if (atEnd) shown.scrollTop = shown.scrollHeight;
      }
      if (!shown.textContent) shown.textContent = "It printed nothing.";
      return;
    } catch (error) {
      if (!isCurrent() || error instanceof Gone || error instanceof Refused) return;
    }
    await pause(RETRY_DELAY);
  }
}

// ---- everything

function summary(status, nodes) {
  const ready = nodes.filter((node) => node.record.state !== "lost").length;
  const tasks = Object.entries(status.tasks).filter(([, count]) => count > 0);
  const counts = tasks.map(([name, count]) => `${count} ${words(name)}`).join(", ");
  const lost = status.consensus.lost_history;
  const error = status.consensus.last_error || status.scheduler_error ||
    (lost && `the store came back at revision ${lost.found}: decisions up to revision ${lost.expected} may be lost`);
  return [`${ready} of ${nodes.length} nodes`, counts || "no tasks", error].filter(Boolean).join(" · ");
}

async function refresh(of) {
  const [status, { nodes }, page] =
    await Promise.all([of.get("/status"), of.get("/nodes"), loadTasks(of), showTask(of)]);
  if (of.isOver) return;
  tell("summary", summary(status, nodes));
  tell("trouble", "");
  showRows("nodes", 7, nodes.map(nodeEntry), "No node has joined yet.");
  showRows("tasks", 7, page.tasks.map(taskEntry), "No task is like that.");
  tell("total", page.total > page.tasks.length ? `${page.tasks.length} of ${page.total}` : `${page.total}`);
  at("more").hidden = !page.next || of.wanted >= ROWS_MAX;
}

// Does something the user asked for, then shows what is there. A failure is told, and a refused token asked
// for again.
async function act(of, work) {
  try {
    await work();
    if (!of.isOver) await refresh(of);
    return true;
  } catch (error) {
    if (of.isOver) return false;
    if (error instanceof Refused) leave(error.message);
    else tell("trouble", error.message);
    return false;
  }
}

// Shows what is there before long. What changes while that is under way is shown after it.
async function soon(of) {
  of.changed = true;
  if (of.showing) return;
  of.showing = true;
  while (of.changed && !of.isOver) {
    await pause(EVERY);
    of.changed = false;
    if (!of.isOver) await act(of, async () => {});
  }
  of.showing = false;
}

// Each event asks for a refresh. A connection that breaks or falls silent is opened again.
async function live(of) {
  while (!of.isOver) {
    const listening = new AbortController();
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => listening.abort(), SILENCE_MAX);
    };
    try {
      const answer = await of.call("/events", { signal: listening.signal });
      const chunks = answer.body.getReader();
      do {
        heard();
        soon(of);
      } while (!(await chunks.read()).done);
    } catch (error) {
      if (of.isOver) return;
      if (error instanceof Refused) return leave(error.message);
      tell("trouble", "The server cannot be reached; trying again.");
    } finally {
      clearTimeout(silence);
    }
    await pause(RETRY_DELAY);
  }
}

// What the tab keeps. A browser may forbid it; then the token is asked for at each visit.
const kept = {
  get: () => { try { return sessionStorage.getItem("token"); } catch { return null; } },
  set: (token) => { try { sessionStorage.setItem("token", token); } catch { /* it is asked for again */ } },
  remove: () => { try { sessionStorage.removeItem("token"); } catch { /* nothing is kept */ } },
};

async function enter(token) {
  if (session) session.ended.abort();
  const of = new Session(token);
  session = of;
  tell("refused", "");
  at("enter").hidden = true;
  at("cluster").hidden = false;
  at("leave").hidden = false;
  const isThere = await act(of, async () => {});
  if (of.isOver) return;
  if (isThere) kept.set(token);
  live(of);
}

function leave(reason) {
  if (session) {
    closeTask(session);
    session.ended.abort();
  }
  session = null;
  kept.remove();
  for (const id of ["nodes", "tasks", "facts", "attempts"]) at(id).replaceChildren();
  for (const id of ["summary", "trouble", "notice", "total", "task-head", "output"]) tell(id, "");
  at("cluster").hidden = true;
  at("leave").hidden = true;
  at("enter").hidden = false;
  at("token").value = "";
  tell("refused", reason || "");
  at("token").focus();
}

const DEEDS = {
  open: (of, id) => openTask(of, id),
  cordon: (of, id) => act(of, () => of.post(`/nodes/${encodeURIComponent(id)}/cordon`, null)),
  uncordon: (of, id) => act(of, () => of.post(`/nodes/${encodeURIComponent(id)}/uncordon`, null)),
};

at("status").append(...STATUSES.map((status) => element("option", { value: status, textContent: words(status) })));
at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = at("token").value.trim();
  // What a header cannot hold is no token.
  if (/^[\x21-\x7e]+$/.test(token)) enter(token);
  else tell("refused", "a token has letters, digits and signs only");
});
at("filter").addEventListener("submit", (event) => event.preventDefault());
// Some ways of choosing from a list send the latter only.
for (const change of ["input", "change"]) {
  at("filter").addEventListener(change, () => {
    session.wanted = PAGE;
    soon(session);
  });
}
at("cluster").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-deed]");
  if (button && session) DEEDS[button.dataset.deed](session, button.dataset.key);
});
at("more").addEventListener("click", () => {
  session.wanted = Math.min(session.wanted + PAGE, ROWS_MAX);
  act(session, async () => {});
});
at("leave").addEventListener("click", () => leave());
at("close").addEventListener("click", () => closeTask(session));
at("cancel").addEventListener("click", () => {
  const { key, name } = at("cancel").dataset;
  const of = session;
  if (confirm(`Cancel the task ${name}?`)) {
    act(of, () => of.post(`/tasks/${key}/cancel`, { reason: "cancelled on the page" }));
  }
});
const token = kept.get();
if (token) enter(token);
else leave();
