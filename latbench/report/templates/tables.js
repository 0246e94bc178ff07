// Tables: sorting, filters, folding, the choice of columns; and the pictures beside them.

const headsOf = (table) => [...table.tHead.rows[0].cells];
const linesOf = (table) => [...table.tBodies[0].rows];

// a click sorts, figures with the largest first; lines without a figure stay last, other settings stay with their method

function sortBy(table, column, direction) {
  const header = headsOf(table)[column];
  const isFigure = header.classList.contains("n");
  const sign = direction === "ascending" ? 1 : -1;
  const key = (line) => {
    const cell = line.cells[column];
    if (!isFigure) return cell.textContent.toLowerCase();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v === "inf" ? Infinity : cell.dataset.v);
  };
  const compare = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return a < b ? -sign : a > b ? sign : 0;
  };
  const lines = linesOf(table);
  const heads = lines.filter((line) => !isFolding(line));
  const of = (head) => lines.filter((line) => isFolding(line) && line.dataset.of === head.dataset.cell);
  table.tBodies[0].append(...heads.sort(compare).flatMap((head) => [head, ...of(head).sort(compare)]));
  for (const other of headsOf(table)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
}

function sortNext(table, column) {
  const header = headsOf(table)[column];
  const before = header.getAttribute("aria-sort");
  const first = header.classList.contains("n") ? "descending" : "ascending";
  sortBy(table, column, before ? (before === "ascending" ? "descending" : "ascending") : first);
}

for (const table of document.querySelectorAll("table.sortable")) {
  headsOf(table).forEach((header, column) => {
    const press = header.querySelector("button");
    press.addEventListener("click", () => sortNext(table, column));
    if (header.dataset.tip) explain(press, () => [header.dataset.tip]);
    for (const line of linesOf(table)) line.cells[column].dataset.h = header.textContent.trim(); // a card names them
  });
}

// other settings of a method are folded under the line that stands for it

function isFolding(line) {
  return line.dataset.of !== undefined && line.closest("table").classList.contains("main");
}

function unfold(panel, cell, isOpen) {
  for (const node of panel.querySelectorAll(`table.main tr[data-of="${cell}"]`)) node.classList.toggle("folded", !isOpen);
  const press = panel.querySelector(`table.main tr[data-cell="${cell}"] .unfold`);
  if (press) press.setAttribute("aria-expanded", isOpen);
  drawPoints(panel);
}

function foldable(panel) {
  const lines = linesOf(panel.querySelector("table.main"));
  for (const line of lines.filter((one) => !isFolding(one))) {
    const folded = lines.filter((other) => other.dataset.of === line.dataset.cell);
    if (!folded.length) continue;
    const press = button(`+ ${folded.length} ${folded.length > 1 ? "settings" : "setting"}`, () => {
      unfold(panel, line.dataset.cell, press.getAttribute("aria-expanded") !== "true");
    }, { class: "unfold", "aria-expanded": "false", title: "other settings of this method" });
    line.cells[0].append(" ", press);
    unfold(panel, line.dataset.cell, false);
  }
  sortedOnce(panel);
}

function sortedOnce(panel) { // the order of the table, with the other settings below their method
  const table = panel.querySelector("table.main");
  const lines = linesOf(table);
  const heads = lines.filter((line) => !isFolding(line));
  table.tBodies[0].append(...heads.flatMap((head) =>
    [head, ...lines.filter((line) => isFolding(line) && line.dataset.of === head.dataset.cell)]));
}

const foldedCells = (panel) => new Set([...panel.querySelectorAll("table.main tr.folded")].map((line) => line.dataset.cell));

// filters: every word must stand in the line; what fits is shown though it be folded

function filter(input, scope) {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (text) => words.every((word) => text.toLowerCase().includes(word));
  let shown = 0, all = 0;
  scope.classList.toggle("filtered", words.length > 0);
  for (const line of scope.querySelectorAll("table.sortable tbody tr")) {
    line.hidden = !fits([...line.cells].map((cell) => cell.textContent).join(" "));
    if (line.closest("[hidden]:not(tr)")) continue;
    all += 1;
    shown += !line.hidden;
  }
  drawPoints(scope);
  scope.querySelector(".count").textContent = words.length ? `${shown} of ${all} lines` : "";
}

for (const scope of document.querySelectorAll(".panel, .reported")) {
  const input = scope.querySelector("input.filter");
  input.addEventListener("input", () => filter(input, scope));
}

// pictures: a point shows what stands there and opens its runs; points near each other are told together

const NEAR = 14; // units of the picture

function drawPoints(scope) {
  const isFiltered = scope.classList.contains("filtered");
  const folded = scope.querySelector(".point") && !isFiltered ? foldedCells(scope) : new Set();
  for (const point of scope.querySelectorAll(".point, .bars")) {
    const line = scope.querySelector(`table.main tr[data-cell="${point.dataset.cell}"]`);
    point.classList.toggle("off", isFiltered && line.hidden);
    point.classList.toggle("folded", folded.has(point.dataset.cell));
  }
}

function nearby(point) {
  const place = (one) => one.querySelector(".mark").transform.baseVal[0].matrix;
  const { e, f } = place(point);
  const isNear = (one) => one === point || Math.hypot(place(one).e - e, place(one).f - f) < NEAR;
  const shown = [...point.parentNode.querySelectorAll(".point:not(.folded, .off)")];
  return [point, ...shown.filter((one) => one !== point && isNear(one))];
}

for (const panel of boards) {
  for (const point of panel.querySelectorAll(".point")) {
    explain(point, () => nearby(point).map((one) => element("p", {}, one.getAttribute("aria-label"))));
    const open = () => { location.hash = runAddress(data.sections[panel.dataset.section].lines[point.dataset.cell][0]); };
    point.addEventListener("click", open);
    point.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
  }
}

// columns: those of interest that are not zero throughout, as many as fit; or those that are chosen

const isEmpty = (table, column) => linesOf(table).every(({ cells }) => cells[column].classList.contains("n")
  ? !Number(cells[column].dataset.v === "inf" ? 1 : cells[column].dataset.v) : cells[column].textContent === "–");

function showColumns(table, wanted) {
  headsOf(table).forEach((header, column) => {
    for (const cell of [header, ...linesOf(table).map((line) => line.cells[column])]) cell.hidden = !wanted.has(column);
  });
}

const KEPT = 4; // columns that are never left out: two names, and two figures at least
const chosenColumns = new WeakMap(); // table -> the columns that the reader has chosen

function shownAtFirst(table) { // in tables of measures every column counts, and a zero is a finding
  const heads = headsOf(table), columns = heads.map((_, column) => column);
  if (!table.classList.contains("main")) return columns;
  return columns.filter((column) => "front" in heads[column].dataset && (column < 2 || !isEmpty(table, column)));
}

function fitTable(table) {
  const box = table.parentNode, heads = headsOf(table);
  const wanted = [...(chosenColumns.get(table) || shownAtFirst(table))];
  showColumns(table, new Set(wanted));
  const isCard = getComputedStyle(table.tHead).display === "none";
  while (!chosenColumns.has(table) && !isCard && box.scrollWidth > box.clientWidth && wanted.length > KEPT) {
    wanted.pop();
    showColumns(table, new Set(wanted));
  }
  const choices = choosers.get(table);
  for (const input of choices.querySelectorAll("input")) input.checked = !heads[input.value].hidden;
  choices.querySelector("summary").textContent = `Columns, ${heads.filter((head) => !head.hidden).length} of ${heads.length}`;
}

function fitColumns(panel) {
  for (const table of panel.querySelectorAll("table.sortable")) fitTable(table);
}

const choosers = new WeakMap(); // table -> its list of columns

function chooser(table) {
  const boxes = headsOf(table).map((header, column) => {
    const box = element("input", { type: "checkbox", value: column });
    box.addEventListener("change", () => {
      chosenColumns.set(table, [...list.querySelectorAll("input")].filter((one) => one.checked).map((one) => Number(one.value)));
      fitTable(table);
    });
    return element("label", { title: header.dataset.tip || "", ...(column < 2 ? { hidden: "" } : {}) }, box, ` ${header.textContent.trim()}`);
  });
  const list = element("div", { class: "choices" }, ...boxes,
    button("as many as fit", () => { chosenColumns.delete(table); fitTable(table); }));
  const made = element("details", { class: "columns" }, element("summary", {}, "Columns"), list);
  choosers.set(table, made);
  return made;
}

function sorter(panel) { // on a phone, where there are no heads to press
  const table = panel.querySelector("table.main");
  const select = element("select", { class: "sorter", "aria-label": "Sort by" }, element("option", { value: "" }, "sort by ..."),
    ...headsOf(table).map((header, column) => element("option", { value: column }, header.textContent.trim())));
  select.addEventListener("change", () => { if (select.value !== "") sortNext(table, Number(select.value)); });
  return select;
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
