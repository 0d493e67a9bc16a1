// The page reads completely without this script; it adds tooltips, sorting, filters and unfolding.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const FIRST = 40; // trials shown before "show all"

  document.documentElement.classList.replace("plain", "live");

  // --- the table of trials -------------------------------------------------------------------------
  const table = $("#trial-table");
  const bodies = () => $$("tbody", table);
  const showAll = $("#show-all");
  let kind = "";
  let limit = FIRST;

  function unfold(button, open) {
    button.setAttribute("aria-expanded", String(open));
    document.getElementById(button.getAttribute("aria-controls")).hidden = !open;
  }

  function refresh() {
    let shown = 0;
    for (const body of bodies()) {
      const matches = !kind || body.dataset.kind === kind;
      if (matches) shown += 1;
      body.classList.toggle("cut", !matches || shown > limit);
    }
    showAll.hidden = shown <= limit;
  }

  function sortBy(button) {
    const heading = button.closest("th");
    const key = button.dataset.key;
    const before = heading.getAttribute("aria-sort");
    const falling = before === "none" ? key === "speed" : before === "ascending";
    for (const other of $$("th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (body) => {
      const text = $(`td[data-key="${key}"]`, body).dataset.value;
      return text === "" ? null : Number(text);
    };
    const sorted = bodies().map((body) => [value(body), body]);
    sorted.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // not measured: always last
      return falling ? b - a : a - b;
    });
    for (const [, body] of sorted) table.append(body);
    refresh();
  }

  function reveal(id) {
    const body = id && document.getElementById(id);
    if (!body || body.tagName !== "TBODY") return;
    if (body.classList.contains("cut")) {
      kind = "";
      limit = Infinity;
      for (const f of $$(".filter")) f.setAttribute("aria-pressed", String(f.dataset.kind === ""));
      refresh();
    }
    unfold($(".unfold", body), true);
    body.scrollIntoView({ block: "center" });
    $(".unfold", body).focus({ preventScroll: true });
  }

  for (const button of $$(".unfold")) {
    unfold(button, false);
    button.addEventListener("click", () => unfold(button, button.getAttribute("aria-expanded") !== "true"));
  }
  for (const button of $$(".sort")) button.addEventListener("click", () => sortBy(button));
  for (const button of $$(".filter")) {
    button.addEventListener("click", () => {
      kind = button.dataset.kind;
      for (const other of $$(".filter")) other.setAttribute("aria-pressed", String(other === button));
      refresh();
    });
  }
  showAll.addEventListener("click", () => {
    limit = Infinity;
    refresh();
  });
  refresh();

  window.addEventListener("hashchange", () => reveal(location.hash.slice(1)));
  for (const link of $$('a[href^="#trial-"]')) {
    link.addEventListener("click", (event) => {
      const hash = link.getAttribute("href");
      if (hash !== location.hash) return; // the browser goes there, and hashchange tells
      event.preventDefault(); // the same row asked for twice
      reveal(hash.slice(1));
    });
  }

  // --- the plot ------------------------------------------------------------------------------------
  const tip = $("#tip");
  const across = (point) => parseFloat($(".at", point).getAttribute("x")); // per cent of the width
  const points = $$(".point").sort((a, b) => across(a) - across(b));
  let current = null;
  let touch = false;

  function make(tag, text) {
    const element = document.createElement(tag);
    element.textContent = text; // names come from model files: text, never markup
    return element;
  }

  function show(point) {
    current = point;
    const list = document.createElement("dl");
    for (const [name, value] of JSON.parse(point.dataset.facts)) list.append(make("dt", name), make("dd", value));
    tip.replaceChildren(make("strong", point.dataset.name), list);
    tip.hidden = false;
    const at = $(".halo", point).getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const gap = 8;
    const x = Math.min(Math.max(at.left + at.width / 2 - size.width / 2, gap), innerWidth - size.width - gap);
    const above = at.top - size.height - gap;
    tip.style.left = `${Math.max(gap, x)}px`;
    tip.style.top = `${above >= gap ? above : Math.min(at.bottom + gap, innerHeight - size.height - gap)}px`;
  }

  function hide() {
    current = null;
    tip.hidden = true;
  }

  function step(from, by) {
    const next = points[Math.min(Math.max(points.indexOf(from) + by, 0), points.length - 1)];
    for (const point of points) point.setAttribute("tabindex", point === next ? "0" : "-1");
    next.focus();
  }

  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  const first = points.find((point) => point.classList.contains("p-chosen")) || points[0];
  for (const point of points) {
    $("title", point).remove(); // the tooltip below replaces the browser's own
    point.setAttribute("tabindex", point === first ? "0" : "-1");
    point.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") show(point);
    });
    point.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") hide();
    });
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", hide);
    point.addEventListener("pointerdown", (event) => {
      touch = event.pointerType === "touch" && current !== point;
    });
    point.addEventListener("click", (event) => {
      if (!touch) return;
      event.preventDefault(); // the first tap explains, the second follows
      event.stopImmediatePropagation();
      show(point);
    }, true);
    point.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS)) return;
      event.preventDefault();
      step(point, STEPS[event.key]);
    });
  }
  window.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  window.addEventListener("scroll", () => {
    if (current && current === document.activeElement) show(current); // Tab may have scrolled to it
    else hide();
  }, { passive: true });

  if (location.hash) reveal(location.hash.slice(1));
})();
