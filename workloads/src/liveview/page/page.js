// Shows the frames of the socket as a table. Addresses are relative to the page, so it works below any path.
'use strict';

const HISTORY = 60;              // windows in a sparkline
const STALE_AFTER = 60_000;      // a row without news for so long is dimmed, ms
const ANNOUNCE_EVERY = 30_000;   // a screen reader hears prices at most this often, ms
const RETRY_FIRST = 250, RETRY_MAX = 10_000;
const SILENT_AFTER = 45_000;     // a socket that neither opens nor closes is given up, ms

const byId = id => document.getElementById(id);
const table = byId('prices'), body = table.tBodies[0];
const rows = new Map();          // company -> {element, cells, price, since, history}
const number = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = new Intl.NumberFormat('en');

/* ---- connection -------------------------------------------------------- */

let failures = 0, socket = null, retryAt = 0, giveUp = 0, everLive = false;

function connect() {
  retryAt = 0;
  const address = new URL('.', location.href);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  socket = new WebSocket(address);
  const mine = socket;
  giveUp = setTimeout(() => mine.close(), SILENT_AFTER);
  mine.onopen = () => { clearTimeout(giveUp); say('connecting', 'Waiting for prices…'); };
  mine.onmessage = message => {
    let frame;
    try { frame = JSON.parse(message.data); } catch { return; }
    if (!frame || frame.type !== 'prices' || !Array.isArray(frame.prices)) return;
    failures = 0;
    say('live', 'Live');
    show(frame);
  };
  mine.onclose = () => {
    clearTimeout(giveUp);
    if (mine !== socket) return;
    // The first try is fast: a pod that stops says goodbye, and another one is there already.
    const pause = Math.min(RETRY_MAX, RETRY_FIRST * 2 ** failures) * (0.75 + Math.random() / 2);
    failures += 1;
    retryAt = Date.now() + pause;
    count();
  };
}

function count() {
  if (!retryAt) return;
  const left = retryAt - Date.now();
  if (left <= 0) {
    say('lost', 'Reconnecting…');
    connect();
  } else {
    say('lost', left > 1000 ? `Reconnecting in ${Math.ceil(left / 1000)} s` : 'Reconnecting…');
    setTimeout(count, Math.min(left, 250));
  }
}

function say(state, text) {
  const label = byId('connection-text');
  byId('connection').dataset.state = state;
  if (label.textContent !== text) label.textContent = text;
  table.classList.toggle('disconnected', state === 'lost');
  const live = state === 'live';
  if (live !== everLive || (!live && everLive)) {
    if (live && !everLive) everLive = true;
    else if (!live) { announce('Connection lost, reconnecting'); everLive = false; }
  }
}

// A laptop that wakes up or gets its network back need not wait for the countdown.
const hurry = () => { if (retryAt) { retryAt = Date.now(); failures = 0; count(); } };
addEventListener('online', hurry);
document.addEventListener('visibilitychange', () => { if (!document.hidden) { hurry(); ages(); } });

/* ---- frames ------------------------------------------------------------ */

function show(frame) {
  byId('empty').hidden = frame.prices.length > 0;
  table.hidden = frame.prices.length === 0;
  if (frame.pod) byId('pod').textContent = `Served by ${frame.pod}`;
  const present = new Set();
  frame.prices.forEach((window, index) => {
    present.add(window.company);
    const row = rows.get(window.company) ?? add(window.company);
    if (body.children[index] !== row.element) body.insertBefore(row.element, body.children[index] ?? null);
    update(row, window);
  });
  for (const [company, row] of rows) {
    if (!present.has(company)) { row.element.remove(); rows.delete(company); }
  }
  announcePrices();
}

function add(company) {
  const element = document.createElement('tr');
  element.dataset.company = company;
  // Roles are said aloud because the phone layout takes the table's display away, and with it its meaning.
  element.setAttribute('role', 'row');
  const cells = {};
  for (const [name, extra] of [['company', ''], ['price', 'number'], ['change', 'number'], ['line', 'wide'],
                               ['range', 'number'], ['window', 'number'], ['age', 'number']]) {
    const cell = document.createElement(name === 'company' ? 'th' : 'td');
    cell.className = `${name} ${extra}`.trim();
    cell.setAttribute('role', name === 'company' ? 'rowheader' : 'cell');
    if (name === 'company') cell.scope = 'row';
    cells[name] = cell;
    element.append(cell);
  }
  cells.company.textContent = company;
  cells.figure = document.createElement('span');
  cells.price.append(cells.figure);
  const row = { element, cells, id: null, price: null, since: 0, history: [], loaded: false };
  rows.set(company, row);
  load(company, row);
  return row;
}

function update(row, window) {
  if (row.id === window._id && row.price === window.avgPrice) return;
  const { cells, element } = row;
  const before = row.price;
  row.id = window._id;
  row.price = window.avgPrice;
  row.since = bornAt(window);
  if (row.loaded) remember(row, window);
  cells.figure.textContent = number.format(window.avgPrice);
  if (before !== null && before !== window.avgPrice) flash(element, window.avgPrice > before ? 'flash-up' : 'flash-down');
  cells.range.textContent = has(window.min) && has(window.max) ? `${number.format(window.min)} – ${number.format(window.max)}` : '–';
  cells.window.textContent = has(window.window)
    ? `#${whole.format(window.window)}${has(window.count) ? ` · ${whole.format(window.count)} trades` : ''}` : '–';
  change(row);
  draw(row);
  age(row);
}

const has = value => value !== undefined && value !== null;

// The document's time: its last trade, else the second in its ObjectId, else now.
function bornAt(window) {
  const last = Date.parse(window.lastAt ?? '');
  if (!Number.isNaN(last)) return Math.min(last, Date.now());
  if (/^[0-9a-f]{24}$/i.test(window._id)) return Math.min(parseInt(window._id.slice(0, 8), 16) * 1000, Date.now());
  return Date.now();
}

function flash(element, name) {
  element.classList.remove('flash-up', 'flash-down');
  void element.offsetWidth;      // restarts the animation
  element.classList.add(name);
}

function change(row) {
  const { history, cells, element } = row;
  // The history may already hold a newer window than the frame that is shown.
  const index = history.findIndex(entry => entry.id === row.id);
  const before = index > 0 ? history[index - 1].price : null;
  const difference = before === null ? 0 : Math.round((row.price - before) * 100) / 100;
  element.classList.toggle('up', difference > 0);
  element.classList.toggle('down', difference < 0);
  if (before === null) { cells.change.textContent = '–'; return; }
  const arrow = difference > 0 ? '▲' : difference < 0 ? '▼' : '■';
  const sign = difference > 0 ? '+' : difference < 0 ? '−' : '±';
  const percent = before ? ` (${number.format(Math.abs(difference / before) * 100)} %)` : '';
  cells.change.textContent = `${arrow} ${sign}${number.format(Math.abs(difference))}${percent}`;
}

/* ---- history and sparkline --------------------------------------------- */

async function load(company, row) {
  let windows = [];
  try {
    const answer = await fetch(`api/companies/${encodeURIComponent(company)}/windows?limit=${HISTORY}`);
    if (answer.ok) windows = (await answer.json()).windows;
  } catch { /* the line grows from here */ }
  const newest = row.id && { _id: row.id, avgPrice: row.price };
  row.history = windows.reverse().map(window => ({ id: window._id, price: window.avgPrice }));
  row.loaded = true;
  if (newest) remember(row, newest);
  change(row);
  draw(row);
}

function remember(row, window) {
  const { history } = row;
  const known = history.findIndex(entry => entry.id === window._id);
  if (known >= 0) history[known].price = window.avgPrice;
  else history.push({ id: window._id, price: window.avgPrice });
  if (history.length > HISTORY) history.splice(0, history.length - HISTORY);
}

const SVG = 'http://www.w3.org/2000/svg';

function draw(row) {
  const { history, cells } = row;
  if (!row.svg) {
    row.svg = document.createElementNS(SVG, 'svg');
    row.svg.setAttribute('class', 'sparkline');
    row.svg.setAttribute('viewBox', '0 0 100 30');
    row.svg.setAttribute('preserveAspectRatio', 'none');
    row.svg.setAttribute('role', 'img');
    row.paths = ['area', 'stroke', 'tip'].map(name => {
      const path = document.createElementNS(SVG, 'path');
      path.setAttribute('class', name);
      row.svg.append(path);
      return path;
    });
    cells.line.append(row.svg);
  }
  const prices = history.map(entry => entry.price);
  if (prices.length < 2) { row.svg.setAttribute('aria-label', 'Not enough windows for a line yet'); return; }
  const low = Math.min(...prices), high = Math.max(...prices), span = high - low || 1;
  const points = prices.map((price, index) =>
    `${(index / (prices.length - 1) * 98 + 1).toFixed(2)} ${(28 - (price - low) / span * 26).toFixed(2)}`);
  const line = `M${points.join('L')}`;
  row.paths[0].setAttribute('d', `${line}L99 30L1 30Z`);
  row.paths[1].setAttribute('d', line);
  row.paths[2].setAttribute('d', `M${points.at(-1)}h.01`);
  row.svg.setAttribute('aria-label',
    `${prices.length} windows from ${number.format(prices[0])} to ${number.format(prices.at(-1))}, lowest ${number.format(low)}, highest ${number.format(high)}`);
}

/* ---- age and announcements --------------------------------------------- */

function age(row) {
  const seconds = Math.max(0, Math.round((Date.now() - row.since) / 1000));
  const text = seconds < 60 ? `${seconds} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min`
    : seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} days`;
  if (row.cells.age.textContent !== text) row.cells.age.textContent = text;
  row.element.classList.toggle('stale', seconds * 1000 > STALE_AFTER);
}

const ages = () => rows.forEach(age);

let announcedAt = 0;
function announcePrices() {
  if (Date.now() - announcedAt < ANNOUNCE_EVERY || rows.size === 0) return;
  announcedAt = Date.now();
  const some = [...rows].slice(0, 5).map(([company, row]) => `${company} ${number.format(row.price)}`);
  announce(`Prices: ${some.join(', ')}${rows.size > 5 ? ` and ${rows.size - 5} more` : ''}`);
}

function announce(text) { byId('announcement').textContent = text; }

for (const [selector, role] of [['#prices', 'table'], ['#prices thead, #prices tbody', 'rowgroup'], ['#prices thead tr', 'row'], ['#prices thead th', 'columnheader']]) {
  document.querySelectorAll(selector).forEach(element => element.setAttribute('role', role));
}
setInterval(() => { if (!document.hidden) ages(); }, 1000);
connect();
