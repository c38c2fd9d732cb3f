// Keeps a stream of frames open: a WebSocket, or server-sent events where sockets do not get through.
// Rule: it never says live while it hears nothing; the server sends a frame at least every 10 s.

const SILENT_AFTER = 25_000;                 // more than two heartbeats, ms
const RETRY_FIRST = 250, RETRY_MAX = 10_000;
const SOCKETS_FIRST = 3;                     // attempts with sockets before events are tried
const COME_BACK = 1012;                      // the pod stops, and has chosen the moment

export class Connection extends EventTarget {
  state = 'connecting';                      // connecting, live, lost
  heardAt = 0;
  retryAt = 0;
  reason = '';
  #at = '';
  #failures = 0;
  #close = () => {};
  #openedAt = 0;

  start() {
    this.#connect();
    setInterval(() => this.#tick(), 500);
    // Whoever wakes up, comes back or gets the network again looks at once.
    for (const name of ['online', 'pageshow', 'focus']) addEventListener(name, () => this.#tick(true));
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.#tick(true); });
    addEventListener('offline', () => this.#lose('this device is offline'));
  }

  #tick(hurry = false) {
    const now = Date.now();
    const quiet = now - Math.max(this.heardAt, this.#openedAt);
    if (this.state !== 'lost' && quiet > SILENT_AFTER) this.#lose(`nothing was heard for ${Math.round(quiet / 1000)} s`, true);
    if (this.retryAt && (hurry || now >= this.retryAt)) { if (hurry) this.#failures = 0; this.#connect(); }
    else if (this.state !== 'live') this.#tell('state');
  }

  #connect() {
    this.#close();
    this.retryAt = 0;
    this.#openedAt = Date.now();
    const sockets = this.#failures < SOCKETS_FIRST || this.#failures % 2 === 0;
    this.#close = sockets ? this.#socket() : this.#events();
  }

  #socket() {
    const address = new URL(`ws?since=${this.#at}`, document.baseURI);
    address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(address);
    let current = true;
    socket.onmessage = message => { if (current) this.#take(message.data); };
    socket.onclose = event => { if (current) this.#lose('', event.code === COME_BACK); };
    return () => { current = false; socket.close(); };
  }

  #events() {
    const events = new EventSource(`api/events?since=${this.#at}`);
    let current = true;
    events.onmessage = message => { if (current) this.#take(message.data); };
    // Its own retries know nothing of ours.
    events.onerror = () => { if (current) this.#lose(''); };
    return () => { current = false; events.close(); };
  }

  #take(text) {
    let frame;
    try { frame = JSON.parse(text); } catch { return; }
    if (!frame || !Array.isArray(frame.prices)) return;
    this.#at = frame.at ?? '';
    this.#failures = 0;
    this.reason = '';
    this.heardAt = Date.now();
    this.dispatchEvent(new CustomEvent('frame', { detail: frame }));
    if (this.state !== 'live') { this.state = 'live'; this.#tell('state'); }
  }

  #lose(reason, atOnce = false) {
    this.#close();
    this.#close = () => {};
    this.state = 'lost';
    this.reason = reason;
    const pause = Math.min(RETRY_MAX, RETRY_FIRST * 2 ** this.#failures) * (0.75 + Math.random() / 2);
    this.retryAt = Date.now() + (atOnce ? Math.random() * 200 : pause);
    this.#failures += 1;
    this.#tell('state');
    if (this.#failures === SOCKETS_FIRST) this.#ask();
  }

  // A browser does not say why a socket was refused; a plain request is answered in words.
  async #ask() {
    const abort = new AbortController();
    try {
      const answer = await fetch('api/events?since=', { signal: abort.signal });
      if (!answer.ok) this.reason = (await answer.json()).error ?? '';
    } catch { this.reason ||= 'the server cannot be reached'; }
    abort.abort();
    if (this.state !== 'live') this.#tell('state');
  }

  #tell(name) { this.dispatchEvent(new Event(name)); }
}
