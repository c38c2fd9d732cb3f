// Numbers and times as the reader's language writes them. Rule: pure; unknown is a dash, never a zero.

// Chromium calls the system's C locale "en-US@posix", which Intl refuses; without any language it takes its own.
const languages = navigator.languages.filter(language => { try { return Intl.getCanonicalLocales(language); } catch { return false; } });
const two = new Intl.NumberFormat(languages, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = new Intl.NumberFormat(languages, { maximumFractionDigits: 0 });
const percent = new Intl.NumberFormat(languages, { style: 'percent', minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: 'exceptZero' });
const share = new Intl.NumberFormat(languages, { style: 'percent', maximumFractionDigits: 1 });
const signed = new Intl.NumberFormat(languages, { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: 'exceptZero' });
const clock = new Intl.DateTimeFormat(languages, { timeStyle: 'medium' });
const full = new Intl.DateTimeFormat(languages, { dateStyle: 'medium', timeStyle: 'medium' });

export const DASH = '–';
export const has = value => value !== undefined && value !== null && !Number.isNaN(value);

export const price = value => has(value) ? two.format(value) : DASH;
export const count = value => has(value) ? whole.format(value) : DASH;
export const portion = value => has(value) ? share.format(value) : DASH;

// The time alone on the same day, with its date otherwise.
export function time(at, now = Date.now()) {
  if (!has(at)) return DASH;
  return new Date(at).toDateString() === new Date(now).toDateString() ? clock.format(at) : full.format(at);
}

export function age(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  return seconds < 120 ? `${seconds} s` : seconds < 7200 ? `${Math.floor(seconds / 60)} min`
    : seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} days`;
}

// A change says its direction three times: by a shape, by its sign and by colour.
export function change(value, before) {
  if (!has(value) || !has(before)) return { direction: 'none', shape: '', text: DASH, words: 'unknown' };
  const difference = Math.round((value - before) * 100) / 100;
  const direction = difference > 0 ? 'up' : difference < 0 ? 'down' : 'same';
  const relative = before ? ` ${percent.format(difference / before)}` : '';
  return { direction, shape: { up: '▲', down: '▼', same: '■' }[direction], text: signed.format(difference), relative: relative.trim(),
           words: direction === 'same' ? 'unchanged' : `${direction} ${two.format(Math.abs(difference))}` };
}
