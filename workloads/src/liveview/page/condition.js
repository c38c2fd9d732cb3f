// What is to be said of a company whose windows do not come. Rule: pure; it claims no more than is known: silence reaches to the
// newest frame, since what came after it, while the machine slept for one, nobody has told yet.

import { age, time } from './format.js';

const PATIENCE = 15_000;                     // the least silence that is worth a word, ms
const USUAL = 3;                             // a slow company is silent for a multiple of what its last window took

export function silence(company, prices) { return prices.heardAt - company.heardAt; }

export function isStale(company, prices) {
  const { firstAt, lastAt } = company.window;
  const took = Date.parse(lastAt ?? '') - Date.parse(firstAt ?? '');
  return silence(company, prices) > Math.max(PATIENCE, Number.isNaN(took) ? 0 : USUAL * took);
}

// The sentence, or nothing while all is well; `short` where there is little room.
export function sentence(company, prices, now, short = false) {
  const { symbol } = company, since = prices.unattended[symbol];
  const waited = `no window for ${age(silence(company, prices))}`;
  if (since !== undefined && silence(company, prices) > PATIENCE) {
    return `${waited}: consumer of ${symbol} not ready${since && !short ? ` since ${time(Date.parse(since), now)}` : ''}`;
  }
  if (!isStale(company, prices)) return '';
  return prices.databaseSilentSince ? `${waited}: the database does not answer` : waited;
}
