"use strict";
// Sorting, filtering, tabs, tooltips and the record browser; the tables and pictures are there without it.
const sections = JSON.parse(document.getElementById("data").textContent);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// tables: a click sorts, figures with the largest first; lines without a figure stay last

function sortBy(table, column, header) {
  const isFigure = header.classList.contains("n");
  const before = header.getAttribute("aria-sort");
  const direction = before ? (before === "ascending" ? "descending" : "ascending") : isFigure ? "descending" : "ascending";
  const sign = direction === "ascending" ? 1 : -1;
  const key = (line) => {
    const cell = line.cells[column];
    if (!isFigure) return cell.textContent.toLowerCase();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v === "inf" ? Infinity : cell.dataset.v);
  };
  const lines = [...table.tBodies[0].rows].map((line) => [key(line), line]);
  lines.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return a < b ? -sign : a > b ? sign : 0;
  });
  table.tBodies[0].append(...lines.map(([, line]) => line));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => sortBy(table, column, header)));
}

// filters: every word must stand in the line

function filter(input, scope) {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (text) => words.every((word) => text.toLowerCase().includes(word));
  let shown = 0, all = 0;
  for (const line of scope.querySelectorAll("table.sortable tbody tr")) {
    line.hidden = !matches([...line.cells].map((cell) => cell.textContent).join(" "));
    if (line.closest("[hidden]:not(tr)")) continue;
    all += 1;
    shown += !line.hidden;
  }
  const main = scope.querySelector("table.sortable"); // the one with a line per point
  const kept = new Set([...main.querySelectorAll("tbody tr:not([hidden])")]
    .map((line) => `${line.cells[0].textContent} ${line.cells[1].textContent}`.replace(/ default$/, "").trim()));
  for (const point of scope.querySelectorAll(".point"))
    point.classList.toggle("off", words.length > 0 && !kept.has(point.dataset.label));
  scope.querySelector(".count").textContent = words.length ? `${shown} of ${all} lines` : "";
}

for (const scope of document.querySelectorAll(".panel, .reported")) {
  const input = scope.querySelector("input.filter");
  input.addEventListener("input", () => filter(input, scope));
}

// published numbers: one task at a time

const chosenTask = document.getElementById("reported-task");
if (chosenTask) {
  const choose = () => {
    for (const part of document.querySelectorAll(".published")) part.hidden = part.dataset.task !== chosenTask.value;
    const scope = document.getElementById("reported");
    filter(scope.querySelector("input.filter"), scope);
  };
  chosenTask.addEventListener("change", choose);
  choose();
}

// tabs: arrow keys, Home and End

const tabs = [...document.querySelectorAll("[role=tab]")];
function openTab(chosen) {
  for (const tab of tabs) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", isChosen);
    tab.tabIndex = isChosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
}
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => openTab(tab));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    const next = tabs[(to + tabs.length) % tabs.length];
    openTab(next);
    next.focus();
    event.preventDefault();
  });
});
if (tabs.length) { // at first the one with the most lines
  const size = (tab) => document.querySelectorAll(`#${tab.getAttribute("aria-controls")} tbody tr`).length;
  openTab(tabs.reduce((largest, tab) => (size(tab) > size(largest) ? tab : largest)));
}

// tooltips of the points, by pointer or focus

const tip = document.getElementById("tip");
function showTip(point) {
  tip.textContent = point.dataset.tip;
  tip.hidden = false;
  const box = point.querySelector(".mark").getBoundingClientRect();
  const left = Math.min(box.right + 8, document.documentElement.clientWidth - tip.offsetWidth - 4);
  tip.style.left = `${Math.max(4, left) + window.scrollX}px`;
  tip.style.top = `${Math.max(4, box.top - tip.offsetHeight - 6) + window.scrollY}px`;
}
const hideTip = () => { tip.hidden = true; };
for (const point of document.querySelectorAll(".point")) {
  for (const name of ["mouseenter", "focus", "click"]) point.addEventListener(name, () => showTip(point));
  for (const name of ["mouseleave", "blur"]) point.addEventListener(name, hideTip);
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// records

const waiting = new Map(); // "run-part" -> what to do with a file's content
function latbenchRecords(run, part, content) {
  waiting.get(`${run}-${part}`)(content);
  waiting.delete(`${run}-${part}`);
}

function loadPart(run, part) {
  return new Promise((resolve, reject) => {
    waiting.set(`${run.number}-${part}`, resolve);
    const script = element("script", { src: `${run.files}/${run.number}-${part}.js` });
    script.addEventListener("error", () => reject(new Error(`${script.getAttribute("src")} is not beside the page`)));
    document.head.append(script);
  });
}

async function loadAll(run, questions) {
  const records = [];
  for (let part = 0; records.length < run.total; part += 1) {
    const content = await loadPart(run, part);
    records.push(...content.records);
    Object.assign(questions, content.questions);
  }
  run.records = records;
  run.files = null;
}

const visible = (token) => (token.trim() ? token : JSON.stringify(token));

function mixture(step, number) {
  const [entropy, tokens] = step;
  const bars = element("div", { class: "mixture" });
  tokens.forEach(([text, weight], index) => {
    const bar = element("span", { title: `${JSON.stringify(text)} ${weight}` }, weight >= 0.05 ? visible(text) : "");
    bar.style.width = `${100 * weight}%`;
    bar.style.background = `rgba(var(--bar), ${Math.max(0.12, 0.55 - 0.11 * index)})`;
    bars.append(bar);
  });
  bars.setAttribute("aria-hidden", "true"); // the line below says the same
  const words = tokens.map(([text, weight]) => `${visible(text)} ${weight.toFixed(2)}`).join("  ");
  return element("li", {}, element("span", { class: "number" }, String(number)), bars,
    element("span", { class: "entropy", title: "entropy of the LM head's distribution at this step" }, `${entropy.toFixed(2)} nats`),
    element("span", { class: "tokens" }, words));
}

function part(title, text) {
  return text ? [element("h4", {}, title), element("p", { class: "text" }, text)] : [];
}

function showRecord(into, record, questions) {
  const [question, steps] = Object.hasOwn(questions, record.id) ? questions[record.id] : ["", ""];
  const verdict = element("span", { class: `verdict ${record.status}` }, record.status.replace("_", " "));
  const made = [element("header", {}, element("strong", {}, record.id), verdict,
    element("span", { class: "hint" }, `${record.latents} latent steps, ${record.tokens} reasoning tokens, stopped by ${record.stop}`))];
  made.push(...part("Question", question || "The task's data were not at hand when this page was made."), ...part("Gold steps", steps));
  if (record.steps && record.steps.length) {
    const more = record.latents - record.steps.length;
    made.push(element("h4", {}, "Latent steps: the largest entries of what was mixed, or of what the LM head reads"),
      element("ol", { class: "steps" }, ...record.steps.map((step, index) => mixture(step, index + 1))));
    if (more > 0) made.push(element("p", { class: "hint" }, `and ${more} more`));
  } else if (record.latents) {
    made.push(element("h4", {}, "Latent steps"), element("p", { class: "hint" }, `${record.latents}; no trace is stored (latbench trace RUN makes one).`));
  }
  made.push(...part("Reasoning", record.reasoning), ...part("Answer", record.text || "none"),
    ...part("Read as", record.read === null ? "nothing" : record.read === record.text ? "" : record.read), ...part("Gold answer", record.gold));
  into.replaceChildren(...made);
}

function browser(root, index) {
  const { runs, questions } = sections[index];
  const id = (name) => `${name}-${index}`;
  const runChoice = element("select", { id: id("run"), class: "run" },
    ...runs.map((run, place) => element("option", { value: place },
      `${run.method}, seed ${run.seed}${run.variant && `, ${run.variant}`} (${run.name})`)));
  const verdictChoice = element("select", { id: id("verdict"), class: "verdict-choice" });
  const more = element("button", { type: "button", class: "more" }, "Load all records");
  const list = element("div", { class: "list", role: "group", "aria-label": "Records" });
  const detail = element("article", { class: "record", "aria-live": "polite" });
  const note = element("output", { class: "count" });

  function open(button, record) {
    for (const other of list.children) other.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    showRecord(detail, record, questions);
  }
  function fill() {
    const run = runs[runChoice.value];
    const wanted = verdictChoice.value;
    const records = run.records.filter((record) => wanted === "all" || record.status === wanted);
    list.replaceChildren(...records.map((record) => {
      const button = element("button", { type: "button" },
        element("span", { class: "id" }, record.sample ? `${record.id}, sample ${record.sample}` : record.id),
        element("span", { class: `verdict ${record.status}` }, record.status.replace("_", " ")));
      button.addEventListener("click", () => open(button, record));
      return button;
    }));
    note.textContent = `${run.records.length} of ${run.total} records` + (records.length < run.records.length ? `, ${records.length} shown` : "");
    more.hidden = !run.files || run.records.length >= run.total;
    if (records.length) open(list.firstChild, records[0]);
    else detail.replaceChildren(element("p", { class: "hint" }, "No record has this verdict."));
  }
  function chooseRun() {
    const statuses = [...new Set(runs[runChoice.value].records.map((record) => record.status))].sort();
    verdictChoice.replaceChildren(...["all", ...statuses].map((name) => element("option", { value: name }, name.replace("_", " "))));
    fill();
  }
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = step && [...list.children][[...list.children].indexOf(document.activeElement) + step];
    if (!next) return;
    next.focus();
    next.click();
    event.preventDefault();
  });
  more.addEventListener("click", async () => {
    more.disabled = true;
    try {
      await loadAll(runs[runChoice.value], questions);
      chooseRun();
    } catch (error) {
      note.textContent = error.message;
    }
    more.disabled = false;
  });
  runChoice.addEventListener("change", chooseRun);
  verdictChoice.addEventListener("change", fill);
  root.replaceChildren(
    element("div", { class: "tools" }, element("label", { for: id("run") }, "Run"), runChoice,
      element("label", { for: id("verdict") }, "Verdict"), verdictChoice, more, note),
    element("div", { class: "split" }, list, detail));
  chooseRun();
}

for (const root of document.querySelectorAll(".browser")) browser(root, Number(root.dataset.section));
