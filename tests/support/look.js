// What a person with a ruler would find: put into a copy of the page by a test.
const root = document.documentElement;
const luminance = (c) => {
  const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
};
const contrast = (a, b) => {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
};
const rgb = (text) => (text.match(/[\d.]+/g) || []).map(Number);
const background = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
const resolve = (name) => {
  const probe = document.createElement('i');
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const c = rgb(getComputedStyle(probe).color);
  probe.remove();
  return c;
};
const found = { beyond: [], pale: [], small: [], clipped: [], overlapping: [], texts: 0, least: 99 };
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, parent = node.parentElement, style = getComputedStyle(parent);
  if (!node.data.trim() || parent.closest('svg, script') || style.display === 'none') continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  const boxes = [...range.getClientRects()];
  if (!boxes.length) continue;
  found.texts += 1;
  const what = `${parent.tagName}.${parent.className}: ${node.data.trim().slice(0, 40)}`;
  if (boxes.some((box) => box.right > innerWidth + 0.5 || box.left < -0.5)) found.beyond.push(what);
  const ratio = contrast(rgb(style.color), background(parent));
  found.least = Math.min(found.least, ratio);
  if (ratio < 4.5) found.pale.push(`${what} ${ratio.toFixed(2)}`);
  if (parseFloat(style.fontSize) < 12) found.small.push(what);
}
for (const element of document.querySelectorAll('body *')) {
  if (element.closest('.defs') || element.tagName === 'SCRIPT') continue;
  const box = element.getBoundingClientRect();
  if (box.right > innerWidth + 0.5 || box.left < -0.5) found.beyond.push(element.tagName + '.' + element.className);
}
for (const row of document.querySelectorAll('.months, .x')) {
  let end = -1;
  for (const span of row.children) {
    const range = document.createRange();
    range.selectNodeContents(span);
    const box = range.getBoundingClientRect();
    if (box.left < end) found.overlapping.push(span.textContent);
    end = box.right;
  }
}
found.signs = Object.fromEntries(['good', 'part', 'stop', 'bad'].map((name) => [name, contrast(resolve('on'), resolve(name))]));
found.scroll = root.scrollWidth;
found.width = innerWidth;
found.dark = matchMedia('(prefers-color-scheme: dark)').matches;
found.names = [...document.querySelectorAll('svg[role=img]')].map((svg) => svg.getAttribute('aria-label') || svg.querySelector('title')?.textContent || '');
tell(found);
