// Tabs, and where the page opens.

const tabs = [...document.querySelectorAll("[role=tab]")];

function openTab(index) {
  tabs.forEach((tab, place) => {
    tab.setAttribute("aria-selected", place === index);
    tab.tabIndex = place === index ? 0 : -1;
    panels[place].hidden = place !== index;
  });
  const list = tabs[index] && tabs[index].parentNode; // on a phone not all tabs are in view
  if (list) list.scrollLeft = tabs[index].offsetLeft - list.offsetLeft - 8;
  if (panels[index]) fitColumns(panels[index]);
}

tabs.forEach((tab, index) => {
  const visit = (place) => {
    openTab(place);
    history.replaceState(null, "", address(panels[place].dataset.key));
  };
  tab.addEventListener("click", () => visit(index)); // arrow keys, Home and End move between tabs
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    const next = (to + tabs.length) % tabs.length;
    visit(next);
    tabs[next].focus();
    event.preventDefault();
  });
});

for (const panel of boards) {
  foldable(panel);
  const main = panel.querySelector("table.main");
  panel.querySelector(".main-tools").append(sorter(panel), chooser(main), ...downloads(panel));
}
for (const panel of panels) {
  for (const table of panel.querySelectorAll("table.sortable:not(.main)")) table.parentNode.before(element("div", { class: "tools" }, chooser(table)));
}

function follow() { // the address names a tab, a run, or a record of a run and the run beside it
  const [kind, name, id, sample, other] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const tab = panels.findIndex((panel) => panel.dataset.key === kind);
  if (tab >= 0) openTab(tab);
  const number = ["run", "record"].includes(kind) ? runNumber(name) : -1;
  if (number < 0) return tab >= 0;
  const place = data.sections.findIndex(({ lines }) => lines.some((line) => line.includes(number)));
  openTab(place);
  if (kind === "run") {
    showRun(number);
  } else {
    if (sheet.open) sheet.close();
    panels[place].querySelector(".browser").show(number, { id, sample: Number(sample || 0) }, runNumber(other));
  }
  return true;
}

window.addEventListener("hashchange", follow);
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => panels.filter((panel) => !panel.hidden).forEach(fitColumns), 100);
});
if (boards.length) { // at first the tab with the most lines
  const size = (panel) => panel.querySelectorAll("tbody tr").length;
  openTab(boards.indexOf(boards.reduce((largest, panel) => (size(panel) > size(largest) ? panel : largest))));
  follow();
}
