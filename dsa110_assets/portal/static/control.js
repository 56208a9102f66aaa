// Forms with data-order post their fields to the API, for who has signed in. What destroys is answered by what would be done; it is
// done once that is confirmed.
"use strict";

const API = "/api/v1/", MOST_SHOWN = 12;
let csrf = null;

async function call(resource, method, body) {
  const headers = { accept: "application/json", "content-type": "application/json", ...(csrf ? { "x-csrf-token": csrf } : {}) };
  const answer = await fetch(API + resource, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const said = answer.status === 204 ? {} : await answer.json();
  if (!answer.ok) throw new Error((said.errors || []).map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; ") || said.detail || answer.status);
  return said;
}

function know(session) {
  csrf = session.csrf || null;
  document.body.classList.toggle("signed-in", csrf !== null);
  document.body.classList.toggle("no-token", !session.control);
  document.getElementById("who").textContent = csrf ? `Signed in as ${session.name} ·` : "";
  document.body.dataset.session = "known";
}

const READ = {
  list: (one) => one.value.split(/[\s,]+/).filter(Boolean), json: (one) => JSON.parse(one.value), boolean: (one) => one.checked,
  text: (one) => one.value,
};
// A field with data-chosen holds the values of the boxes of that kind, anywhere on the page, that are ticked.
function chosen(kind) { return [...document.querySelectorAll(`[data-choice="${kind}"]:checked`)].map((one) => one.value); }
function fields(form) {
  const filled = [...form.elements].filter((one) => one.name && !one.dataset.chosen && (one.type === "checkbox" ? one.checked : one.value.trim()));
  const lists = [...form.elements].filter((one) => one.dataset.chosen).map((one) => [one.name, chosen(one.dataset.chosen)]);
  if (lists.some(([, values]) => !values.length)) throw new Error("Nothing is ticked: choose what it is to be made of.");
  return Object.fromEntries([...filled.map((one) => [one.name, READ[one.dataset.as || "text"](one)]), ...lists]);
}

function told(said) {
  if (said.told) return said.told;
  if (said.partitions) return `${said.backfill_id ? `Queued as backfill ${said.backfill_id}` : "Would be queued"}: ${said.assets.join(", ")} ${said.partitions.slice(0, MOST_SHOWN).join(", ")}${said.partitions.length > MOST_SHOWN ? ` and ${said.partitions.length - MOST_SHOWN} more` : ""}`;
  return "Done";
}

function say(place, text, tone) { place.textContent = text; place.className = tone; }

async function order(form, body) {
  const place = form.querySelector("output");
  say(place, "…", "soft");
  try {
    const said = await call(form.dataset.order, "POST", body);
    if (said.done !== false) { say(place, `${told(said)}. Reload to see it.`, "good"); return; }
    const more = said.n_affected > MOST_SHOWN ? ` and ${said.n_affected - MOST_SHOWN} more` : "";
    say(place, `This would ${said.told}. It concerns ${said.affected.slice(0, MOST_SHOWN).join(", ") || "nothing"}${more}. `, "warn");
    const button = document.createElement("button");
    button.type = "button"; button.textContent = "Do it";
    button.addEventListener("click", () => order(form, { ...body, confirm: said.confirm }));
    place.append(button);
  } catch (error) { say(place, error.message, "bad"); }
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.order) {
    event.preventDefault();
    try { await order(form, fields(form)); } catch (error) { say(form.querySelector("output"), error.message, "bad"); }
  } else if (form.id === "sign-in" || form.id === "sign-out") {
    event.preventDefault();
    try {
      if (form.id === "sign-in") know(await call("session", "POST", fields(form)));
      else { await call("session", "DELETE"); know({ control: true }); }
      form.reset();
      document.getElementById("trouble").textContent = "";
    } catch (error) { document.getElementById("trouble").textContent = error.message; }
  }
});

call("session", "GET").then(know, () => know({ control: false }));
