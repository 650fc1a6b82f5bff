// What is wrong with how the page is laid out, a sentence each: text that is cut, lies over other text or is out of the window.
() => {
  const problems = new Set();
  const wide = document.documentElement.clientWidth;
  const name = (one) => {
    const words = one.textContent.trim().replace(/\s+/g, " ").slice(0, 60);
    return `<${one.tagName.toLowerCase()}${one.className && one.className.baseVal === undefined ? ` class="${one.className}"` : ""}> “${words}”`;
  };
  if (document.documentElement.scrollWidth > wide) {
    problems.add(`the page is ${document.documentElement.scrollWidth - wide} pixels wider than the window`);
  }

  // Where an element may leave its place: in what scrolls, and in what is hidden from sight on purpose.
  const scrolls = (one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX);
  const apart = (one) => {
    for (let at = one; at && at !== document.body; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (scrolls(at) || style.clipPath === "inset(50%)" || at.matches(".skip")) return true;
      if (["sticky", "fixed"].includes(style.position)) return true;
    }
    return false;
  };
  const shown = (one) => one.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true, opacityProperty: true });

  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || ["SCRIPT", "STYLE", "TITLE"].includes(parent.tagName) || !shown(parent) || apart(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width < 1 || box.height < 1) continue;
      if (box.left < -1 || box.right > wide + 1) problems.add(`${name(parent)} is cut at the window's edge`);
      const room = 0.18 * box.height;  // a line's box is taller than its letters
      texts.push({ parent, left: box.left, right: box.right, top: box.top + room, bottom: box.bottom - room });
    }
  }

  texts.sort((a, b) => a.top - b.top);
  texts.forEach((one, k) => {
    for (let j = k + 1; j < texts.length && texts[j].top < one.bottom - 2; j++) {
      const other = texts[j];
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      if (across > 2) problems.add(`${name(one.parent)} lies over ${name(other.parent)}`);
    }
  });

  for (const one of document.querySelectorAll("main *:not(svg *), header *, nav *, footer *")) {
    const style = getComputedStyle(one);
    if (!shown(one) || apart(one) || style.display === "inline") continue;
    const inner = one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0 && one.tagName !== "svg";
    if (inner && style.overflowX !== "visible") problems.add(`${name(one)} is cut by its own box`);
  }

  for (const one of document.querySelectorAll(".badge, .verdict, .mark")) {
    const box = one.getBoundingClientRect();
    if (shown(one) && !apart(one) && (box.left < 0 || box.right > wide)) problems.add(`the verdict ${name(one)} is not in the window`);
  }
  return [...problems];
}
