// Draws every element with data-chart: the JSON of a Bokeh plot, in the colours of the reader's scheme, drawn anew when that changes.
"use strict";

const schemes = matchMedia("(prefers-color-scheme: dark)");

async function draw(place) {
  const address = new URL(place.dataset.chart, location.href);
  if (schemes.matches) address.searchParams.set("dark", "1");
  if (matchMedia("(pointer: coarse)").matches) address.searchParams.set("touch", "1");
  try {
    const answer = await fetch(address, { headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error((await answer.json()).detail || `${answer.status}`);
    const item = await answer.json();
    place.replaceChildren();
    place.classList.toggle("nothing", item === null);
    if (item === null) place.textContent = "Nothing to show for this span.";
    else if (item.said) { place.textContent = `${item.said}.`; place.classList.add("nothing"); }  // a reason in a plot's place
    if (!place.id) place.id = `chart-${Math.random().toString(36).slice(2)}`;
    if (item !== null && !item.said) await Bokeh.embed.embed_item(item, place.id);
    place.dataset.drawn = "yes";
  } catch (error) {
    place.textContent = `Nothing is drawn: ${error.message}`;
    place.dataset.drawn = "no";
  }
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });

for (const place of document.querySelectorAll("[data-chart]")) near.observe(place);
schemes.addEventListener("change", () => document.querySelectorAll("[data-chart][data-drawn]").forEach(draw));
