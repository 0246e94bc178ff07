// Records: single answers, searched, filtered by verdict, and those of two runs beside each other.

const waiting = new Map(); // "run-part" -> what to do with a file's content
function latbenchRecords(run, part, content) {
  waiting.get(`${run}-${part}`)(content);
  waiting.delete(`${run}-${part}`);
}

function loadPart(number, part) {
  return new Promise((resolve, reject) => {
    waiting.set(`${number}-${part}`, resolve);
    const script = element("script", { src: `${data.files}/${number}-${part}.js` });
    script.addEventListener("error", () => reject(new Error(`${script.getAttribute("src")} is not beside the page`)));
    document.head.append(script);
  });
}

async function loadAll(number, questions) {
  const run = data.runs[number], records = [];
  for (let part = 0; records.length < run.total; part += 1) {
    const content = await loadPart(number, part);
    records.push(...content.records);
    Object.assign(questions, content.questions);
  }
  run.records = records;
  run.isWhole = true;
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

const verdict = (record) => element("span", { class: `verdict ${record.status}` }, record.status.replace("_", " "));

// what the model read: the texts around the question, which are those of the evaluation, and the question
function promptParts(run, question) {
  const prompt = data.pool[run.facts.prompt];
  if (prompt.first !== undefined) {
    return [element("p", { class: "hint" }, "Of the first question, since prompts of this evaluation differ in more than the question:"),
      element("p", { class: "text" }, prompt.first)];
  }
  if (prompt.before === undefined) {
    return [element("p", { class: "hint" }, `It was not stored with this evaluation; its layout is ${figure(run, "layout")}.`)];
  }
  const around = (text) => (text ? element("mark", { class: "fed" }, text) : "");
  return [element("p", { class: "text" }, around(prompt.before), question || "(the question, which is not on this page)", around(prompt.after))];
}

let isPromptOpen = false; // as the reader left it, from record to record

function promptOf(run, record, question) {
  const shown = element("details", { class: "prompt", ...(isPromptOpen ? { open: "" } : {}) },
    element("summary", {}, `Prompt as it was fed, ${record.fed} tokens`), ...promptParts(run, question));
  shown.addEventListener("toggle", () => { isPromptOpen = shown.open; });
  return shown;
}

function recordParts(number, record, question) {
  const made = [element("header", {}, element("strong", {}, label(data.runs[number])), verdict(record),
    element("span", { class: "hint" }, `${record.latents} latent steps, ${record.tokens} reasoning tokens, stopped by ${record.stop}`))];
  made.push(promptOf(data.runs[number], record, question));
  if (record.steps && record.steps.length) {
    const more = record.latents - record.steps.length;
    made.push(element("h4", {}, "Latent steps: the largest entries of what was mixed, or of what the LM head reads"),
      element("ol", { class: "steps" }, ...record.steps.map((step, index) => mixture(step, index + 1))));
    if (more > 0) made.push(element("p", { class: "hint" }, `and ${more} more`));
  } else if (record.latents) {
    made.push(element("h4", {}, "Latent steps"), element("p", { class: "hint" }, `${record.latents}; no trace is stored (latbench trace RUN makes one).`));
  }
  made.push(...part("Reasoning", record.reasoning), ...part("Answer", record.text || "none"),
    ...part("Read as", record.read === null ? "nothing" : record.read === record.text ? "" : record.read));
  return made;
}

const same = (a, b) => a.id === b.id && a.sample === b.sample;

function browser(root, index) {
  const { lines, questions } = data.sections[index];
  const numbers = lines.flat();
  const id = (name) => `${name}-${index}`;
  const options = () => numbers.map((number) => {
    const run = data.runs[number];
    return element("option", { value: number }, `${label(run)}, seed ${figure(run, "seed")} (${figure(run, "run")})`);
  });
  const runChoice = element("select", { id: id("run"), class: "run-choice" }, ...options());
  const otherChoice = element("select", { id: id("other"), class: "other-choice" }, element("option", { value: "" }, "no other run"), ...options());
  const verdictChoice = element("select", { id: id("verdict"), class: "verdict-choice" });
  const search = element("input", { id: id("search"), class: "search", type: "search", placeholder: "words of question, answer or id", autocomplete: "off" });
  const more = element("button", { type: "button", class: "more" }, "Load all records");
  const list = element("div", { class: "list", role: "group", "aria-label": "Records" });
  const detail = element("article", { class: "record", "aria-live": "polite" });
  const note = element("output", { class: "count" });
  const run = () => data.runs[runChoice.value];
  const other = () => (otherChoice.value === "" ? null : data.runs[otherChoice.value]);
  const question = (record) => (Object.hasOwn(questions, record.id) ? questions[record.id] : ["", ""]);
  const otherOf = (record) => other() && other().records.find((one) => same(one, record));

  let current = null; // the record that is shown, which stays where it can when the choice changes

  function open(press, record, isAsked) {
    current = record;
    for (const one of list.children) one.removeAttribute("aria-current");
    press.setAttribute("aria-current", "true");
    if (isAsked) history.replaceState(null, "", recordAddress(runChoice.value, record, other()));
    const [text, steps] = question(record);
    const beside = otherOf(record);
    const missing = other() && !beside
      ? element("div", { class: "answer" }, element("p", { class: "hint" }, `${label(other())}: this record is not on the page${data.files ? "; load all records" : ""}.`)) : null;
    detail.replaceChildren(
      element("header", {}, element("strong", {}, record.sample ? `${record.id}, sample ${record.sample}` : record.id),
        element("a", { href: runAddress(runChoice.value) }, "about this run"),
        element("a", { href: recordAddress(runChoice.value, record, other()) }, "link to this record")),
      ...part("Question", text || "The task's data were not at hand when this page was made."), ...part("Gold steps", steps),
      ...part("Gold answer", record.gold),
      element("div", { class: "answers" }, element("div", { class: "answer" }, ...recordParts(runChoice.value, record, text)),
        beside ? element("div", { class: "answer" }, ...recordParts(otherChoice.value, beside, text)) : missing));
  }

  function fits(record) {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = [record.id, record.text, record.reasoning, record.gold, ...question(record)].join(" ").toLowerCase();
    const wanted = verdictChoice.value, beside = otherOf(record);
    if (wanted === "differ" ? !beside || beside.status === record.status : wanted !== "all" && wanted !== record.status) return false;
    return words.every((word) => text.includes(word));
  }

  function fill(wanted) {
    const records = run().records.filter(fits);
    const presses = records.map((record) => {
      const beside = otherOf(record);
      const press = element("button", { type: "button" },
        element("span", { class: "id" }, record.sample ? `${record.id}, sample ${record.sample}` : record.id),
        verdict(record), beside ? verdict(beside) : null);
      press.addEventListener("click", () => open(press, record, true));
      return press;
    });
    list.replaceChildren(...presses);
    note.textContent = `${run().records.length} of ${run().total} records` + (records.length < run().records.length ? `, ${records.length} shown` : "");
    more.hidden = !data.files || [run(), other()].every((one) => !one || one.isWhole || one.records.length >= one.total);
    const kept = wanted || current;
    const place = kept ? Math.max(0, records.findIndex((record) => same(record, kept))) : 0;
    if (records.length) open(presses[place], records[place], false);
    else detail.replaceChildren(element("p", { class: "hint" }, "No record is like this."));
    if (wanted && presses[place]) presses[place].scrollIntoView({ block: "nearest" });
  }

  function choose(wanted) {
    const before = verdictChoice.value;
    const statuses = [...new Set(run().records.map((record) => record.status))].sort();
    const kinds = ["all", ...statuses, ...(other() ? ["differ"] : [])];
    verdictChoice.replaceChildren(...kinds.map((name) => element("option", { value: name }, name === "differ" ? "verdicts differ" : name.replace("_", " "))));
    if (!wanted && kinds.includes(before)) verdictChoice.value = before;
    if (wanted) search.value = "";
    fill(wanted);
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
      for (const one of [runChoice.value, otherChoice.value]) if (one !== "" && !data.runs[one].isWhole) await loadAll(one, questions);
      choose();
    } catch (error) {
      note.textContent = error.message;
    }
    more.disabled = false;
  });
  runChoice.addEventListener("change", () => choose());
  otherChoice.addEventListener("change", () => choose());
  verdictChoice.addEventListener("change", () => fill());
  search.addEventListener("input", () => fill());
  const named = (text, node) => element("span", { class: "named" }, element("label", { for: node.id }, text), node);
  root.replaceChildren(
    element("div", { class: "tools" }, named("Run", runChoice), named("beside", otherChoice), named("Verdict", verdictChoice), named("Search", search), more, note),
    element("div", { class: "split" }, list, detail));
  choose();
  root.show = (number, wanted, beside) => {
    runChoice.value = number;
    otherChoice.value = numbers.includes(beside) ? beside : "";
    choose(wanted);
    root.scrollIntoView();
  };
}

for (const root of document.querySelectorAll(".browser")) browser(root, Number(root.dataset.section));
