// Opens a night's HiPS in Aladin Lite, which an operator installed: coverage and sources over it; a click on a source opens its page.
// All that it asks for is of this origin; what asks others (names, other surveys, its own log) is left out.

const place = document.getElementById("aladin"), told = document.getElementById("told");
const facts = JSON.parse(place.dataset.facts);

function fail(error) {
  told.classList.add("bad");
  told.textContent = `Aladin Lite cannot be shown here: ${error.message || error}. `;
  const link = document.createElement("a"), here = new URL(location.href);
  here.searchParams.set("plain", "1");
  link.href = here.href; link.textContent = "The same without it";
  told.append(link);
  place.dataset.drawn = "no";
}

async function open() {
  const { default: A } = await import("/sky/aladin.js");
  await A.init;
  const hips = A.imageHiPS(new URL(facts.hips, location.href).href, { name: facts.name, imgFormat: "png" });
  const aladin = A.aladin(place, {
    survey: hips, hipsList: [], log: false, target: `${facts.ra} ${facts.dec}`, fov: facts.fov, cooFrame: "ICRSd", projection: "SIN",
    showLayersControl: false, showProjectionControl: false, showSimbadPointerControl: false, showShareControl: false,
    showSettingsControl: false, showContextMenu: false, showFrame: false, showCooGridControl: true, showFullscreenControl: false,
  });
  const answer = await fetch(facts.sources, { headers: { accept: "application/json" } });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.detail || answer.status);
  const marks = A.catalog({ name: "Sources", shape: "circle", sourceSize: 16, color: "#ff8a3c", onClick: null });
  marks.addSources(said.sources.map((one) => A.source(one.ra_deg, one.dec_deg, { name: one.source_id, mjy: 1000 * one.flux_jy })));
  aladin.addCatalog(marks);
  aladin.addMOC(A.MOCFromURL(new URL(`${facts.hips}/Moc.fits`, location.href).href, { color: "#7ab8f0", lineWidth: 2, fill: false, perimeter: true }));
  const say = (object) => (object && object.data ? `${object.data.name}: ${object.data.mjy.toFixed(2)} mJy` : "Wheel and drag move; a click on a circle opens its source.");
  aladin.on("objectHovered", (object) => { told.textContent = say(object); });
  aladin.on("objectClicked", (object) => { if (object && object.data) location.href = `/sources/${encodeURIComponent(object.data.name)}`; });
  told.textContent = say(null);
  place.dataset.drawn = "yes";
  globalThis.sky = { aladin, marks };
}

open().catch(fail);
