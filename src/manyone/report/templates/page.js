// Opens folded chapters for links and for print, and sorts tables by a click on a column's head.
(() => {
  "use strict";

  const reveal = () => {
    let target = null;
    try { target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch { return; }
    let opened = false;
    for (let at = target; at; at = at.parentElement) {
      if (at.tagName === "DETAILS" && !at.open) opened = at.open = true;
    }
    if (opened) target.scrollIntoView({ behavior: "instant" });
  };
  addEventListener("hashchange", reveal);
  reveal();

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });

  const bar = document.querySelector("details.bar");
  bar?.addEventListener("click", (event) => { if (event.target.closest("a")) bar.open = false; });

  const sizes = { k: 1e3, M: 1e6, G: 1e9 };
  const value = (cell) => {
    const text = cell.textContent.trim().replace(/\u2212/g, "-");
    const found = /^<?\s*([-+]?\d[\d\s]*(?:\.\d+)?)\s*([kMG])?(?![a-zA-Z])/.exec(text);
    return { text, number: found ? Number(found[1].replace(/\s/g, "")) * (sizes[found[2]] ?? 1) : NaN };
  };
  const compare = (a, b, way) => {  // cells without a number come last either way
    if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
    if (!Number.isNaN(a.number)) return way * (a.number - b.number);
    return -way * a.text.localeCompare(b.text, undefined, { numeric: true });
  };
  const sort = (table, head, column) => {
    const body = table.tBodies[0];
    table.rowsAtFirst ??= [...body.rows];
    const next = { none: "descending", descending: "ascending", ascending: "none" }[head.getAttribute("aria-sort") ?? "none"];
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    let rows = table.rowsAtFirst;
    if (next !== "none") {
      head.setAttribute("aria-sort", next);
      const way = next === "ascending" ? 1 : -1;
      const keyed = rows.map((row) => ({ row, key: value(row.cells[column]) }));
      rows = keyed.sort((a, b) => compare(a.key, b.key, way)).map(({ row }) => row);
    }
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 3) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head, column));
      head.append(button);
    });
  }
})();
