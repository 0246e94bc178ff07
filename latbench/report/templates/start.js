// Tabs, and where the page opens.

const tabs = [...document.querySelectorAll("[role=tab]")];

function openTab(index) {
  tabs.forEach((tab, place) => {
    tab.setAttribute("aria-selected", place === index);
    tab.tabIndex = place === index ? 0 : -1;
    panels[place].hidden = place !== index;
  });
  if (boards[index]) fitColumns(boards[index]);
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
  panel.querySelector(".main-tools").append(sorter(panel), chooser(panel), ...downloads(panel));
}

function follow() { // the address names a tab, a run or a record of a run
  const [kind, name, id, sample] = location.hash.slice(1).split("/").map(decodeURIComponent);
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
    panels[place].querySelector(".browser").show(number, { id, sample: Number(sample || 0) });
  }
  return true;
}

window.addEventListener("hashchange", follow);
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => boards.filter((panel) => !panel.hidden).forEach(fitColumns), 100);
});
if (boards.length) { // at first the tab with the most lines
  const size = (panel) => panel.querySelectorAll("tbody tr").length;
  openTab(boards.indexOf(boards.reduce((largest, panel) => (size(panel) > size(largest) ? panel : largest))));
  follow();
}
