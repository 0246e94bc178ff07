"use strict";
// What all parts of the page share. The tables and pictures are there without any script.
const data = JSON.parse(document.getElementById("data").textContent);
const panels = [...document.querySelectorAll(".panel")]; // of the tabs
const boards = panels.filter((panel) => panel.dataset.section); // those of a task, which come first

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function button(text, action, attributes) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", action);
  return made;
}

// a run's figures by the names of the CSV's columns
const figure = (run, name) => run.values[data.columns.indexOf(name)];
const label = (run) => `${figure(run, "method")} ${figure(run, "variant")}`.trim();
const runNumber = (name) => data.runs.findIndex((run) => run.name === name);

// a place on the page is the address's fragment: a tab, a run, or a record of a run, with the run beside it
const address = (...parts) => `#${parts.map(encodeURIComponent).join("/")}`;
const runAddress = (number) => address("run", data.runs[number].name);
const recordAddress = (number, record, other) =>
  address("record", data.runs[number].name, record.id, String(record.sample), ...(other ? [other.name] : []));

function download(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

// tooltips, by pointer or focus

const tip = document.getElementById("tip");

function showTip(box, ...lines) {
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const width = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(box.right + 8, width - tip.offsetWidth - 4)) + window.scrollX}px`;
  const above = box.top - tip.offsetHeight - 6;
  tip.style.top = `${(above > 4 ? above : box.bottom + 6) + window.scrollY}px`;
}

const hideTip = () => { tip.hidden = true; };

function explain(node, lines) { // lines: a function that gives what the tooltip holds
  for (const name of ["mouseenter", "focus"]) {
    node.addEventListener(name, () => showTip((node.querySelector(".mark") || node).getBoundingClientRect(), ...lines()));
  }
  for (const name of ["mouseleave", "blur"]) node.addEventListener(name, hideTip);
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
