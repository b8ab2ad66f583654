(() => {
  "use strict";
  const show = (target) => {
    const folded = target && target.closest("details");
    if (folded) { folded.open = true; target.scrollIntoView({ block: "center" }); }
  };
  const follow = () => show(document.getElementById(decodeURIComponent(location.hash.slice(1))));
  addEventListener("hashchange", follow);
  follow();

  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const large = button.closest("figure").classList.toggle("large");
      button.setAttribute("aria-pressed", String(large));
    });
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.unprinted)")];
    for (const folded of opened) folded.open = true;
  });
  addEventListener("afterprint", () => { for (const folded of opened) folded.open = false; });

  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const tools = document.getElementById("tools"), shown = document.getElementById("shown");
  const [order, kind, words] = ["order", "kind", "words"].map((name) => document.getElementById(name));
  const entries = [...gallery.children];
  const number = (entry, name) => Number(entry.dataset[name]);
  const difference = (entry) => Math.abs(number(entry, "area") - number(entry, "target"));
  const text = new Map(entries.map((entry) => [entry, entry.textContent.toLowerCase()]));
  const keys = {
    worst: (entry) => number(entry, "dice"),
    best: (entry) => -number(entry, "dice"),
    largest: (entry) => -number(entry, "target"),
    smallest: (entry) => number(entry, "target"),
    difference: (entry) => -difference(entry),
    doubtful: (entry) => number(entry, "estimated"),
    given: (entry) => number(entry, "index"),
  };
  const kinds = {
    all: () => true,
    missed: (entry) => entry.dataset.kind.includes("missed"),
    false: (entry) => entry.dataset.kind.includes("false"),
    poor: (entry) => number(entry, "dice") < 0.5,
  };
  const arrange = () => {
    const wanted = words.value.toLowerCase().trim();
    let count = 0;
    for (const entry of entries) {
      entry.hidden = !(kinds[kind.value](entry) && text.get(entry).includes(wanted));
      count += !entry.hidden;
    }
    const rank = (entry) => (entry.classList.contains("row") ? 1 : 0);
    const key = keys[order.value];
    gallery.append(...entries.sort((a, b) => rank(a) - rank(b) || key(a) - key(b) || number(a, "index") - number(b, "index")));
    shown.textContent = `${count} of ${entries.length} shown`;
  };
  for (const control of [order, kind]) control.addEventListener("change", arrange);
  words.addEventListener("input", arrange);
  tools.hidden = false;
})();
