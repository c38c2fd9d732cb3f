// One company: its chart, buys against sells, its last windows. Rule: it asks for the past once and grows with the frames.

import { isOlder, madeAt } from './prices.js';
import { sentence } from './condition.js';
import { age, change, count, DASH, has, portion, price, time } from './format.js';
import { make, set, show } from './table.js';

const PAGE = 30;                             // windows in one page of the table
const byId = id => document.getElementById(id);

export class CompanyView {
  symbol = null;
  #windows = [];                             // newest first
  #next = null;
  #rows = PAGE;
  #points = 120;
  #chart = null;
  #turn = 0;

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
    this.element.hidden = false;
    byId('company-name').textContent = symbol;
    byId('windows').tBodies[0].replaceChildren();
    byId('company-error').hidden = true;
    this.#chart?.destroy();
    this.#chart = null;
    this.update();
    this.#load();
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
    const { window, previous, first } = company;
    set(byId('company-price'), price(window.avgPrice));
    show(byId('company-change'), change(window.avgPrice, this.#windows[1]?.avgPrice ?? previous));
    show(byId('company-session'), change(window.avgPrice, first));
    set(byId('company-range'), has(window.min) ? `${price(window.min)} – ${price(window.max)}` : DASH);
    set(byId('company-volume'), count(window.count));
    const newest = this.#windows[0];
    if (newest && newest._id !== window._id && !isOlder(window._id, newest._id)) {
      this.#windows.unshift(window);
      this.#show();
    }
    this.tick();
  }

  tick() {
    const company = this.prices.companies.get(this.symbol);
    if (!company) return;
    const now = Date.now(), words = sentence(company, this.prices, now);
    set(byId('company-age'), has(company.since) ? age(now - company.since) : DASH);
    set(byId('company-note'), words && `⚠ ${words}`);
  }

  async #load() {
    const turn = this.#turn += 1;
    this.element.ariaBusy = 'true';
    await this.#ask(this.#points, null, turn);
    if (turn === this.#turn) this.element.ariaBusy = 'false';
  }

  async #older() {
    this.#rows += PAGE;
    if (this.#windows.length < this.#rows && this.#next) await this.#ask(PAGE, this.#next, this.#turn);
    else this.#show();
  }

  async #ask(limit, before, turn) {
    const problem = byId('company-error');
    try {
      const query = new URLSearchParams({ limit, ...(before && { before }) });
      const answer = await fetch(`api/companies/${encodeURIComponent(this.symbol)}/windows?${query}`);
      const body = await answer.json();
      if (turn !== this.#turn) return;
      if (!answer.ok) throw new Error(body.error);
      problem.hidden = true;
      this.#windows = before ? [...this.#windows, ...body.windows] : body.windows;
      this.#next = body.next;
      this.#show();
    } catch (error) {
      if (turn !== this.#turn) return;
      problem.textContent = `The windows of ${this.symbol} cannot be shown: ${error.message || 'the server cannot be reached'}.`;
      problem.hidden = false;
    }
  }

  #show() {
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
    byId('chart').hidden = windows.length < 2;
    if (windows.length < 2) return;
    try {
      const { Chart } = await import('./chart.js');
      if (turn !== this.#turn) return;
      if (anew) { this.#chart?.destroy(); this.#chart = null; }
      this.#chart ??= await Chart.in(byId('chart'));
      if (turn === this.#turn) this.#chart.show(windows);
    } catch {
      const problem = byId('company-error');
      problem.textContent = 'The chart could not be loaded; the table below has the same figures.';
      problem.hidden = false;
    }
  }
}
