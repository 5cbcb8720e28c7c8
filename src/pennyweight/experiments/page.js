"use strict";
// What a click, a pointer or a key does on a page of ours. Without it all tables, curves and maps are there, and stand still.

// A column of a table sorts by its head: up, down, as it was. Numbers sort as numbers; cells without one come last.
const UNITS = { k: 1e3, M: 1e6, G: 1e9, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, min: 60, h: 3600 };
const NUMBER = /^([-+]?[\d.]+(?:e[-+]?\d+)?)(?![\w-]) ?([A-Za-z]*)(?: (\d+) (s|min)\b)?/;

const number = (text) => {
  const found = NUMBER.exec(text.trim().replace(/\u2212/g, "-").replace(/,(?=\d{3})/g, ""));
  return found ? found[1] * (UNITS[found[2]] ?? 1) + (found[3] ?? 0) * (UNITS[found[4]] ?? 1) : NaN;
};

const compare = (a, b, way) => {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || way * a.localeCompare(b, "en", { numeric: true });
  return way * (x - y);
};

const sortable = (table) => {
  const heads = [...table.tHead.rows[0].cells];
  const first = [...table.tBodies[0].rows];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const way = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", other === head ? way : "none");
      const text = (row) => row.cells[place].textContent;
      const order = (a, b) => compare(text(a), text(b), way === "descending" ? -1 : 1);
      table.tBodies[0].append(...(way === "none" ? first : [...first].sort(order)));
    });
  });
};

// The rows of a drawing: a line's points or a map's cells, each at x, y (shares of the frame) with what is said there.
const curves = (svg) => [...svg.querySelectorAll("path[data-told]")].map((path) => {
  const { name, seeds, told } = path.dataset;
  const { over, height } = svg.dataset;
  const places = path.getAttribute("d").slice(1).split(" L").map((at) => at.split(" ").map((share) => share / 1000));
  return told.split(";").map((text, place) => {
    const [step, mean, ...each] = text.split(" ");
    const names = seeds ? seeds.split(" ") : [];
    const beside = names.map((seed, one) => each.length > 1 ? `seed ${seed}: ${each[one]}${height}` : `seed ${seed}`);
    return { x: places[place][0], y: places[place][1], shade: path.classList[1], said: [name, `${over} ${step}: ${mean}${height}`, ...beside] };
  }).filter(({ y }) => y >= 0 && y <= 1);
});

const cells = (svg) => {
  const names = svg.dataset.names.split(" ");
  const layers = [...svg.closest("figure").querySelectorAll("ul li")].map((layer) => layer.textContent);
  const title = svg.getAttribute("aria-label");
  return svg.dataset.told.split(";").map((row, down) => row.split(" ").map((value, across) => ({
    x: (across + 0.5) / names.length, y: (down + 0.5) / layers.length, shade: "s0", value,
    said: [layers[down], `${svg.dataset.over} ${names[across]}: ${value}`, title],
  })).filter(({ value }) => value));
};

// The point nearest to the pointer is told beside it; so is the one that the arrow keys walk to.
const followed = (svg) => {
  const plot = svg.parentElement;
  const spot = plot.appendChild(document.createElement("i"));
  const tip = plot.appendChild(document.createElement("output"));
  let rows = null;
  let [row, place] = [0, 0];
  const hide = () => { spot.hidden = tip.hidden = true; };
  const show = () => {
    const { x, y, shade, said } = rows[row][place];
    spot.className = shade;
    tip.className = `${x > 0.5 ? "left" : ""} ${y > 0.5 ? "above" : ""}`;
    plot.style.setProperty("--x", x);
    plot.style.setProperty("--y", y);
    tip.replaceChildren(...said.map((text, line) => {
      const part = document.createElement(line ? "span" : "b");
      part.textContent = text;
      return part;
    }));
    spot.hidden = tip.hidden = false;
    tip.style.marginLeft = 0;
    const { left, right } = tip.getBoundingClientRect();
    tip.style.marginLeft = `${Math.max(8 - left, Math.min(0, document.documentElement.clientWidth - 8 - right))}px`;
  };
  const ready = () => { rows ??= (svg.dataset.names ? cells(svg) : curves(svg)).filter((one) => one.length); return rows.length > 0; };
  svg.addEventListener("pointermove", (event) => {
    if (!ready()) return;
    const frame = svg.getBoundingClientRect();
    const away = ({ x, y }) => Math.hypot(frame.left + x * frame.width - event.clientX, frame.top + y * frame.height - event.clientY);
    let best = Infinity;
    rows.forEach((points, one) => points.forEach((point, at) => {
      if (away(point) < best) [best, row, place] = [away(point), one, at];
    }));
    show();
  });
  svg.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!(down || right) || !ready()) return;
    event.preventDefault();
    row = Math.min(rows.length - 1, Math.max(0, row + down));
    place = Math.min(rows[row].length - 1, Math.max(0, place + right));
    show();
  });
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible") && ready()) show(); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("pointerleave", hide);
  svg.tabIndex = 0;
  hide();
};

document.querySelectorAll("table.sorted").forEach(sortable);
document.querySelectorAll(".plot > svg").forEach(followed);
