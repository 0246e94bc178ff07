// Runs: what stands behind each number, and what can be taken away.

const sheet = document.getElementById("sheet");

function closeSheet() {
  if (sheet.open) sheet.close();
  const shown = panels.find((panel) => !panel.hidden); // the address names the tab again
  if (location.hash.startsWith("#run/")) history.replaceState(null, "", address(shown.dataset.key));
}

sheet.addEventListener("close", closeSheet); // by Escape
sheet.addEventListener("click", (event) => { if (event.target === sheet) closeSheet(); });

const papersOf = (run) => (Object.hasOwn(data.papers, figure(run, "method")) ? data.papers[figure(run, "method")] : []);

function paperLinks(run) {
  const links = papersOf(run).map((number) => element("a", { href: `https://arxiv.org/abs/${number}` }, `arXiv:${number}`));
  return links.length ? element("span", { class: "papers" }, ...links) : null;
}

const known = (value) => value !== null && value !== undefined && value !== "";
const written = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

function pairs(entries) {
  const shown = entries.filter(([, value]) => known(value));
  return element("dl", { class: "pairs" }, ...shown.flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", {}, value instanceof Node ? value : written(value))]));
}

function flat(tree, before = "") {
  return Object.entries(tree).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length
      ? flat(value, `${before}${name}.`) : [[before + name, value === null ? "null" : value]]);
}

function folded(title, ...children) {
  return element("details", {}, element("summary", {}, title), ...children);
}

function dataOf(run) {
  const rows = Object.entries(data.pool[run.facts.data]);
  return pairs(rows.map(([name, found]) => [name, `${found.num_examples} rows, sha256 ${found.sha256} (${found.source})`]));
}

function runDetails(number) {
  const run = data.runs[number], facts = run.facts;
  const config = Object.entries(facts.config).flatMap(([name, place]) => {
    const value = data.pool[place];
    return value !== null && typeof value === "object" ? flat(value, `${name}.`) : [[name, value]];
  });
  const commit = facts.commit && facts.commit + (facts.dirty ? ", with uncommitted changes" : "");
  const records = facts.records && element("a", { href: `${run.name}/${facts.records}` }, `${run.name}/${facts.records}`);
  const costs = Object.entries(facts.costs).flatMap(([of, found]) => Object.entries(found).map(([name, value]) => [`${of}: ${name}`, value]));
  return element("div", { class: "run" },
    ...facts.caveats.map((sentence) => element("p", { class: "caveat" }, sentence)),
    pairs([["papers", paperLinks(run)], ["command", element("code", {}, facts.command)], ["commit", commit], ["created", facts.created],
      ["questions", `sha256 ${facts.questions}`], ["records", records]]),
    element("p", {}, element("a", { href: recordAddress(number, run.records[0] || { id: "", sample: 0 }) }, "Read its answers")),
    folded("Figures", pairs(data.columns.map((name, place) => [name, run.values[place]]))),
    folded("Configuration", pairs(config)),
    folded("Data", dataOf(run)),
    folded("Versions and hardware", pairs([...flat(data.pool[facts.versions]), ...flat(data.pool[facts.hardware])])),
    costs.length ? folded("Costs and diagnostics", pairs(costs)) : null,
    run.curves.length ? folded("Training curves", ...allCurves(run)) : null);
}

// training curves

const SVG = "http://www.w3.org/2000/svg";

function curve(name, steps, values) {
  const points = steps.map((step, place) => [step, values[place]]);
  const lowest = Math.min(...points.map(([, value]) => value)), highest = Math.max(...points.map(([, value]) => value));
  const last = steps[steps.length - 1];
  const x = (step) => 4 + 232 * (step - steps[0]) / (last - steps[0] || 1);
  const y = (value) => 84 - 76 * (value - lowest) / (highest - lowest || 1);
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 0 240 90");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", points.map(([step, value], place) => `${place ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(""));
  const end = document.createElementNS(SVG, "circle");
  const [lastStep, lastValue] = points[points.length - 1];
  for (const [attribute, value] of [["cx", x(lastStep)], ["cy", y(lastValue)], ["r", 2.5]]) end.setAttribute(attribute, value);
  picture.append(line, end);
  return element("figure", { class: "curve" }, element("figcaption", {}, element("strong", {}, name), ` ${lowest} to ${highest}, steps ${steps[0]} to ${last}`), picture);
}

// a figure named `kind/name`, such as one of rollouts or of held-out questions, stands below the title of its kind
const KINDS = { "": "Loss and updates", rl: "Rollouts of reinforcement learning", held_out: "Held-out questions" };

function stageCurves(groups) {
  const kinds = new Map();
  for (const { steps, series } of groups) {
    for (const [name, values] of Object.entries(series)) {
      const [kind, rest] = name.includes("/") ? name.split(/\/(.*)/) : ["", name];
      kinds.set(kind, [...(kinds.get(kind) || []), curve(rest.replaceAll("_", " "), steps, values)]);
    }
  }
  return element("section", {}, element("h4", {}, `Stage ${groups[0].stage}`),
    ...[...kinds].flatMap(([kind, made]) => [
      kinds.size > 1 ? element("h5", {}, Object.hasOwn(KINDS, kind) ? KINDS[kind] : kind) : "", element("div", { class: "curves" }, ...made)]));
}

function allCurves(run) {
  const stages = new Map();
  for (const group of run.curves) stages.set(group.stage, [...(stages.get(group.stage) || []), group]);
  return [...stages.values()].map(stageCurves);
}

// the sheet of a line of a table: its seeds, and one of them in full

const SEED_FIGURES = ["accuracy", "chain_length", "compression", "decode_steps", "caveats"];

function seedText(run, name) {
  const value = figure(run, name);
  if (!known(value)) return "–";
  return name === "accuracy" ? `${(100 * value).toFixed(1)} %` : typeof value === "number" ? String(Number(value.toPrecision(4))) : value;
}

function showRun(number) {
  const section = data.sections.find(({ lines }) => lines.some((line) => line.includes(number)));
  const line = section.lines.find((numbers) => numbers.includes(number));
  const run = data.runs[number];
  const names = SEED_FIGURES.filter((name) => line.some((one) => known(figure(data.runs[one], name))));
  const seeds = element("table", { class: "seeds" },
    element("thead", {}, element("tr", {}, ...["seed", ...names, "run"].map((name) => element("th", {}, name.replace("_", " "))))),
    element("tbody", {}, ...line.map((one) => element("tr", one === number ? { "aria-current": "true" } : {},
      ...["seed", ...names].map((name) => element("td", {}, seedText(data.runs[one], name))),
      element("td", {}, element("a", { href: runAddress(one) }, data.runs[one].name))))));
  sheet.replaceChildren(
    element("header", {}, element("h2", { id: "sheet-title" }, label(run)), button("Close", closeSheet, { class: "close" })),
    element("p", { class: "facts" }, `${figure(run, "task")} / ${figure(run, "split")}, ${figure(run, "n")} questions, ${figure(run, "backbone")}, trained on ${figure(run, "train_data")}, setting ${figure(run, "setting")}`),
    element("div", { class: "scroll" }, seeds),
    element("h3", {}, `Seed ${figure(run, "seed")}`),
    runDetails(number));
  if (!sheet.open) sheet.showModal();
  sheet.scrollTop = 0;
}

// every number leads to its run

for (const cell of document.querySelectorAll("td[data-run]")) {
  cell.replaceChildren(element("a", { href: runAddress(cell.dataset.run) }, cell.textContent));
}

for (const panel of boards) {
  for (const line of panel.querySelectorAll("tr[data-cell]")) {
    const runs = data.sections[panel.dataset.section].lines[line.dataset.cell];
    for (const cell of line.querySelectorAll("td.n")) {
      if (cell.textContent === "–") continue;
      cell.replaceChildren(element("a", { href: runAddress(runs[0]) }, cell.textContent));
    }
  }
}

// downloads: the runs of a section, as in leaderboard.csv

function csvField(value) {
  if (!known(value)) return "";
  let text = typeof value === "object" ? JSON.stringify(value) : String(value);
  if (typeof value === "string" && /^[=+\-@]/.test(text)) text = `'${text}`; // a spreadsheet would run it
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const runsOf = (panel) => data.sections[panel.dataset.section].lines.flat().map((number) => data.runs[number]);
const csvOf = (runs) => [data.columns, ...runs.map((run) => run.values)].map((row) => row.map(csvField).join(",")).join("\n") + "\n";
const jsonOf = (runs) => JSON.stringify(runs.map((run) => Object.fromEntries(data.columns.map((name, place) => [name, run.values[place]]))), null, 1);

function downloads(panel) {
  return [
    button("CSV", () => download(`${panel.dataset.key}.csv`, "text/csv", csvOf(runsOf(panel))), { title: "download the runs of this table as CSV" }),
    button("JSON", () => download(`${panel.dataset.key}.json`, "application/json", jsonOf(runsOf(panel))), { title: "download the runs of this table as JSON" }),
  ];
}
