// What the page knows of each company. Rule: plain data; an older window never replaces a newer one, whichever pod sends it.

import { has } from './format.js';

export const POINTS = 60;                    // windows in a sparkline
const APART = 3_000;                         // least time between two requests for windows that were missed, ms
const LONGEST_APART = 60_000;                // the same of a company that misses some with every frame
const SESSION = 'stockpipeline.session';

const OBJECT_ID = /^[0-9a-f]{24}$/i;
export const isOlder = (id, known) => OBJECT_ID.test(id) && OBJECT_ID.test(known) && id < known;

// The second in a window's ObjectId.
const storedAt = ({ _id }) => OBJECT_ID.test(_id) ? parseInt(_id.slice(0, 8), 16) * 1000 : undefined;

// When windows are asked for: at once, and those that were missed each time after twice as long, until one follows the one before.
export class Pace {
  #apart = APART;
  #since = -Infinity;

  // Whether to ask now.
  take() {
    if (performance.now() - this.#since < this.#apart) return false;
    if (Number.isFinite(this.#since)) this.#apart = Math.min(2 * this.#apart, LONGEST_APART);
    this.begin();
    return true;
  }

  // The time runs from now on.
  begin() { this.#since = performance.now(); }

  followed() { this.#apart = APART; }
}

// When a window was made: its last trade, else when it was stored.
export function madeAt(window) {
  const last = Date.parse(window.lastAt ?? '');
  return Number.isNaN(last) ? storedAt(window) : last;
}

// Whether no window lies between the two. Those of other programs have no number; they are taken to follow on an unbroken connection.
const isNext = (window, known, unbroken) => has(window.window) && has(known.window) ? window.window === known.window + 1 : unbroken;

export class Prices {
  companies = new Map();                     // symbol -> Company
  gone = new Map();                          // the same, of those that no frame names now: what was shown of them still counts
  unattended = {};
  databaseSilentSince = null;
  pod = null;
  heardAt = 0;                               // when the newest frame came, by performance.now(): the reader's clock may be wrong
  firsts = remembered();

  // Takes a frame, which follows the one before on the same connection if that is `unbroken`; gives the companies that changed,
  // and whether some came or went.
  take(frame, unbroken = false) {
    this.heardAt = performance.now();
    const changed = new Set();
    let others = false;
    for (const window of frame.prices) {
      let company = this.companies.get(window.company);
      if (!company) {
        company = this.gone.get(window.company) ?? new Company(window.company);
        this.gone.delete(window.company);
        this.companies.set(window.company, company);
        others = true;
      }
      if (company.take(window, this.heardAt, unbroken)) changed.add(company);
      this.firsts[window.company] ??= window.avgPrice;
      company.first = this.firsts[window.company];
    }
    if (frame.type === 'prices' && frame.prices.length < this.companies.size) {
      const present = new Set(frame.prices.map(window => window.company));
      for (const [symbol, company] of this.companies) {
        if (present.has(symbol)) continue;
        this.companies.delete(symbol);
        // What came meanwhile is asked for when it is back.
        company.loaded = false;
        this.gone.set(symbol, company);
        others = true;
      }
    }
    this.unattended = frame.unattended ?? {};
    this.databaseSilentSince = frame.databaseSilentSince ?? null;
    this.pod = frame.pod ?? this.pod;
    return { changed, others };
  }

  // How long companies were silent before the page came, by the servers' clocks; `serverTime` may be unknown.
  lookBack(serverTime) {
    for (const company of this.companies.values()) {
      const silent = serverTime - storedAt(company.window);
      if (silent > 0) company.heardAt = Math.min(company.heardAt, performance.now() - silent);
    }
  }

  // The session is that of the tab: a reload does not begin a new one.
  remember() {
    try { sessionStorage.setItem(SESSION, JSON.stringify(this.firsts)); } catch { /* then a reload does */ }
  }
}

function remembered() {
  try { return JSON.parse(sessionStorage.getItem(SESSION)) ?? {}; } catch { return {}; }
}

class Company {
  window = null;                             // the newest
  since = undefined;                         // when it was made
  heardAt = 0;                               // when the page heard of it, by performance.now()
  follows = undefined;                       // the identity of the window before, unless one between them was missed
  previous = undefined;                      // the price before, if that is known
  first = undefined;                         // the session's first price
  loaded = false;                            // whether the line was asked for since a window was missed
  pace = new Pace();
  #points = [];                              // { id, price }, oldest first; of those that were loaded the last alone has its id

  constructor(symbol) { this.symbol = symbol; }

  get line() { return this.#points.map(({ price }) => price); }

  take(window, heardAt, unbroken) {
    const known = this.window;
    if (known && (isOlder(window._id, known._id) || (known._id === window._id && known.avgPrice === window.avgPrice))) return false;
    const place = this.#points.findIndex(({ id }) => id === window._id);
    if (known?._id !== window._id) {
      const next = known && isNext(window, known, unbroken);
      this.follows = next ? known._id : undefined;
      // A line that was read after the window was stored, and before its frame came, has the price before it too.
      this.previous = next ? known.avgPrice : this.#points[place - 1]?.price;
      if (next) this.pace.followed();
      if (known && !next && place < 0) this.loaded = false;
      this.heardAt = heardAt;
    }
    if (place >= 0) this.#points[place].price = window.avgPrice;
    else if (!isOlder(window._id, this.#points.at(-1)?.id ?? '')) {
      this.#points.push({ id: window._id, price: window.avgPrice });
      if (this.#points.length > POINTS) this.#points.shift();
    }
    this.window = window;
    this.since = Math.min(madeAt(window) ?? Date.now(), Date.now());
    return true;
  }

  // Takes the past; windows that came while it was asked for stay.
  load({ prices, newest }) {
    if (!prices.length) return;
    const past = prices.map(price => ({ price })), later = this.#points.filter(({ id }) => id && isOlder(newest, id));
    past.at(-1).id = newest;
    this.#points = [...past, ...later].slice(-POINTS);
    if (newest === this.window._id) this.previous = prices.at(-2) ?? this.previous;
  }
}
