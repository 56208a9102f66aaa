// Pans and zooms in an image: tiles of 8-bit levels come from the server for the limits and stretch that are set, colours are put on
// here. Position and value under the cursor, what is marked, and where a place lies in another image are asked of the server.
"use strict";

const canvas = document.getElementById("sky");
const pen = canvas.getContext("2d");
const facts = JSON.parse(canvas.dataset.facts);
const at = (name) => document.getElementById(name);
const told = at("told");
const KEPT = 400;

// Anchors of the colour scales, dark to bright; between them colours are interpolated.
const SCALES = {
  "grey, dark sources": ["#ffffff", "#000000"], "grey, bright sources": ["#000000", "#ffffff"],
  viridis: ["#440154", "#472c7a", "#3b518b", "#2c718e", "#21908d", "#27ad81", "#5cc863", "#aadc32", "#fde725"],
  inferno: ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#fcffa4"],
};

function table(anchors) {
  const rgb = anchors.map((one) => [1, 3, 5].map((k) => parseInt(one.slice(k, k + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const place = (Math.max(level, 1) - 1) / 254 * (rgb.length - 1), k = Math.min(Math.floor(place), rgb.length - 2);
    return rgb[k].map((value, c) => Math.round(value + (rgb[k + 1][c] - value) * (place - k)));
  });
}

// An image that can be shown: its product, file, size, and the tiles that are there.
function layer(id, file, width, height) { return { id, file, width, height, tiles: new Map(), marks: [] }; }

let shown = layer(facts.product, facts.file, facts.width, facts.height);
const first = shown;
let other = null, colours = table(SCALES["grey, dark sources"]), blinking = 0;
let centre = { x: facts.centre[0], y: facts.centre[1] }, scale = 1;  // screen pixels for one of the image

function query(one, more) { return new URLSearchParams({ ...(one.file ? { file: one.file } : {}), ...more }); }
async function ask(one, what, more) {
  const answer = await fetch(`/view/${encodeURIComponent(one.id)}/${what}?${query(one, more)}`);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.detail || answer.status);
  return said;
}

function fit() {
  const ratio = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * ratio); canvas.height = Math.round(box.height * ratio);
}
function whole() { scale = Math.min(canvas.width / shown.width, canvas.height / shown.height); centre = { x: shown.width / 2, y: shown.height / 2 }; draw(); }

function limits() {
  return { low: Number(at("low").value) / 1000, high: Number(at("high").value) / 1000, stretch: at("stretch").value };
}

function tile(one, level, x, y) {
  const how = limits(), key = [level, x, y, how.low, how.high, how.stretch].join();
  let found = one.tiles.get(key);
  if (!found) {
    found = { image: new Image(), coloured: null, colours: null };
    found.image.onload = () => draw();
    found.image.src = `/view/${encodeURIComponent(one.id)}/tile.png?${query(one, { level, x, y, ...how })}`;
    one.tiles.set(key, found);
    if (one.tiles.size > KEPT) one.tiles.delete(one.tiles.keys().next().value);
  }
  if (!found.image.complete || !found.image.naturalWidth) return null;
  if (found.colours !== colours) {
    const width = found.image.naturalWidth, height = found.image.naturalHeight;
    found.coloured = found.coloured || new OffscreenCanvas(width, height);
    const brush = found.coloured.getContext("2d", { willReadFrequently: true });
    brush.clearRect(0, 0, width, height);
    brush.drawImage(found.image, 0, 0);
    const pixels = brush.getImageData(0, 0, width, height), data = pixels.data;
    for (let k = 0; k < data.length; k += 4) {
      const level_ = data[k], [r, g, b] = colours[level_];
      data[k] = r; data[k + 1] = g; data[k + 2] = b; data[k + 3] = level_ === 0 ? 0 : 255;
    }
    brush.putImageData(pixels, 0, 0);
    found.colours = colours;
  }
  return found.coloured;
}

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; paint(); });
}

function paint() {
  const width = canvas.width, height = canvas.height;
  pen.clearRect(0, 0, width, height);
  pen.imageSmoothingEnabled = scale < 3;
  const level = Math.max(0, Math.min(facts.deepest, Math.floor(Math.log2(1 / scale) + 0.4))), step = 2 ** level, side = facts.tile * step;
  const left = centre.x - width / 2 / scale, right = centre.x + width / 2 / scale, low = centre.y - height / 2 / scale, high = centre.y + height / 2 / scale;
  const bound = (value, length) => Math.max(0, Math.min(Math.ceil(length / side) - 1, Math.floor(value / side)));
  let lacking = 0;
  if (right > 0 && left < shown.width && high > 0 && low < shown.height) {
    for (let y = bound(low, shown.height); y <= bound(high, shown.height); y++) {
      for (let x = bound(left, shown.width); x <= bound(right, shown.width); x++) {
        const picture = tile(shown, level, x, y);
        if (!picture) { lacking++; continue; }
        const x0 = (x * side - left) * scale, y1 = height - (y * side - low) * scale;  // the south-western corner, rows upwards
        pen.drawImage(picture, x0, y1 - picture.height * step * scale, picture.width * step * scale, picture.height * step * scale);
      }
    }
  }
  const ratio = devicePixelRatio || 1;
  for (const mark of shown.marks) {
    const x = (mark.x + 0.5 - left) * scale, y = height - (mark.y + 0.5 - low) * scale;
    if (x < -20 || y < -20 || x > width + 20 || y > height + 20) continue;
    pen.strokeStyle = mark.found ? "#ff5a36" : "#d98c00"; pen.lineWidth = 1.5 * ratio;
    pen.beginPath(); pen.arc(x, y, 9 * ratio, 0, 2 * Math.PI); pen.stroke();
    if (scale > 1.5 * ratio) { pen.fillStyle = pen.strokeStyle; pen.font = `${11 * ratio}px system-ui`; pen.fillText(mark.name, x + 11 * ratio, y - 6 * ratio); }
  }
  canvas.dataset.lacking = lacking;
}

function place(event) {
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  const dx = (event.clientX - box.left) * ratio - canvas.width / 2, dy = canvas.height / 2 - (event.clientY - box.top) * ratio;
  return { x: centre.x + dx / scale, y: centre.y + dy / scale };
}

function zoom(by, about) {
  const next = Math.min(64, Math.max(0.25 * Math.min(canvas.width / shown.width, canvas.height / shown.height), scale * by));
  const held = about || centre;
  centre = { x: held.x + (centre.x - held.x) * scale / next, y: held.y + (centre.y - held.y) * scale / next };
  scale = next;
  draw();
}

const held = new Map();
canvas.addEventListener("pointerdown", (event) => { held.set(event.pointerId, event); canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => {
  const before = held.get(event.pointerId);
  if (!before) { point(event); return; }
  const ratio = canvas.width / canvas.getBoundingClientRect().width;
  if (held.size === 2) {
    const [fixed] = [...held.values()].filter((one) => one.pointerId !== event.pointerId);
    const apart = (one) => Math.hypot(one.clientX - fixed.clientX, one.clientY - fixed.clientY) || 1;
    zoom(apart(event) / apart(before), place(fixed));
  } else {
    centre = { x: centre.x - (event.clientX - before.clientX) * ratio / scale, y: centre.y + (event.clientY - before.clientY) * ratio / scale };
    draw();
  }
  held.set(event.pointerId, event);
});
for (const ending of ["pointerup", "pointercancel"]) canvas.addEventListener(ending, (event) => { held.delete(event.pointerId); point(event); });
canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), place(event)); }, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const far = 80 / scale, moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, far], ArrowDown: [0, -far] };
  if (moves[event.key]) { centre = { x: centre.x + moves[event.key][0], y: centre.y + moves[event.key][1] }; draw(); }
  else if (event.key === "+" || event.key === "=") zoom(1.4);
  else if (event.key === "-") zoom(1 / 1.4);
  else if (event.key.toLowerCase() === "b") blink();
  else return;
  event.preventDefault();
});

let wanted = null, busy = false;
async function point(event) {
  wanted = place(event);
  if (busy) return;
  busy = true;
  while (wanted) {
    const here = wanted, one = shown;
    wanted = null;
    try {
      const said = await ask(one, "at.json", { x: here.x - 0.5, y: here.y - 0.5 });
      const value = said.value === null ? "no data" : `${(1000 * said.value).toPrecision(4)} mJy/beam`;
      told.textContent = said.text === null ? "off the sky" : `${said.text}   ${value}   pixel ${Math.floor(here.x)}, ${Math.floor(here.y)}   ${label(one)}`;
    } catch (error) { told.textContent = `The portal does not answer: ${error.message}`; }
  }
  busy = false;
}
function label(one) { return one === first ? `${facts.file}` : `${one.id} ${one.file || ""}`; }

async function mark() {
  const kind = at("marks").value;
  for (const one of [first, other]) {
    if (!one) continue;
    try { one.marks = kind ? (await ask(one, "overlay.json", { kind })).marks : []; }
    catch (error) { told.textContent = `Nothing can be marked: ${error.message}`; }
  }
  draw();
}

// The same place of the sky in the middle of the other image, at the same scale.
async function turnTo(next) {
  if (next === shown) return;
  const here = await ask(shown, "at.json", { x: centre.x - 0.5, y: centre.y - 0.5 });
  if (here.ra_deg !== null) {
    const there = await ask(next, "place.json", { ra: here.ra_deg, dec: here.dec_deg });
    if (there.x !== null) centre = { x: there.x + 0.5, y: there.y + 0.5 };
    next.width = there.width; next.height = there.height;
  }
  shown = next;
  told.textContent = label(shown);
  draw();
}
function blink() {
  if (!other) return;
  if (blinking) { clearInterval(blinking); blinking = 0; at("blink").textContent = "blink"; turnTo(first).catch(fail); return; }
  at("blink").textContent = "stop";
  const swap = () => turnTo(shown === first ? other : first).catch(fail);
  swap();
  blinking = setInterval(swap, 900);
}
function fail(error) { told.textContent = `It cannot be shown: ${error.message}`; }

at("other").addEventListener("change", () => {
  if (blinking) blink();
  const [id, file] = at("other").value.split("|");
  other = at("other").value ? layer(id || facts.product, file || "", facts.width, facts.height) : null;
  at("blink").disabled = !other;
  mark();
});
at("blink").addEventListener("click", blink);
at("in").addEventListener("click", () => zoom(1.6));
at("out").addEventListener("click", () => zoom(1 / 1.6));
at("whole").addEventListener("click", whole);
at("marks").addEventListener("change", mark);
at("colour").addEventListener("change", () => { colours = table(SCALES[at("colour").value]); draw(); });
for (const name of ["low", "high", "stretch"]) at(name).addEventListener("change", draw);
at("file").addEventListener("change", () => { location.search = new URLSearchParams({ file: at("file").value }); });
at("controls").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = at("goto").value.trim().split(/[\s,]+/);
  if (words.length !== 2) { told.textContent = "Go to: right ascension and declination, as 05h21m09.9s +16d38m22s or 80.2912 16.6395"; return; }
  try {
    const there = await ask(shown, "place.json", { ra: words[0], dec: words[1] });
    if (!there.inside) { told.textContent = "That lies outside this image"; return; }
    centre = { x: there.x + 0.5, y: there.y + 0.5 };
    zoom(Math.max(1, 3 / scale));
  } catch (error) { fail(error); }
});
new ResizeObserver(() => { fit(); draw(); }).observe(canvas);

fit();
if (facts.close) { scale = 3 * (devicePixelRatio || 1); centre = { x: centre.x + 0.5, y: centre.y + 0.5 }; draw(); } else whole();
