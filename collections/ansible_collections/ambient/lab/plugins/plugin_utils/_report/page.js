"use strict";
// The page is complete without this. It opens the claim that a cell leads to, finds claims by words, opens all at once.
const claims = [...document.querySelectorAll("details.claim")];
const open = () => {
  const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (found instanceof HTMLDetailsElement) {
    found.open = true;
    found.scrollIntoView();
  }
};
addEventListener("hashchange", open);
// The same link twice does not change the address.
addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link && link.hash === location.hash) open();
});
addEventListener("beforeprint", () => claims.forEach((one) => { one.open = !one.hidden; }));
const find = document.getElementById("find");
find.addEventListener("input", () => {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of claims) {
    const text = one.firstElementChild.textContent.toLowerCase();
    one.hidden = !words.every((word) => text.includes(word));
  }
  document.getElementById("none").hidden = claims.some((one) => !one.hidden);
});
const all = document.getElementById("all");
all.addEventListener("click", () => {
  const opened = all.getAttribute("aria-pressed") !== "true";
  all.setAttribute("aria-pressed", String(opened));
  for (const one of claims) one.open = opened && one.checkVisibility();
});
document.getElementById("tools").hidden = false;
open();
