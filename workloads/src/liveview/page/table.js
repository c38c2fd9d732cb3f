// The table of companies: only the rows on the screen exist, so thousands cost what a dozen do.
// Rule: a row's place is its number times the row's height; the order rests while a pointer is in the table.

import { POINTS } from './prices.js';
import { isStale, sentence } from './condition.js';
import { age, change, count, has, price } from './format.js';
import { draw } from './sparkline.js';

const AROUND = 6;                            // rows kept ready above and below the screen
const BATCH = 60;                            // sparklines in one request
const COLUMNS = ['company', 'price', 'change', 'session', 'line', 'range', 'volume', 'age'];

// Gives what a column sorts by; an unknown value comes last in either direction.
const KEYS = {
  company: company => company.symbol,
  price: company => company.window.avgPrice,
  change: company => relative(company.window.avgPrice, company.previous),
  session: company => relative(company.window.avgPrice, company.first),
  volume: company => company.window.count,
  age: company => has(company.since) ? -company.since : undefined,
};
const relative = (value, before) => before ? value / before - 1 : undefined;

export class Table {
  order = [];                                // companies, as shown
  sort = { column: 'company', descending: false };
  #rows = new Map();                         // company -> Row
  #search = '';
  #height = 64;
  #waiting = false;
  #wanted = new Set();
  #asking = 0;
  #still = false;                            // a pointer is in the table
  #dirty = false;

  constructor(prices, element) {
    this.prices = prices;
    this.element = element;
    this.body = element.querySelector('.rows');
    element.querySelectorAll('[data-sort]').forEach(button => button.addEventListener('click', () => this.sortBy(button.dataset.sort)));
    addEventListener('scroll', () => this.#soon(), { passive: true });
    addEventListener('resize', () => this.measure());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#rows.forEach(row => row.line()));
    this.body.addEventListener('pointerenter', event => { this.#still = event.pointerType === 'mouse'; });
    this.body.addEventListener('pointerleave', () => { this.#still = false; if (this.#dirty) this.arrange(); });
    this.body.addEventListener('keydown', event => this.#key(event));
    this.body.addEventListener('click', event => {
      const row = event.target.closest('[role=row]');
      if (row && !event.target.closest('a')) row.querySelector('a').click();
    });
  }

  sortBy(column, descending) {
    const first = !['company', 'age'].includes(column);     // figures: the largest first
    this.sort = { column, descending: descending ?? (this.sort.column === column ? !this.sort.descending : first) };
    this.element.querySelectorAll('[role=columnheader]').forEach(header => {
      const mine = header.querySelector(`[data-sort="${column}"]`);
      if (mine) header.setAttribute('aria-sort', this.sort.descending ? 'descending' : 'ascending'); else header.removeAttribute('aria-sort');
    });
    // A change needs the past of all, which is asked for only now.
    if (column === 'change') this.prices.companies.forEach(company => this.#want(company));
    this.arrange();
  }

  search(text) { this.#search = text.trim().toUpperCase(); this.arrange(); }

  // After a frame.
  update({ changed, others }) {
    if (others || (changed.size && this.sort.column !== 'company')) {
      if (this.#still && !others) this.#dirty = true; else this.arrange();
    }
    for (const company of changed) this.#rows.get(company)?.update(true);
  }

  arrange() {
    this.#dirty = false;
    const key = KEYS[this.sort.column], sign = this.sort.descending ? -1 : 1;
    const all = [...this.prices.companies.values()].filter(company => company.symbol.toUpperCase().includes(this.#search));
    const keys = new Map(all.map(company => [company, key(company)]));
    this.order = all.sort((left, right) => {
      const [a, b] = [keys.get(left), keys.get(right)];
      if (has(a) !== has(b)) return has(a) ? -1 : 1;
      return (a < b ? -sign : a > b ? sign : 0) || (left.symbol < right.symbol ? -1 : 1);
    });
    this.element.setAttribute('aria-rowcount', this.order.length + 1);
    this.body.style.height = `${this.order.length * this.#height}px`;
    this.render();
    this.onarrange?.();
  }

  measure() {
    const height = parseFloat(getComputedStyle(this.element).getPropertyValue('--row')) || 64;
    if (height !== this.#height) { this.#height = height; this.arrange(); } else this.#soon();
    this.#rows.forEach(row => row.line());
  }

  #soon() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => { this.#waiting = false; this.render(); });
  }

  render() {
    if (this.element.hidden) return;
    const top = -this.body.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / this.#height) - AROUND);
    const last = Math.min(this.order.length, Math.ceil((top + innerHeight) / this.#height) + AROUND);
    const shown = new Map();
    for (let index = first; index < last; index++) shown.set(this.order[index], index);
    // The row with the focus stays, or the keyboard would lose its place.
    for (const [company, row] of this.#rows) {
      if (shown.has(company)) continue;
      const index = row.element.contains(document.activeElement) ? this.order.indexOf(company) : -1;
      if (index >= 0) shown.set(company, index); else { row.element.remove(); this.#rows.delete(company); }
    }
    let place = this.body.firstElementChild;
    for (const [company, index] of [...shown].sort((left, right) => left[1] - right[1])) {
      let row = this.#rows.get(company);
      if (!row) this.#rows.set(company, row = new Row(company, this.prices));
      row.put(index, this.#height);
      if (row.element === place) place = place.nextElementSibling; else this.body.insertBefore(row.element, place);
      if (row.fresh) row.update(false);
      this.#want(company);
    }
  }

  tick() {
    this.#rows.forEach(row => row.tick());
    if (!this.element.offsetParent) return;
    // After a sleep all companies may have missed windows; those that nobody looks at wait until somebody does.
    const needed = this.sort.column === 'change' ? this.prices.companies.values() : this.#rows.keys();
    for (const company of needed) this.#want(company);
  }

  // Sparklines are asked for together, and no more than two requests at a time. A fast company misses windows with every frame.
  #want(company) {
    if (company.loaded || !company.pace.take()) return;
    company.loaded = true;
    this.#wanted.add(company);
    setTimeout(() => this.#ask(), 30);
  }

  async #ask() {
    if (!this.#wanted.size || this.#asking >= 2) return;
    const batch = [...this.#wanted].slice(0, BATCH);
    batch.forEach(company => this.#wanted.delete(company));
    this.#asking += 1;
    try {
      const answer = await fetch(`api/sparklines?companies=${batch.map(company => encodeURIComponent(company.symbol)).join(',')}`);
      if (!answer.ok) throw new Error(answer.status);
      const { sparklines } = await answer.json();
      for (const company of batch) {
        company.load(sparklines[company.symbol] ?? { prices: [] });
        this.#rows.get(company)?.update(false);
      }
      if (this.sort.column === 'change') this.arrange();
    } catch {
      // The line grows from here; it is asked for again in a while.
      batch.forEach(company => { company.loaded = false; });
    }
    this.#asking -= 1;
    this.#ask();
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    const row = event.target.closest('[role=row]');
    if (!step || !row || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const index = Math.min(this.order.length - 1, Math.max(0, Number(row.ariaRowIndex) - 2 + step));
    this.focus(this.order[index]);
  }

  focus(company) {
    const index = this.order.indexOf(company);
    if (index < 0) return;
    const top = this.body.getBoundingClientRect().top + index * this.#height;
    if (top < 0 || top + this.#height > innerHeight) scrollBy(0, top - innerHeight / 2);
    this.render();
    this.#rows.get(company)?.element.querySelector('a').focus({ preventScroll: true });
  }
}

class Row {
  fresh = true;
  element = document.createElement('div');
  cells = {};

  constructor(company, prices) {
    this.company = company;
    this.prices = prices;
    this.element.setAttribute('role', 'row');
    this.element.className = 'row';
    this.element.dataset.company = company.symbol;
    for (const name of COLUMNS) {
      const cell = this.cells[name] = make('div', name, this.element);
      cell.setAttribute('role', name === 'company' ? 'rowheader' : 'cell');
    }
    const link = make('a', '', this.cells.company);
    link.href = `#/${encodeURIComponent(company.symbol)}`;
    link.textContent = company.symbol;
    this.note = make('span', 'note', this.cells.company);
    this.figure = make('span', 'figure', this.cells.price);
    this.canvas = make('canvas', 'sparkline', this.cells.line);
    this.canvas.ariaHidden = 'true';
    this.words = make('span', 'unseen', this.cells.line);
    this.figure.addEventListener('animationend', () => this.element.classList.remove('flash-up', 'flash-down'));
  }

  put(index, height) {
    this.element.style.transform = `translateY(${index * height}px)`;
    this.element.setAttribute('aria-rowindex', index + 2);
  }

  update(news) {
    const { window, previous, first } = this.company, { cells } = this;
    this.fresh = false;
    this.figure.textContent = price(window.avgPrice);
    const step = change(window.avgPrice, previous);
    show(cells.change, step);
    show(cells.session, change(window.avgPrice, first));
    cells.range.textContent = has(window.min) && has(window.max) ? `${price(window.min)} – ${price(window.max)}` : '–';
    cells.volume.textContent = count(window.count);
    if (news && (step.direction === 'up' || step.direction === 'down')) {
      this.element.classList.remove('flash-up', 'flash-down');
      void this.element.offsetWidth;         // begins the animation anew
      this.element.classList.add(`flash-${step.direction}`);
    }
    this.direction = step.direction;
    this.line();
    this.tick();
  }

  line() {
    const { line } = this.company;
    draw(this.canvas, line, this.direction);
    this.words.textContent = line.length < 2 ? 'Not enough windows for a line yet'
      : `${Math.min(line.length, POINTS)} windows from ${price(line[0])} to ${price(line.at(-1))}, lowest ${price(Math.min(...line))}, highest ${price(Math.max(...line))}`;
  }

  tick() {
    const now = Date.now(), words = sentence(this.company, this.prices, now, true);
    set(this.cells.age, has(this.company.since) ? age(now - this.company.since) : '–');
    set(this.note, words && `⚠ ${words}`);
    this.element.classList.toggle('stale', Boolean(words) || isStale(this.company, this.prices));
  }
}

export function make(name, className, parent) {
  const element = document.createElement(name);
  if (className) element.className = className;
  parent?.append(element);
  return element;
}

export const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };

export function show(cell, { direction, shape, text, relative, words }) {
  cell.dataset.direction = direction;
  cell.replaceChildren();
  if (shape) make('span', 'shape', cell).textContent = shape;
  make('span', 'amount', cell).textContent = text;
  if (relative) make('span', 'relative', cell).textContent = relative;
  cell.title = words;
}
