// What the page knows of each company. Rule: plain data; an older window never replaces a newer one, whichever pod sends it.

export const POINTS = 60;                    // windows in a sparkline
const SESSION = 'stockpipeline.session';

const OBJECT_ID = /^[0-9a-f]{24}$/i;
export const isOlder = (id, known) => OBJECT_ID.test(id) && OBJECT_ID.test(known) && id < known;

// When a window was made: its last trade, else the second in its ObjectId.
export function madeAt(window) {
  const last = Date.parse(window.lastAt ?? '');
  if (!Number.isNaN(last)) return last;
  return OBJECT_ID.test(window._id) ? parseInt(window._id.slice(0, 8), 16) * 1000 : undefined;
}

export class Prices {
  companies = new Map();                     // symbol -> Company
  gone = new Map();                          // the same, of those that no frame names now: what was shown of them still counts
  unattended = {};
  databaseSilentSince = null;
  pod = null;
  firsts = remembered();

  // Takes a frame; gives the symbols that changed, and whether companies came or went.
  take(frame) {
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
      if (company.take(window)) changed.add(company);
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
  previous = undefined;                      // the price before
  first = undefined;                         // the session's first price
  line = [];                                 // prices, oldest first
  loaded = false;

  constructor(symbol) { this.symbol = symbol; }

  take(window) {
    const known = this.window;
    if (known && (isOlder(window._id, known._id) || (known._id === window._id && known.avgPrice === window.avgPrice))) return false;
    if (known && known._id === window._id) {
      this.line[this.line.length - 1] = window.avgPrice;
    } else {
      this.previous = known?.avgPrice ?? this.previous;
      this.line.push(window.avgPrice);
      if (this.line.length > POINTS) this.line.shift();
    }
    this.window = window;
    this.since = Math.min(madeAt(window) ?? Date.now(), Date.now());
    return true;
  }

  // Takes the past; windows that came while it was asked for stay.
  load({ prices, newest }) {
    this.loaded = true;
    if (!prices.length) return;
    if (newest === this.window._id) this.line = prices;
    else if (isOlder(newest, this.window._id)) this.line = [...prices, ...this.line].slice(-POINTS);
    if (this.line.length > 1) this.previous = this.line.at(-2);
  }
}
