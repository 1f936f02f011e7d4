// The page works without this for reading. With it: the keyboard, folding, details without a new page, and following
// what happens. Everything that is shown was rendered, and escaped, by the server.
(() => {
  'use strict';
  const one = (selector, root) => (root || document).querySelector(selector);
  const all = (selector, root) => [...(root || document).querySelectorAll(selector)];
  const inFile = document.body.classList.contains('file');
  const folded = new Set(); // ids of rows whose children are hidden
  let current = ''; // id of the row that has, or last had, the focus

  // The tree: one row can be reached with Tab, the arrows move among the visible ones.
  const rows = (tree) => all('[role=treeitem]', tree);
  const shown = (tree) => rows(tree).filter((r) => !r.hidden);
  const level = (r) => Number(r.getAttribute('aria-level'));

  function fold(tree) {
    let under = Infinity; // rows deeper than this level are hidden
    for (const r of rows(tree)) {
      if (level(r) <= under) under = Infinity;
      r.hidden = level(r) > under;
      if (!r.hasAttribute('aria-expanded')) continue;
      const closed = folded.has(r.id);
      r.setAttribute('aria-expanded', String(!closed));
      if (closed && !r.hidden) under = level(r);
    }
  }

  function reach(tree, row) {
    for (const r of rows(tree)) r.tabIndex = r === row ? 0 : -1;
    if (row) current = row.id;
  }

  function setUp(root) {
    for (const tree of all('[role=tree]', root)) {
      fold(tree);
      for (const a of all('.row a', tree)) a.tabIndex = -1;
      const kept = document.getElementById(current);
      reach(tree, kept && tree.contains(kept) ? kept : one('[aria-selected=true]', tree) || shown(tree)[0]);
    }
  }

  function parentOf(tree, row) {
    const list = rows(tree);
    for (let i = list.indexOf(row) - 1; i >= 0; i--) if (level(list[i]) < level(row)) return list[i];
    return null;
  }

  function toggle(tree, row, close) {
    if (close) folded.add(row.id); else folded.delete(row.id);
    fold(tree);
  }

  function treeKey(e, row) {
    const tree = row.closest('[role=tree]');
    const list = shown(tree);
    const at = list.indexOf(row);
    const open = row.getAttribute('aria-expanded');
    let next = null;
    switch (e.key) {
      case 'ArrowDown': next = list[at + 1]; break;
      case 'ArrowUp': next = list[at - 1]; break;
      case 'Home': next = list[0]; break;
      case 'End': next = list[list.length - 1]; break;
      case 'ArrowRight':
        if (open === 'false') toggle(tree, row, false);
        else if (open === 'true') next = list[at + 1];
        break;
      case 'ArrowLeft':
        if (open === 'true') toggle(tree, row, true);
        else next = parentOf(tree, row);
        break;
      case 'Enter': case ' ': show(row); break;
      default: return;
    }
    e.preventDefault();
    if (next) { reach(tree, next); next.focus(); next.scrollIntoView({block: 'nearest'}); }
  }

  // Details beside the tree.
  async function show(row) {
    const link = one('.label > a', row);
    if (!link) return;
    if (row.classList.contains('t-more')) { location.href = link.href; return; }
    for (const r of all('[role=treeitem]')) r.setAttribute('aria-selected', String(r === row));
    if (inFile) {
      const from = document.getElementById('d-' + row.id);
      const side = one('aside', row.closest('.chain'));
      if (from && side) { keepOverview(side); side.replaceChildren(...[...from.cloneNode(true).childNodes]); }
      return;
    }
    await detail(link.href);
    history.replaceState(null, '', link.href);
  }

  const overviews = new WeakMap();
  function keepOverview(side) { if (!overviews.has(side)) overviews.set(side, [...side.childNodes]); }

  async function detail(href) {
    const side = document.getElementById('detail');
    const url = new URL(href, location.href);
    url.searchParams.set('part', 'detail');
    const text = await get(url);
    if (text !== null && side) { side.replaceChildren(...parse(text)); side.scrollTop = 0; }
  }

  function closeDetail() {
    const row = one('[role=treeitem][aria-selected=true]');
    if (!row) return false;
    row.setAttribute('aria-selected', 'false');
    row.focus();
    if (inFile) {
      const side = one('aside', row.closest('.chain'));
      if (overviews.has(side)) side.replaceChildren(...overviews.get(side));
      return true;
    }
    const url = new URL(location.href);
    url.searchParams.delete('row');
    history.replaceState(null, '', url);
    detail(url.href);
    return true;
  }

  function parse(text) { return [...new DOMParser().parseFromString(text, 'text/html').body.childNodes]; }

  async function get(url) {
    try {
      const answer = await fetch(url, {credentials: 'same-origin'});
      lost(false);
      return answer.ok ? await answer.text() : null;
    } catch { lost(true); return null; }
  }

  // The keyboard.
  document.addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const input = document.getElementById('q');
    const typing = e.target === input;
    if (e.key === '/' && !typing && input) { e.preventDefault(); input.focus(); input.select(); return; }
    if (e.key === 'Escape') {
      if (typing) { input.blur(); focusContent(); } else if (!closeDetail()) focusContent();
      return;
    }
    if (typing) {
      if (e.key === 'ArrowDown') { e.preventDefault(); focusContent(); }
      return;
    }
    const row = e.target.closest('[role=treeitem]');
    if (row && e.target === row) { treeKey(e, row); return; }
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') listKey(e);
  });

  function focusContent() {
    const first = one('[role=treeitem][tabindex="0"]') || one('main a.go');
    if (first) first.focus(); else document.getElementById('main').focus();
  }

  // In lists the arrows move from line to line.
  function listKey(e) {
    const links = all('main a.go');
    const at = links.indexOf(e.target);
    if (at < 0 && !e.target.matches('body, main')) return;
    const next = links[at + (e.key === 'ArrowDown' ? 1 : -1)];
    if (next) { e.preventDefault(); next.focus(); next.scrollIntoView({block: 'nearest'}); }
  }

  document.addEventListener('click', (e) => {
    if (e.ctrlKey || e.metaKey || e.shiftKey) return;
    const row = e.target.closest('[role=treeitem]');
    if (!row) return;
    const tree = row.closest('[role=tree]');
    e.preventDefault();
    reach(tree, row);
    row.focus();
    if (e.target.closest('.twist')) toggle(tree, row, row.getAttribute('aria-expanded') === 'true');
    else show(row);
  });
  document.addEventListener('focusin', (e) => { if (e.target.matches('[role=treeitem]')) reach(e.target.closest('[role=tree]'), e.target); });

  // Following: when rows were written, the middle of the page is fetched again.
  const live = document.getElementById('live');
  let pulse = null, before = null, paused = false;

  function lost(yes) {
    if (!live) return;
    live.classList.toggle('lost', yes);
    one('#live-text').textContent = yes ? 'not reachable' : paused ? 'paused' : 'live';
  }

  async function beat() {
    if (paused || document.hidden) return;
    const text = await get('/api/pulse');
    if (text === null) return;
    const now = JSON.parse(text).updated;
    if (pulse !== null && now !== pulse) await refresh();
    pulse = now;
  }

  async function refresh() {
    const url = new URL(location.href);
    url.searchParams.set('part', 'main');
    const text = await get(url);
    if (text === null || text === before || paused) return;
    before = text;
    const main = document.getElementById('main');
    const side = document.getElementById('detail');
    const scroll = side ? side.scrollTop : 0;
    const focused = document.activeElement;
    const id = focused && main.contains(focused) ? focused.id : '';
    const href = focused && main.contains(focused) ? focused.getAttribute('href') : null;
    main.replaceChildren(...parse(text));
    setUp(main);
    const again = id ? document.getElementById(id) : href ? all('main a').find((a) => a.getAttribute('href') === href) : null;
    if (again) again.focus({preventScroll: true});
    const fresh = document.getElementById('detail');
    if (fresh) fresh.scrollTop = scroll;
    live.classList.remove('beat'); void live.offsetWidth; live.classList.add('beat');
  }

  if (live && document.body.dataset.live) {
    live.hidden = false;
    live.addEventListener('click', () => {
      paused = !paused;
      live.setAttribute('aria-pressed', String(!paused));
      lost(false);
      if (!paused) beat();
    });
    beat();
    setInterval(beat, 2000);
  }
  if (inFile) document.body.classList.add('scripted');
  setUp(document);
  const chosen = one('[role=treeitem][aria-selected=true]');
  if (chosen) chosen.scrollIntoView({block: 'nearest'});
  if (chosen && inFile) show(chosen);
})();
