"use strict";
// What a click or a key does on a page of ours. Without it every table, curve and map is there, and stands still.

// A column of a table sorts by its head: up, down, as it was. Numbers as numbers, what has none last.
const UNITS = { k: 1e3, M: 1e6, G: 1e9, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, min: 60, h: 3600 };
const number = (text) => {
  const found = /^\s*([-+]?\d[\d.]*(?:e[-+]?\d+)?)\s*([A-Za-z]*)(?: (\d+) (?:s|min))?/.exec(text.replace(/\u2212/g, "-").replace(/,(?=\d{3})/g, ""));
  return found ? found[1] * (UNITS[found[2]] ?? 1) + (found[3] ?? 0) * (found[2] === "h" ? 60 : 1) : NaN;
};
const before = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return Number.isNaN(x) ? a.localeCompare(b) : x - y;
};
for (const table of document.querySelectorAll("table.sorted")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const first = [...body.rows];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const way = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", way);
      const text = (row) => row.cells[place].textContent.trim();
      const order = (a, b) => before(text(a), text(b)) * (way === "descending" ? -1 : 1);
      body.append(...(way === "none" ? first : [...first].sort(order)));
    });
  });
}
