// One company: its chart, buys against sells, its last windows. Rule: no window is missing between two that it knows; it asks for the
// past once, grows with the frames, and asks again when one did not reach it.

import { isOlder, madeAt, Pace } from './prices.js';
import { sentence } from './condition.js';
import { age, change, count, DASH, has, portion, price, time } from './format.js';
import { make, set, show } from './table.js';

const PAGE = 30;                             // windows in one page of the table
const LARGEST = 500;                         // windows in one answer
const MOST = 2000;                           // windows that are kept, unless more are shown
const byId = id => document.getElementById(id);

export class CompanyView {
  symbol = null;
  #windows = [];                             // newest first
  #next = null;
  #rows = PAGE;
  #points = 120;
  #chart = null;
  #turn = 0;
  #asking = false;
  #pace = new Pace();                        // its time runs from the last answer

  constructor(prices) {
    this.prices = prices;
    this.element = byId('company');
    byId('older').addEventListener('click', () => this.#older());
    this.element.querySelectorAll('[name=points]').forEach(input => input.addEventListener('change', () => {
      this.#points = Number(input.value);
      this.#load();
    }));
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#draw(true));
  }

  open(symbol) {
    this.symbol = symbol;
    this.#windows = [];
    this.#next = null;
    this.#rows = PAGE;
    this.#pace = new Pace();
    this.element.hidden = false;
    byId('company-name').textContent = symbol;
    byId('windows').tBodies[0].replaceChildren();
    byId('company-error').hidden = true;
    this.#chart?.destroy();
    this.#chart = null;
    byId('no-chart').hidden = true;
    this.#load();
    this.update();
    byId('company-name').focus();
  }

  close() {
    this.symbol = null;
    this.#turn += 1;
    this.element.hidden = true;
    this.#chart?.destroy();
    this.#chart = null;
  }

  // After a frame.
  update() {
    if (this.symbol === null) return;
    const company = this.prices.companies.get(this.symbol);
    byId('company-facts').hidden = !company;
    if (!company) return;
    const { window, previous, first } = company, [newest, before] = this.#windows;
    set(byId('company-price'), price(window.avgPrice));
    show(byId('company-change'), change(window.avgPrice, newest?._id === window._id && before ? before.avgPrice : previous));
    show(byId('company-session'), change(window.avgPrice, first));
    set(byId('company-range'), has(window.min) ? `${price(window.min)} – ${price(window.max)}` : DASH);
    set(byId('company-volume'), count(window.count));
    this.tick();
  }

  tick() {
    const company = this.prices.companies.get(this.symbol);
    if (!company) return;
    const now = Date.now(), words = sentence(company, this.prices, now);
    set(byId('company-age'), has(company.since) ? age(now - company.since) : DASH);
    set(byId('company-note'), words && `⚠ ${words}`);
    this.#follow(company);
  }

  // Takes the newest window if it follows those that are known. A fast company has some between any two frames, so what was missed
  // is asked for in its own time.
  #follow({ window, follows }) {
    const newest = this.#windows[0];
    if (newest && (newest._id === window._id || isOlder(window._id, newest._id))) return;
    if (newest && (newest._id === follows || !isOlder(newest._id, window._id))) {
      this.#pace.followed();
      this.#windows.unshift(window);
      this.#show();
    } else if (!this.#asking && !document.hidden && this.#pace.take()) this.#load();
  }

  async #load() {
    const turn = this.#turn += 1;
    this.element.ariaBusy = 'true';
    await this.#ask(Math.min(LARGEST, Math.max(this.#points, this.#rows)), null, turn);
    if (turn === this.#turn) this.element.ariaBusy = 'false';
  }

  async #older() {
    this.#rows += PAGE;
    if (this.#windows.length >= this.#rows || !this.#next) return this.#show();
    const button = byId('older'), focused = document.activeElement === button;
    button.disabled = true;
    await this.#ask(PAGE, this.#next, this.#turn);
    button.disabled = false;
    // A disabled button loses the keyboard's place.
    if (focused && document.activeElement === document.body) button.focus({ preventScroll: true });
  }

  async #ask(limit, before, turn) {
    const problem = byId('company-error');
    this.#asking = true;
    try {
      const query = new URLSearchParams({ limit, ...(before && { before }) });
      // Where nobody answers, or NGINX for the server, there are no words of ours, and the browser's are not for the reader.
      const answer = await fetch(`api/companies/${encodeURIComponent(this.symbol)}/windows?${query}`).catch(() => null);
      const body = await answer?.json().catch(() => null);
      if (turn !== this.#turn) return;
      if (!answer?.ok || !body) throw new Error(body?.error ?? '');
      problem.hidden = true;
      this.#take(body, before);
      this.#show();
    } catch (error) {
      if (turn !== this.#turn) return;
      problem.textContent = `The windows of ${this.symbol} cannot be shown: ${error.message || 'the server cannot be reached'}.`;
      problem.hidden = false;
    } finally {
      if (turn === this.#turn) { this.#asking = false; this.#pace.begin(); }
    }
  }

  #take({ windows, next }, before) {
    if (before) {
      // The others may have been read anew meanwhile, and end elsewhere.
      if (before !== this.#next) return;
      this.#windows.push(...windows);
      this.#next = next;
      return;
    }
    // What came meanwhile stays, and what was paged in, where this reaches to it.
    const place = window => this.#windows.findIndex(({ _id }) => _id === window?._id);
    const first = place(windows[0]), last = place(windows.at(-1));
    if (last < 0) this.#next = next;
    this.#windows = [...this.#windows.slice(0, Math.max(0, first)), ...windows, ...(last < 0 ? [] : this.#windows.slice(last + 1))];
  }

  #show() {
    const most = Math.max(MOST, this.#rows);
    if (this.#windows.length > most) {
      this.#windows.length = most;
      this.#next = this.#windows.at(-1)._id;
    }
    this.#table();
    this.#balance();
    this.#draw();
    this.update();
  }

  #table() {
    const body = byId('windows').tBodies[0], shown = this.#windows.slice(0, this.#rows);
    body.replaceChildren(...shown.map((window, index) => {
      const row = document.createElement('tr');
      const head = make('th', '', row);
      head.scope = 'row';
      head.textContent = has(window.window) ? `#${count(window.window)}` : DASH;
      make('td', 'number', row).textContent = time(madeAt(window));
      make('td', 'number strong', row).textContent = price(window.avgPrice);
      show(make('td', 'number change', row), change(window.avgPrice, this.#windows[index + 1]?.avgPrice));
      make('td', 'number', row).textContent = price(window.min);
      make('td', 'number', row).textContent = price(window.max);
      make('td', 'number', row).textContent = count(window.count);
      make('td', 'number', row).textContent = count(window.buys);
      make('td', 'number', row).textContent = count(window.sells);
      return row;
    }));
    byId('older').hidden = !this.#next && this.#windows.length <= this.#rows;
    byId('no-windows').hidden = this.#windows.length > 0;
  }

  #balance() {
    const sum = name => this.#windows.slice(0, this.#points).reduce((total, window) => total + (window[name] ?? 0), 0);
    const buys = sum('buys'), sells = sum('sells'), all = buys + sells;
    byId('balance').hidden = all === 0;
    if (!all) return;
    byId('balance-bar').style.setProperty('--buys', `${buys / all * 100}%`);
    set(byId('buys'), `${count(buys)} buys, ${portion(buys / all)}`);
    set(byId('sells'), `${count(sells)} sells, ${portion(sells / all)}`);
  }

  // The chart's program is loaded with the first company that is opened.
  async #draw(anew = false) {
    if (this.symbol === null) return;
    const turn = this.#turn, windows = this.#windows.slice(0, this.#points).reverse();
    const place = byId('chart'), problem = byId('no-chart');
    place.hidden = windows.length < 2 || !problem.hidden;
    if (windows.length < 2) return;
    try {
      const { Chart } = await import('./chart.js');
      if (turn !== this.#turn) return;
      if (anew) { this.#chart?.destroy(); this.#chart = null; }
      this.#chart ??= await Chart.in(place);
      if (turn !== this.#turn) return;
      this.#chart.show(windows);
      problem.hidden = true;
      place.hidden = false;
    } catch {
      if (turn !== this.#turn) return;
      place.hidden = true;
      problem.hidden = false;
    }
  }
}
