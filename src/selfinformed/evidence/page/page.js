"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const L = D.labels, C = L.name.length, find = (id) => document.getElementById(id);
const fold = (text) => text.normalize("NFKD").toLowerCase().trim(), folded = L.name.map(fold);
const positions = D.ids.length ? new Map(D.ids.map((id, i) => [id, i])) : null;  // of very many labels the page holds some
const gain = L.name.map((_, i) => (L.before[i] == null || L.after[i] == null ? null : L.after[i] - L.before[i]));

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value == null) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}
const percent = (value) => (value == null ? "–" : (100 * value).toFixed(2));
const seen = (value) => (Math.abs(value) < 5e-5 ? 0 : value);  // what two digits of a percentage show
const signed = (value) => (value == null ? "–" : (seen(value) < 0 ? "" : "+") + percent(seen(value)));
const whole = (value) => (value == null ? "–" : value.toLocaleString("en"));
const tone = (value) => ["bad", "", "good"][1 + Math.sign(seen(value))];
const named = (label) => element("bdi", { title: L.name[label] }, L.name[label].trim() ? L.name[label] : "(blank)");
const parted = (parts, mark) => parts.flatMap((part, i) => (i ? [mark, part] : [part]));
const link = (label) => element("button", { className: "link", type: "button", "data-label": positions ? D.ids[label] : label }, named(label));
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const groupsOf = (label) => L.several[label] ?? [L.group[label]];  // -1: in none
const groupName = (group) => (group < 0 ? "no group" : `${group + 1}: ${D.groups[group]}`);

/* theme */
const themes = [];
function dark() {
  const set = matchMedia("print").matches ? "light" : document.documentElement.dataset.theme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
function themed() {
  find("theme").textContent = dark() ? "light theme" : "dark theme";
  themes.forEach((draw) => draw());
}
find("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  themed();
});
addEventListener("beforeprint", () => {
  for (const closed of document.querySelectorAll("details:not([open])")) {
    closed.open = true;
    addEventListener("afterprint", () => { closed.open = false; }, { once: true });
  }
});
for (const query of ["print", "(prefers-color-scheme: dark)"]) matchMedia(query).addEventListener("change", themed);

/* tables that were written by hand: a click on a heading sorts */
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = element("button", { type: "button" }, ...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column], data = cell.querySelector("data");
        return data ? Number(data.value) : cell.textContent.trim();
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => ordered(key(a), key(b), down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}
function ordered(a, b, turn) {
  /* what is no number stands after the numbers, whichever way they turn */
  return (typeof b === "number") - (typeof a === "number") || turn * (a < b ? -1 : a > b ? 1 : 0);
}

/* search */
function matching(text, most) {
  const wanted = fold(text), exact = [], first = [], rest = [];
  for (let i = 0; i < C; i++) {
    const at = folded[i].indexOf(wanted), of = folded[i] === wanted ? exact : at === 0 ? first : rest;
    if (at >= 0 && of.length < most) of.push(i);
  }
  return [...exact, ...first, ...rest].slice(0, most);
}
const box = find("search"), options = find("found");
let at = -1;
function offer() {
  options.replaceChildren();
  at = -1;
  const text = box.value.trim(), labels = text ? matching(text, 40) : [];
  labels.forEach((label, i) =>
    options.append(element("li", { id: `found-${i}`, role: "option", "aria-selected": "false", "data-label": positions ? D.ids[label] : label }, named(label), element("span", {}, L.group[label] < 0 ? "" : `group ${groupsOf(label).map((group) => group + 1).join(", ")}`))));
  if (text && !labels.length) options.append(element("li", { role: "option", "aria-disabled": "true", "aria-selected": "false" }, "no label of that name"));
  const open = options.children.length > 0;
  options.hidden = !open;
  box.setAttribute("aria-expanded", String(open));
  box.removeAttribute("aria-activedescendant");
}
function close() {
  options.hidden = true;
  box.setAttribute("aria-expanded", "false");
}
box.addEventListener("input", offer);
box.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && options.hidden) offer();
  const shown = options.hidden ? [] : [...options.querySelectorAll("[data-label]")];
  if (event.key === "Escape") close();
  else if (step && shown.length) {
    at = (at + step + shown.length) % shown.length;
    shown.forEach((option, i) => option.setAttribute("aria-selected", String(i === at)));
    shown[at].scrollIntoView({ block: "nearest" });
    box.setAttribute("aria-activedescendant", shown[at].id);
  } else if (event.key === "Enter" && shown.length) {
    open(Number(shown[Math.max(at, 0)].dataset.label));
    close();
  } else return;
  event.preventDefault();
});
box.addEventListener("blur", close);
options.addEventListener("mousedown", (event) => event.preventDefault());  // the box keeps the focus, and so the list stays, until the click is done
document.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-label]");
  if (chosen) open(Number(chosen.dataset.label));
  const group = event.target.closest("[data-group]");
  if (group) { select.value = Number(group.dataset.group) + 1; show(Number(select.value)); find("confusions").scrollIntoView(); canvas.focus({ preventScroll: true }); }
});

/* a label's page */
function open(id) {
  const label = positions ? positions.get(id) : id;
  if (label == null) return;
  if (location.hash !== `#label-${id}`) history.pushState(null, "", `#label-${id}`);
  labelPage(label);
}
function labelPage(label) {
  const page = find("label-page"), picture = D.pictures[label];
  const facts = [["group", ...parted(groupsOf(label).map((group) => (group < 0 ? "no group" : element("button", { className: "link", type: "button", "data-group": group, title: "see its matrix" }, element("bdi", {}, groupName(group))))), "; ")], ["average precision before", percent(L.before[label])], ["after", percent(L.after[label])],
    ["change, points", element("span", { className: tone(gain[label]) }, signed(gain[label]))], ["test examples", whole(L.test[label])], ["training examples", whole(L.training[label])]];
  const near = [], counted = D.kind === "confusions"
    ? [["detected where this is annotated", D.neighbours.detected_for_it], ["this detected where it is annotated", D.neighbours.it_for_them]]
    : [["detected together", D.neighbours.detected_for_it]];
  for (let i = D.neighbours.first[label]; i < D.neighbours.first[label + 1]; i++) near.push(i);
  const wrong = D.mistakes.example.map((_, i) => i).filter((i) => D.mistakes.taken[i] === label || D.mistakes.annotated[i] === label);
  page.replaceChildren(
    element("h3", { tabIndex: -1 }, picture ? element("img", { src: "data:image/png;base64," + picture, alt: "" }) : null, named(label)),
    element("dl", {}, ...facts.map(([name, ...value]) => element("div", {}, element("dt", {}, name), element("dd", {}, ...value)))),
    near.length ? tableOf("Mixed up with most, on hold-out data", ["label", ...counted.map(([head]) => head)],
      near.map((i) => [link(D.neighbours.label[i]), ...counted.map(([, counts]) => whole(counts[i]))])) : element("p", { className: "note" }, "It was mixed up with no other label."),
    wrong.length ? tableOf("Its most confident mistakes left, with heads, on test data", ["example", "took", "for", "sure of it, %"],
      wrong.slice(0, 12).map((i) => [element("bdi", { title: D.mistakes.name[i] }, D.mistakes.name[i]), link(D.mistakes.annotated[i]), link(D.mistakes.taken[i]), (100 * D.mistakes.confidence[i]).toFixed(1)]), 3)
      : D.mistakes.kept ? element("p", { className: "note" }, "No confident mistake with it is kept.") : null);
  page.hidden = false;
  page.scrollIntoView({ block: "start" });
  page.querySelector("h3").focus({ preventScroll: true });
}
function tableOf(caption, heads, rows, left = 1) {
  const side = (i) => (i > 0 && i < left ? "left" : null);
  return element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...heads.map((head, i) => element("th", { scope: "col", className: side(i) }, head)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, i) => element("td", { className: side(i) }, cell)))))));
}
function routed() {
  const found = /^#label-(\d+)$/.exec(location.hash);
  const label = found && (positions ? positions.get(Number(found[1])) : Number(found[1]));
  if (label != null && label < C) labelPage(label);
  else find("label-page").hidden = true;
}
addEventListener("popstate", routed);
addEventListener("hashchange", routed);

/* all labels */
const columns = [["label", null], ["group", (i) => L.group[i]], ["training", (i) => L.training[i]], ["test", (i) => L.test[i]], ["before", (i) => L.before[i]], ["after", (i) => L.after[i]], ["change", (i) => gain[i]]];
const state = { column: 6, down: false, most: 25, labels: [] };
function list() {
  const text = fold(find("filter").value), group = find("of-group").value;
  const key = columns[state.column][1], order = [];
  for (let i = 0; i < C; i++) if ((!text || folded[i].includes(text)) && (group === "" || groupsOf(i).includes(Number(group)))) order.push(i);
  const turn = state.down ? -1 : 1;
  order.sort(key ? (a, b) => (key(a) == null) - (key(b) == null) || turn * (key(a) - key(b)) || a - b : (a, b) => turn * (folded[a] < folded[b] ? -1 : folded[a] > folded[b] ? 1 : a - b));
  state.labels = order;
  find("all-labels").tBodies[0].replaceChildren(...order.slice(0, state.most).map((i) => element("tr", {}, element("td", {}, link(i)), element("td", { className: "left" }, ...parted(groupsOf(i).map((group) => element("bdi", { title: groupName(group) }, groupName(group))), "; ")),
    ...[whole(L.training[i]), whole(L.test[i]), percent(L.before[i]), percent(L.after[i])].map((text) => element("td", {}, text)), element("td", { className: tone(gain[i]) }, signed(gain[i])))));
  find("how-many").textContent = `${whole(Math.min(state.most, order.length))} of ${whole(order.length)} labels shown` + (positions ? `, the most frequent of ${whole(D.n_labels)}` : "");
  find("more").hidden = state.most >= order.length;
  find("more").textContent = `show ${whole(Math.min(200, order.length - state.most))} more`;
}
[...find("all-labels").tHead.rows[0].cells].forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
  state.down = state.column === column ? !state.down : column > 1;
  state.column = column;
  [...heading.parentNode.cells].forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", state.down ? "descending" : "ascending");
  list();
}));
find("filter").addEventListener("input", list);
find("of-group").addEventListener("change", list);
find("more").addEventListener("click", () => { state.most += 200; list(); });

/* the matrix */
const canvas = find("matrix"), select = find("which"), readout = find("readout");
const view = { number: -1, x: 0, y: 0, size: 1, cursor: null };
async function decoded(part) {
  if (part.values) return part.values;
  const bytes = Uint8Array.from(atob(part.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const numbers = new DataView(await new Response(stream).arrayBuffer()), n = numbers.byteLength / 8;
  part.values = new Uint32Array(part.cells * part.cells);
  for (let i = 0; i < n; i++) part.values[numbers.getUint32(4 * i, true)] = numbers.getUint32(4 * (n + i), true);
  return part.values;
}
const ramps = { light: [[186, 219, 219], [110, 180, 182], [20, 116, 120], [6, 50, 62], [60, 10, 50]], dark: [[38, 66, 72], [24, 112, 116], [70, 190, 184], [190, 236, 214], [255, 250, 200]] };
function image(part, wide) {
  /* the part in view: a pixel shows the largest count of its cells */
  const ramp = ramps[dark() ? "dark" : "light"], n = part.cells, zoom = wide / view.size, most = new Uint32Array(wide * wide), made = new ImageData(wide, wide);
  const first = [view.x, view.y].map(Math.floor), end = [view.x, view.y].map((from) => Math.min(n, Math.ceil(from + view.size)));
  const pixel = (at, from) => Math.min(Math.max(Math.round((at - from) * zoom), 0), wide);
  for (let y = first[1]; y < end[1]; y++) {
    const top = pixel(y, view.y), bottom = Math.max(top + 1, pixel(y + 1, view.y));
    for (let x = first[0]; x < end[0]; x++) {
      const value = part.values[y * n + x];
      if (!value) continue;
      const left = pixel(x, view.x), right = Math.max(left + 1, pixel(x + 1, view.x));
      for (let py = top; py < Math.min(bottom, wide); py++) for (let px = left; px < Math.min(right, wide); px++) if (most[py * wide + px] < value) most[py * wide + px] = value;
    }
  }
  const scale = (ramp.length - 1) / Math.log(1 + part.largest);
  for (let i = 0; i < most.length; i++) {
    if (!most[i]) continue;
    const place = Math.log(1 + most[i]) * scale, low = Math.min(Math.floor(place), ramp.length - 2);
    for (let c = 0; c < 3; c++) made.data[4 * i + c] = ramp[low][c] + (ramp[low + 1][c] - ramp[low][c]) * (place - low);
    made.data[4 * i + 3] = 255;
  }
  return made;
}
async function show(number) {
  const part = D.matrices[number];
  await decoded(part);
  Object.assign(view, { number, x: 0, y: 0, size: part.cells, cursor: null });
  canvas.dataset.shown = number;
  draw();
  tell(null);
}
function draw() {
  if (view.number < 0) return;
  const part = D.matrices[view.number], scale = devicePixelRatio || 1, wide = Math.max(1, Math.round(canvas.clientWidth * scale));
  if (canvas.width !== wide) canvas.width = canvas.height = wide;
  const context = canvas.getContext("2d"), zoom = wide / view.size;
  context.putImageData(image(part, wide), 0, 0);
  context.strokeStyle = style("--control");
  context.lineWidth = scale;
  let drawn = -Infinity;
  for (const edge of part.edges) {
    if (edge >= part.cells || (edge - drawn) * 50 < view.size) continue;  // lines closer than that would hide the cells
    drawn = edge;
    const x = Math.round((edge - view.x) * zoom) + 0.5, y = Math.round((edge - view.y) * zoom) + 0.5;
    context.beginPath(), context.moveTo(x, 0), context.lineTo(x, wide), context.moveTo(0, y), context.lineTo(wide, y), context.stroke();
  }
  if (view.cursor) {
    context.strokeStyle = style("--focus");
    context.lineWidth = 2 * scale;
    context.strokeRect((view.cursor[0] - view.x) * zoom, (view.cursor[1] - view.y) * zoom, Math.max(zoom, 4), Math.max(zoom, 4));
  }
  const ramp = ramps[dark() ? "dark" : "light"], first = Math.log(2) / Math.log(1 + part.largest), stop = (i) => ((i / (ramp.length - 1) - first) / (1 - first || 1)) * 100;
  find("key").replaceChildren(...(part.largest ? ["1", element("i", { style: `background:linear-gradient(to right, ${ramp.map((colour, i) => `rgb(${colour}) ${stop(i)}%`)})` }), `${whole(part.largest)} times`] : []));
  canvas.dataset.cells = view.size.toFixed(2);
  canvas.style.touchAction = view.size < part.cells ? "none" : "pan-y";  // a swipe over the whole matrix scrolls the page
}
function within(part, cell) {
  const first = Math.ceil((cell * part.labels) / part.cells), end = Math.ceil(((cell + 1) * part.labels) / part.cells);
  if (typeof part.order === "number") return D.matrices[0].order.slice(part.order + first, part.order + end);
  return part.order.slice(first, end);
}
function range(labels) {
  const parts = labels.length > 3 ? [labels[0], labels[labels.length - 1]] : labels, span = element("span");
  parts.forEach((label, i) => span.append(i ? (labels.length > 3 ? " to " : ", ") : "", label < 0 ? "a rare label" : link(label)));
  if (labels.length > 3) span.append(` (${labels.length} labels)`);
  return span;
}
function tell(cell) {
  const part = D.matrices[view.number];
  if (!cell) { readout.replaceChildren(`${whole(part.labels)} labels in ${whole(part.cells)} x ${whole(part.cells)} cells. Point at a cell, or focus the matrix and use the arrow keys.`); return; }
  const [x, y] = cell;
  readout.replaceChildren(`${whole(part.values[y * part.cells + x])} times detected `, range(within(part, y)), D.kind === "confusions" ? " where annotated " : " beside ", range(within(part, x)));
  readout.dataset.row = y, readout.dataset.column = x, readout.dataset.value = part.values[y * part.cells + x];
}
function zoomed(factor, x = view.x + view.size / 2, y = view.y + view.size / 2) {
  const cells = D.matrices[view.number].cells, size = Math.min(cells, Math.max(Math.min(8, cells), view.size * factor));
  view.x = clamped(x - ((x - view.x) * size) / view.size, cells - size);
  view.y = clamped(y - ((y - view.y) * size) / view.size, cells - size);
  view.size = size;
  draw();
}
const clamped = (value, most) => Math.min(Math.max(0, value), Math.max(0, most));
function cellAt(event) {
  const box = canvas.getBoundingClientRect();
  return [view.x + ((event.clientX - box.left) / box.width) * view.size, view.y + ((event.clientY - box.top) / box.height) * view.size];
}
let dragged = null, pointed = 0;
function point([x, y]) {
  view.cursor = [x, y].map((at) => Math.floor(clamped(at, D.matrices[view.number].cells - 1)));
  draw(), tell(view.cursor);
}
canvas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && document.activeElement !== canvas) return;
  const before = view.size;
  zoomed(event.deltaY > 0 ? 1.25 : 0.8, ...cellAt(event));
  if (view.size !== before) event.preventDefault();
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => { canvas.focus({ preventScroll: true }); canvas.setPointerCapture(event.pointerId); dragged = { at: cellAt(event), x: event.clientX, y: event.clientY }; });
canvas.addEventListener("pointermove", (event) => {
  if (view.number < 0) return;
  const [x, y] = cellAt(event), cells = D.matrices[view.number].cells;
  if (dragged) { view.x = clamped(view.x + dragged.at[0] - x, cells - view.size); view.y = clamped(view.y + dragged.at[1] - y, cells - view.size); draw(); return; }
  cancelAnimationFrame(pointed);
  pointed = requestAnimationFrame(() => point([x, y]));
});
canvas.addEventListener("pointerup", (event) => {
  if (dragged && view.number >= 0 && Math.hypot(event.clientX - dragged.x, event.clientY - dragged.y) < 4) point(cellAt(event));
  dragged = null;
});
canvas.addEventListener("pointercancel", () => { dragged = null; });
canvas.addEventListener("dblclick", (event) => zoomed(0.5, ...cellAt(event)));
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;  // the browser's
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, cells = D.matrices[view.number].cells;
  if (moves[event.key]) {
    const step = event.shiftKey ? 10 : 1, from = view.cursor || [Math.floor(view.x), Math.floor(view.y)];
    view.cursor = from.map((value, i) => clamped(value + step * moves[event.key][i], cells - 1));
    view.x = clamped(Math.min(Math.max(view.x, view.cursor[0] + 1 - view.size), view.cursor[0]), cells - view.size);
    view.y = clamped(Math.min(Math.max(view.y, view.cursor[1] + 1 - view.size), view.cursor[1]), cells - view.size);
    draw(), tell(view.cursor);
  } else if (event.key === "+" || event.key === "=") zoomed(0.67, ...(view.cursor || []));
  else if (event.key === "-") zoomed(1.5, ...(view.cursor || []));
  else if (event.key === "0") show(view.number);
  else if (event.key === "Enter" && view.cursor) {
    const label = within(D.matrices[view.number], view.cursor[1]).find((label) => label >= 0);
    if (label != null) open(positions ? D.ids[label] : label);
  }
  else return;
  event.preventDefault();
});
D.matrices.forEach((part, i) => select.append(element("option", { value: i }, part.title.length > 60 ? part.title.slice(0, 59) + "…" : part.title)));
select.addEventListener("change", () => show(Number(select.value)));
for (const [id, factor] of [["closer", 0.5], ["farther", 2]]) find(id).addEventListener("click", () => zoomed(factor, ...(view.cursor || [])));
find("whole").addEventListener("click", () => show(view.number));
new ResizeObserver(draw).observe(canvas);
themes.push(draw);

/* change against class frequency */
const scatter = find("scatter"), frequency = L.training.some((n) => n != null) ? L.training : L.test;
let points = [];
function scattered() {
  if (!scatter) return;
  const scale = devicePixelRatio || 1, wide = Math.max(1, Math.round(scatter.clientWidth * scale)), high = Math.round(wide / 1.5), edge = 46 * scale, left = 62 * scale;
  scatter.width = wide, scatter.height = high;
  const context = scatter.getContext("2d"), shown = gain.map((_, i) => i).filter((i) => gain[i] != null && frequency[i] != null);
  if (!shown.length) return;
  const xs = shown.map((i) => Math.log10(1 + frequency[i])), most = shown.reduce((most, i) => Math.max(most, Math.abs(gain[i])), 0.01);
  const [least, largest] = [xs.reduce((a, b) => Math.min(a, b)), xs.reduce((a, b) => Math.max(a, b))];
  const low = largest > least ? least : least - 0.15, span = largest - least || 0.3;
  const px = (x) => left + ((x - low) / span) * (wide - left - 0.6 * edge), py = (value) => (high - edge) / 2 + 4 * scale - (value / most) * ((high - edge) / 2 - 8 * scale);
  context.clearRect(0, 0, wide, high);
  context.font = `${12 * scale}px system-ui, sans-serif`;
  context.fillStyle = style("--quiet"), context.strokeStyle = style("--line"), context.lineWidth = scale;
  const power = 10 ** Math.floor(Math.log10((100 * most) / 3)), step = power * [1, 2, 5, 10].find((digit) => 3 * digit * power >= 100 * most), n = Math.floor((100 * most) / step + 1e-9);
  for (let i = -n; i <= n; i++) {
    const y = py((i * step) / 100);
    context.beginPath(), context.moveTo(left, y), context.lineTo(wide, y), context.stroke();
    context.textAlign = "right", context.textBaseline = "middle", context.fillText((i * step).toFixed(step < 1 ? -Math.floor(Math.log10(step)) : 0), left - 6 * scale, y);
  }
  let ticks = [0];
  for (let ten = 1; ten <= 1e9; ten *= 10) ticks.push(...((px(1) - px(0)) / scale > 150 ? [ten, 2 * ten, 5 * ten] : [ten]));
  ticks = ticks.filter((tick) => low <= Math.log10(1 + tick) && Math.log10(1 + tick) <= low + span);
  if (ticks.length < 2) ticks = [...new Set([least, largest].map((end) => Math.round(10 ** end - 1)))];
  context.textAlign = "center", context.textBaseline = "top";
  for (const tick of ticks) context.fillText(whole(tick), px(Math.log10(1 + tick)), high - edge + 10 * scale);
  context.save(), context.translate(2 * scale, py(0)), context.rotate(-Math.PI / 2), context.fillText("change, points", 0, 0), context.restore();
  context.fillText(L.training.some((n) => n != null) ? "training examples of the label" : "test examples of the label", wide / 2, high - 16 * scale);
  context.globalAlpha = Math.max(0.15, Math.min(0.8, 900 / shown.length));
  const colour = { good: style("--good"), bad: style("--bad"), "": style("--quiet") };
  points = shown.map((label, i) => {
    const jitter = (((label * 2654435761) % 1000) / 1000 - 0.5) * Math.min(10 * scale, wide / 40), x = px(xs[i]) + jitter, y = py(gain[label]);
    context.fillStyle = colour[tone(gain[label])];
    context.beginPath(), context.arc(x, y, 2.2 * scale, 0, 7), context.fill();
    return [x / scale, y / scale, label];
  });
  context.globalAlpha = 1;
}
function nearest(event) {
  const box = scatter.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = null, least = 400;
  for (const [px, py, label] of points) { const far = (px - x) ** 2 + (py - y) ** 2; if (far < least) { least = far; best = label; } }
  return best;
}
if (scatter) {
  scatter.addEventListener("pointermove", (event) => { const label = nearest(event); find("pointed").replaceChildren(...(label == null ? [] : [named(label), `: ${signed(gain[label])} points, ${whole(frequency[label])} examples`])); });
  scatter.addEventListener("click", (event) => { const label = nearest(event); if (label != null) open(positions ? D.ids[label] : label); });
  new ResizeObserver(scattered).observe(scatter);
  themes.push(scattered);
}

for (const group of [...D.groups.keys(), ...(L.group.includes(-1) ? [-1] : [])]) find("of-group").append(element("option", { value: group }, groupName(group).slice(0, 60)));
list();
themed();
show(0).then(() => { routed(); document.documentElement.dataset.ready = "yes"; });
