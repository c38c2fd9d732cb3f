// Puts the page together: frames in, table and company out, and one honest line about the connection.

import { CompanyView } from './company.js';
import { isStale, sentence } from './condition.js';
import { Connection } from './connection.js';
import { age, count, price, time } from './format.js';
import { Prices } from './prices.js';
import { set, Table } from './table.js';

const ANNOUNCE_EVERY = 60_000;               // a screen reader hears prices at most this often, ms
const byId = id => document.getElementById(id);
const prices = new Prices(), connection = new Connection();
const table = new Table(prices, byId('prices')), company = new CompanyView(prices);
let announcedAt = 0, framed = false, scrolled = 0;

connection.addEventListener('frame', ({ detail }) => {
  // The connection is called live after its first frame.
  const news = prices.take(detail, connection.state === 'live');
  if (!framed) lookBack();
  if (!framed || news.others) { framed = true; route(); }
  table.update(news);
  company.update();
  if (prices.pod) set(byId('pod'), `Served by ${prices.pod}`);
  if (news.changed.size) announcePrices();
  tell();
});
connection.addEventListener('state', tell);

// The reader's clock may be wrong; any answer tells the server's time.
async function lookBack() {
  const answer = await fetch('api/prices', { method: 'HEAD' }).catch(() => null);
  prices.lookBack(Date.parse(answer?.headers.get('date')));
}

/* ---- what is shown ------------------------------------------------------ */

const wanted = () => { try { return decodeURIComponent(location.hash.match(/^#\/(.+)$/)?.[1] ?? ''); } catch { return ''; } };

function route() {
  const symbol = wanted(), list = !symbol, left = company.symbol;
  byId('list').hidden = !list || !framed || prices.companies.size === 0;
  byId('empty').hidden = !list || !framed || prices.companies.size > 0;
  byId('waiting').hidden = framed;
  document.title = symbol ? `${symbol} · Stock prices, live` : 'Stock prices, live';
  if (symbol && framed && left !== symbol) {
    if (left === null) scrolled = scrollY;
    company.open(symbol);
    scrollTo(0, 0);
  } else if (list && left !== null) {
    company.close();
    table.measure();
    table.arrange();
    scrollTo(0, scrolled);
    table.focus(prices.companies.get(left));
  } else if (list && framed) {
    table.measure();
    table.arrange();
  }
}
addEventListener('hashchange', route);

table.onarrange = () => {
  const all = prices.companies.size, shown = table.order.length, one = all === 1 ? 'company' : 'companies';
  set(byId('count'), shown === all ? `${count(all)} ${one}` : `${count(shown)} of ${count(all)} ${one}`);
  byId('no-match').hidden = shown > 0 || all === 0;
  byId('prices').hidden = shown === 0;
  set(byId('searched'), byId('search').value);
  byId('sort').value = `${table.sort.column}${table.sort.descending ? '-' : ''}`;
};
byId('search').addEventListener('input', event => { byId('prices').hidden = false; table.search(event.target.value); });
byId('sort').addEventListener('change', event => table.sortBy(event.target.value.replace('-', ''), event.target.value.endsWith('-')));
addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/' && !/^(INPUT|SELECT)$/.test(event.target.tagName) && !byId('list').hidden) { event.preventDefault(); byId('search').focus(); }
  if (event.key === 'Escape' && company.symbol !== null) location.hash = '#/';
});

/* ---- the state of things ------------------------------------------------ */

function tell() {
  const { state, heardAt, retryAt, reason } = connection, now = Date.now();
  const left = Math.ceil((retryAt - now) / 1000);
  const silent = state === 'live' && prices.databaseSilentSince;
  const words = silent ? 'No news' : state === 'live' ? 'Live' : state === 'lost' ? (left > 1 ? `Reconnecting in ${left} s` : 'Reconnecting…') : 'Connecting…';
  byId('connection').dataset.state = silent ? 'silent' : state;
  set(byId('connection-text'), words);
  document.body.classList.toggle('lost', state === 'lost');
  set(byId('heard'), heardAt ? `Last update ${time(heardAt, now)}` : '');
  const waiting = state === 'lost' ? `There is no connection to the server${reason ? `: ${reason}` : ''}. It is tried again by itself.` : 'Connecting…';
  set(byId('waiting-text'), waiting);
  const notices = [], kinds = [];                   // the same without the times, which change each second
  if (state === 'lost' && heardAt && now - heardAt > 3000) notices.push(`Not connected${reason ? ` (${reason})` : ''}. These are the prices of ${time(heardAt, now)}.`);
  if (silent) {
    const since = Date.parse(prices.databaseSilentSince);
    notices.push(`The database has not answered since ${time(since, now)}, ${age(now - since)} ago. Newer windows may exist that cannot be read.`);
    kinds.push('The database does not answer');
  }
  if (state === 'live' && !silent) {
    const stale = [...prices.companies.values()].filter(each => each.symbol in prices.unattended && isWaiting(each, now));
    const names = `${stale.slice(0, 3).map(each => each.symbol).join(', ')}${stale.length > 3 ? ', …' : ''}`;
    if (stale.length) {
      notices.push(stale.length === 1 ? `${stale[0].symbol}: ${sentence(stale[0], prices, now)}.`
        : `${count(stale.length)} companies have no consumer that is ready: ${names}.`);
      kinds.push(`No consumer ready: ${names}`);
    }
  }
  set(byId('notice-text'), notices.join(' '));
  byId('notice').hidden = notices.length === 0;
  if (state !== tell.before) {
    if (tell.before === 'live') announce('Connection lost, reconnecting');
    else if (tell.before === 'lost' && state === 'live') announce('Connected again');
    tell.before = state;
  }
  const kind = kinds.join('. ');
  if (kind !== tell.kind) { if (kind) announce(kind); tell.kind = kind; }
}
const isWaiting = (each, now) => isStale(each, prices) || sentence(each, prices, now) !== '';

function announcePrices() {
  if (Date.now() - announcedAt < ANNOUNCE_EVERY) return;
  announcedAt = Date.now();
  const some = [...prices.companies.values()].slice(0, 5).map(each => `${each.symbol} ${price(each.window.avgPrice)}`);
  announce(`Prices: ${some.join(', ')}${prices.companies.size > 5 ? ` and ${count(prices.companies.size - 5)} more` : ''}`);
}

function announce(text) { byId('announcement').textContent = text; }

setInterval(() => { if (!document.hidden) { table.tick(); company.tick(); tell(); } }, 1000);
addEventListener('pagehide', () => prices.remember());
addEventListener('visibilitychange', () => { if (document.hidden) prices.remember(); else { table.tick(); company.tick(); } });
route();
tell();
connection.start();
