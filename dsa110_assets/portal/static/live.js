// Renews the page's content every few seconds, and says how old it is when the portal does not answer.
"use strict";

const main = document.getElementById("main");
const told = document.getElementById("renewed");
const every = 1000 * Number(main.dataset.renew);
let last = Date.now();

async function renew() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = new Set([...main.querySelectorAll("details[open]")].map((one) => one.id));
    main.replaceChildren(...fresh.getElementById("main").childNodes);
    for (const one of main.querySelectorAll("details")) if (open.has(one.id)) one.open = true;
    document.title = fresh.title;
    last = Date.now();
  } catch {
    // told below: the page says how old it is
  }
  tell();
}

function tell() {
  const age = Math.round((Date.now() - last) / 1000);
  told.textContent = age < 3 * every / 1000 ? `Renewed ${age} s ago` : `The portal has not answered for ${age} s; what you see is that old`;
  told.classList.toggle("bad", age >= 3 * every / 1000);
}

setInterval(renew, every);
setInterval(tell, 1000);
document.addEventListener("visibilitychange", renew);
