/**
 * A client for mpchat over WebSocket: one ES module without dependencies, for browsers and for Node.
 *
 *     import { connect } from './mpchat.js';
 *
 *     const chat = await connect('ws://127.0.0.1:4000/ws', { name: 'alice', room: 'lobby' });
 *     chat.say('hello');
 *     for await (const event of chat.events()) {
 *       if (event.type === 'message') console.log(`${event.from}: ${event.text}`);
 *     }
 *
 * The client reconnects by itself and resumes its room: each message comes once and in order, or an event
 * `lost` names the numbers that will not come. Node before version 22 has no WebSocket: pass a class as the option
 * `WebSocket`, for example that of the package `ws`. Node takes this file as a module under the name `mpchat.mjs`.
 *
 * Knows nothing of pages. Rules of the wire: the manual's pages `wire` and `members-and-rooms`.
 */

/** The room of a client that names none. */
export const DEFAULT_ROOM = 'lobby';
/** Bytes of JSON that a server with default settings takes in one message; it ends a connection that sends more. */
export const PAYLOAD_LIMIT = 60_000;

/** Seconds of the longest ban or mute that is not for good: ten years. */
export const LONGEST_SANCTION = 10 * 365 * 86_400;

/** The role of a member that may send an operator's requests. */
export const OPERATOR = 'operator';

// Seconds that a connection must last for the next loss to count as the first: a full server accepts and closes.
const STEADY = 5;
// A join that was rejected for one of these may be granted later.
const PASSING = new Set([
  'name_taken', 'room_full', 'too_many_rooms', 'too_many_rooms_by_address', 'full', 'too_fast', 'try_later',
]);
// Errors that end the chat. A kick would do nothing to a client that comes back by itself. To take a name back from
// a newer connection would never end.
const FINAL = new Set(['kicked', 'banned', 'taken_over', 'tls_required']);
// The end of a token ends the connection, and the chat too unless a function gives a fresh token.
const EXPIRED = 'expired';
// Error codes of a join, more of them for one with a proof, those of every other request, more of them where the proof
// does not do and for an operator's, and those of a message.
const WRONG_JOIN = new Set([...PASSING, 'bad_name', 'bad_room', 'bad_request', 'banned', 'not_a_message',
  'auth_required', 'not_allowed']);
const WRONG_PROOF = new Set(['bad_credentials', 'expired']);
const WRONG_QUESTION = new Set(['bad_request', 'bad_room', 'not_joined', 'not_a_message']);
const NOT_ANSWERED = new Set(['not_allowed', 'auth_required']);
const NOT_MODERATED = new Set(['no_such_name', 'bad_name', 'failed']);
const WRONG_MESSAGE = new Set(['muted', 'no_such_name', 'not_a_message', 'not_json', 'not_utf8', 'too_long',
  'auth_required']);
// Error codes that a message and a request have in common: the older one of the two is meant. not_a_message is not
// among them: a server takes each message that this client sends.
const OF_EITHER = new Set(['no_such_name', 'auth_required']);
// The kinds of proof; a client shows at most one of them.
const PROOFS = ['password', 'jwt', 'secret'];

/**
 * An error with a stable `code`, of the server or one of `offline`, `unconfirmed`, `unreachable`, `too_long`, and a
 * `text` for people. `proofs` lists the kinds of proof that the server takes (`password`, `jwt`, `secret`), with the
 * code `auth_required`; else it is empty.
 */
export class ChatError extends Error {
  constructor(code, text, proofs = []) {
    super(text);
    this.name = 'ChatError';
    this.code = code;
    this.text = text;
    this.proofs = proofs;
  }
}

/**
 * Seconds to wait before reconnecting, for attempt 0, 1, …: exponential with full jitter, 0.1 to 20 s. Full jitter,
 * because all clients of a restarted server lose it at the same moment.
 */
export function backoff(attempt) {
  return Math.max(0.1, Math.min(20, 0.5 * 2 ** Math.min(attempt, 10)) * Math.random());
}

/**
 * Which messages of one room the application has got, over any number of connections. Pure.
 *
 * The rule: each number is taken once, in ascending order, or is part of a gap that is reported.
 * A gap is `[first, last]`; `last` is null when the server numbers anew.
 */
export class Track {
  // The last number that was taken or reported as lost.
  #last = -1;
  // Set between a first join and its first message: history may begin anywhere up to the next number.
  #start = null;

  /** Begin with a join that did not ask to resume, into a room whose last number is `seq`. */
  constructor(epoch, seq) {
    this.epoch = epoch;
    this.#start = seq;
  }

  /** The number to resume after. */
  get after() {
    return this.#start === null ? this.#last : Math.max(this.#start, this.#last);
  }

  /**
   * Note the welcome of a join that asked to resume from `after`, or an unasked one; return the gap that it left, or
   * null. With several hosts a range whose end is not known may begin below what was read: it is uncertain too.
   */
  resume({ epoch, seq, recovered, lost }) {
    const after = this.after;
    const comparable = recovered || Boolean(lost && lost[1] !== null);
    // A last number below what was read: the server forgot messages, and would reuse their numbers.
    const anew = (!comparable && epoch !== this.epoch) || seq < after || Boolean(lost && lost[1] === null);
    this.epoch = epoch;
    if (anew) {
      this.#last = -1;
      this.#start = seq;
      return [lost ? Math.min(after + 1, lost[0]) : after + 1, null];
    }
    this.#last = after;
    this.#start = null;
    if (!lost || lost[1] <= after) return null;
    this.#last = lost[1];
    return [after + 1, lost[1]];
  }

  /** Note that message `seq` came; return whether it is `fresh`, and the `gap` before it. */
  take(seq) {
    let expected = this.#last + 1;
    if (this.#start !== null) {
      expected = Math.max(expected, Math.min(seq, this.#start + 1));
      this.#start = null;
    }
    if (seq < expected) return { fresh: false, gap: null };
    this.#last = seq;
    return { fresh: true, gap: seq > expected ? [expected, seq - 1] : null };
  }
}

/**
 * Connect, enter, and return the {@link Chat}. Rejects with a {@link ChatError} when the server cannot be reached
 * or does not grant the name or the room; no further attempt follows then. The codes `auth_required`,
 * `bad_credentials`, `not_allowed`, `expired` and `try_later` are about the proof that was shown, or that is missing.
 * An error that the option `jwt` throws at this first attempt is passed on.
 */
export function connect(url, options) {
  return new Chat(url, options).entered;
}

/** A chat with one server as a member, over as many connections as it takes. */
export class Chat {
  /** The member's name, its room, and the token that proves that the name is the member's; as last told. */
  name;
  room;
  token;
  /** `member`, or `operator` for a member that may send an operator's requests. */
  role = 'member';
  /** When the proof ends, in seconds since 1970; null: never. */
  expires = null;
  /** `connecting`, `joining`, `online`, `waiting` (until the next attempt), or `ended`. */
  state = 'connecting';
  /** Settled by the first welcome, with the chat, or by what prevented it. */
  entered;

  #url;
  #options;
  // The proof that each connection begins with: {kind, value}, or {kind: 'jwt', source} for a function.
  #proof = null;
  // The text that this connection shows.
  #shown = null;
  // The attempt that waits for a token: an object of its own.
  #awaited = null;
  // A fresh token was asked for because the last one was over. Once in a row: a second one that is over ends the chat.
  #isRenewed = false;
  // The fresh token of a renewal that was answered with expired, until anything else comes. The server may have meant
  // the old token, and then it ends the connection.
  #doubtful = null;
  #WebSocket;
  #socket = null;
  #opened = null;
  #track = null;
  #attempt = 0;
  #openedAt = Infinity;
  #timer = null;
  #watch = null;
  #heardAt = 0;
  #pingedAt = 0;
  // Requests on this connection in the order of sending, which is the order of their answers.
  // {kind, place, resolve, reject}; `action` of an operator's request; `jwt` of a renewal, and its `track` to go on with.
  #requests = [];
  // Counts requests and messages: the place of each in the order of sending.
  #place = 0;
  // The join that this connection began with.
  #entrance = null;
  // The operator has closed the room: the next welcome is into the lobby, and answers no request.
  #isMoved = false;
  // Messages that have not come back. {text, to, place, settled by resolve or reject, earlier: sent on a lost
  // connection, shaken: sent before hosts lost their log}
  #said = [];
  // The error that ends this connection, when the server has told it, and whether another connection follows.
  #refusal = null;
  #isPassing = false;
  #events = [];
  #reader = null;

  /**
   * Begin to connect. Options: `name`; `room`; `token` of an earlier chat; `backoff(attempt)`, in seconds;
   * `silence`, after how many seconds without a word from the server the client asks for one (30; 0: never);
   * `patience`, how many seconds connecting and that answer may take (10); `WebSocket`, a class.
   *
   * At most one proof: `password`; `secret`, that of a class; `jwt`, a token, or a function that returns one or a
   * promise of one. The function is called before each connection. Its error ends a first attempt, and later counts
   * as a failed one. With `jwt` the name may be left out: it is the token's. Throws TypeError for two proofs.
   */
  constructor(url, options) {
    const { password, jwt, secret, ...others } = options;
    this.#options = { backoff, silence: 30, patience: 10, ...others };
    this.#proof = proofOf({ password, jwt, secret });
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError('this program has no WebSocket: pass a class as the option WebSocket');
    this.#url = String(url);
    this.name = options.name;
    this.room = options.room || DEFAULT_ROOM;
    this.token = options.token ?? null;
    this.entered = this.#promise((given) => { this.#opened = given; });
    this.#open();
  }

  /**
   * Say a text in the room. Returns a promise of the message as it came back. It is rejected with the server's error,
   * with `offline` when there is no connection, or with `unconfirmed` when the connection was lost and the message
   * is not among those that came afterwards: then it was most likely not said. Nothing is sent twice.
   */
  say(text) {
    return this.#post(text, null);
  }

  /** Say a text to one member alone. Returns as {@link say}; after a lost connection it is always `unconfirmed`. */
  tell(name, text) {
    if (typeof name !== 'string') throw new TypeError('a private message needs the name of a member');
    return this.#post(text, name);
  }

  /**
   * Leave the room and enter another one: a promise of the welcome. Its last messages follow as events. Await it
   * before you say something there: when the room is rejected, the member is still in the old one.
   */
  enter(room) {
    return this.#ask('welcome', { join: { room } });
  }

  /**
   * Show a fresh token, so that the connection may go on: a promise of the welcome. The room stays, and no message
   * comes twice. Without `jwt` the option of that name is asked, when it is a function. Once the token is granted,
   * later connections show it too, unless the option is a function. So they do when the connection ends right after
   * `expired`: the old token may have ended while the fresh one was on its way.
   */
  renew(jwt) {
    return unwatched(this.#renew(jwt));
  }

  async #renew(jwt) {
    const source = this.#proof?.source;
    if (jwt === undefined && !source) throw new TypeError('renew needs a token, or a function as the option jwt');
    const fresh = checkedToken(jwt === undefined ? await source() : jwt);
    // The numbers to go on from are those of the room that the member is in then.
    for (let moving; (moving = this.#requests.find((each) => each.kind === 'welcome' && each !== this.#entrance));) {
      await moving.settled;
    }
    const join = { jwt: fresh };
    if (this.#track) Object.assign(join, { after: this.#track.after, epoch: this.#track.epoch });
    const welcome = await this.#ask('welcome', { join }, { track: this.#track, jwt: fresh });
    if (!source) this.#proof = { kind: 'jwt', value: fresh };
    return welcome;
  }

  /**
   * End a member's connections, or those from an address or a network; for operators, as the five methods below.
   * A promise of `{action, target, count}`: `count` is the connections that were ended (kick, ban), the members that
   * were put into the lobby (close), else 0. Rejected with `not_allowed`, `no_such_name`, `bad_name`, `bad_room` or
   * `failed`.
   */
  kick(name) {
    return this.#moderate('kick', { name });
  }

  /**
   * Ban a name, an address or a network for so many seconds, 1 to 315 360 000, and end its connections; without
   * `seconds` for good. Throws RangeError for other seconds.
   */
  ban(name, seconds) {
    return this.#moderate('ban', { name, for: checkedSeconds(seconds) });
  }

  /** End a ban. */
  unban(name) {
    return this.#moderate('unban', { name });
  }

  /** Stop delivering what a member says; `seconds` as for {@link ban}. Takes names only, as {@link unmute}. */
  mute(name, seconds) {
    return this.#moderate('mute', { name, for: checkedSeconds(seconds) });
  }

  /** End a mute. */
  unmute(name) {
    return this.#moderate('unmute', { name });
  }

  /** Close a room: its members are put into the lobby. */
  closeRoom(room) {
    return this.#moderate('close', { room });
  }

  /** A page of the room's members: a promise of `{room, names, members, next}`; `next` goes into `after`. */
  who(after) {
    return this.#ask('who', { who: after === undefined ? {} : { after } });
  }

  /** A page of the rooms: a promise of `{rooms: [{room, members}], count, next}`. */
  rooms(after) {
    return this.#ask('rooms', { rooms: after === undefined ? {} : { after } });
  }

  /**
   * Older messages of the room, the newest below number `before`: a promise of `{room, messages, next}`. Their order
   * is ascending; `next` goes into `before` of the next request, and is null where the server keeps no older one.
   */
  history(before, limit = 50) {
    return unwatched(this.#history(before, limit));
  }

  async #history(before, limit) {
    const page = await this.#ask('history', { history: before === undefined ? { limit } : { before, limit } });
    return { ...page, messages: page.messages.map((each) => this.#message({ ...each, room: page.room })) };
  }

  /**
   * What happens, in order, as objects with a `type`; to be read by one loop, which ends with the chat.
   *
   * - `message`: `text`, `from`, `mine`, `at` (seconds since 1970), and either `room` and `seq`, or `to` for a
   *   private one. An announcement of the operator has no `from`. Messages up to `seq` of the welcome are history.
   *   The farewell of one of several hosts has its text alone.
   * - `welcome`: `name`, `room`, `seq`, `members`, `role`, `expires`, `again` (in the same room after a lost
   *   connection, after {@link renew}, or when several hosts have lost their log and entered the member again).
   * - `joined`, `left`: `names` (at most eight), `count`, `members`, for `left` maybe `reason`.
   * - `lost`: `room`, `first`, `last`: numbers that will not come; `last` is null when the server numbers anew. Then
   *   `first` may be a number that has come: what came from there on is uncertain too.
   * - `disconnected`: `reason`, `retrying`. `waiting`: `seconds` until the next attempt. `connecting`.
   * - `refused`: `code`, `text`, `times`, for what belongs to no request and to no message that was said.
   * - `rejected`: `code`, `text`, `retrying`, for `auth_required` also `proofs`: the name or the room was not granted
   *   again, or was taken away, or the proof has ended or counts no more.
   *   With the code `no_token` the function in the option `jwt` has failed.
   */
  async *events() {
    for (;;) {
      while (this.#events.length) {
        const events = this.#events;
        this.#events = [];
        yield* events;
      }
      if (this.state === 'ended') return;
      await new Promise((resolve) => { this.#reader = resolve; });
      this.#reader = null;
    }
  }

  /** Try now instead of later; when connected, ask the server for a word. For a computer that wakes up. */
  wake() {
    if (this.state === 'waiting') this.#open();
    else if (this.state === 'online' && !this.#pingedAt) this.#ping();
  }

  /** End the chat. The name is free at once. */
  close() {
    if (this.state === 'ended') return;
    const socket = this.#leave();
    socket?.close(1000);
    this.#end(new ChatError('offline', 'the chat is closed'));
  }

  // Connections

  #open() {
    this.#clear();
    this.state = 'connecting';
    // An attempt that fails has not lasted at all.
    this.#openedAt = Infinity;
    this.#refusal = null;
    this.#put({ type: 'connecting' });
    if (this.#proof?.source) {
      this.#askForToken();
    } else {
      this.#shown = this.#proof?.value;
      this.#dial();
    }
  }

  async #askForToken() {
    const attempt = {};
    this.#awaited = attempt;
    let failure = null;
    try {
      this.#shown = checkedToken(await this.#proof.source());
    } catch (error) {
      failure = error;
    }
    // The chat may have been closed meanwhile.
    if (this.#awaited !== attempt) return;
    this.#awaited = null;
    if (failure === null) {
      this.#dial();
    } else {
      const text = 'the function has returned no token';
      if (this.#track) this.#put({ type: 'rejected', code: 'no_token', text, retrying: true });
      else this.#refusal = failure;
      this.#lose('there is no token');
    }
  }

  #dial() {
    let socket;
    try {
      socket = new this.#WebSocket(this.#url, ['mpchat']);
    } catch (error) {
      this.#end(new ChatError('unreachable', error.message));
      return;
    }
    this.#socket = socket;
    // A socket that was given up says nothing any more.
    const mine = (act) => (event) => { if (this.#socket === socket) act(event); };
    socket.addEventListener('open', mine(() => this.#hello()));
    socket.addEventListener('message', mine((event) => this.#receive(event.data)));
    socket.addEventListener('close', mine((event) => this.#lose(event.reason)));
    // Node 20's own WebSocket tells an attempt that has failed by this alone, all others by a close too. An error
    // that nobody listens for ends a program that uses the package `ws`.
    socket.addEventListener('error', mine(() => { if (this.state === 'connecting') this.#drop(''); }));
    this.#timer = setTimeout(mine(() => this.#drop('no answer in time')), this.#options.patience * 1000);
  }

  #hello() {
    clearTimeout(this.#timer);
    this.state = 'joining';
    this.#openedAt = this.#heardAt = now();
    this.#pingedAt = 0;
    this.#isMoved = false;
    const join = { name: this.name, room: this.room };
    if (this.token) join.token = this.token;
    if (this.#proof) join[this.#proof.kind] = this.#shown;
    if (this.#track) Object.assign(join, { after: this.#track.after, epoch: this.#track.epoch });
    this.#entrance = { kind: 'welcome', place: this.#next(), resolve() {}, reject() {} };
    this.#requests.push(this.#entrance);
    this.#send({ join });
    if (this.#options.silence) {
      this.#watch = setInterval(() => this.#listen(), Math.min(this.#options.silence, this.#options.patience) * 500);
    }
  }

  /** Notice a server that says nothing: no packet may tell that it is gone. */
  #listen() {
    if (this.#pingedAt) {
      if (now() - this.#pingedAt > this.#options.patience) this.#drop('the server does not answer');
    } else if (now() - this.#heardAt > this.#options.silence) {
      if (this.state === 'online') this.#ping();
      else this.#drop('the server does not answer');
    }
  }

  #ping() {
    this.#pingedAt = now();
    this.#send({ ping: 0 });
  }

  #drop(reason) {
    const socket = this.#socket;
    this.#lose(reason);
    socket?.close();
  }

  #clear() {
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
  }

  /** Have no connection any more; return what was the socket. */
  #leave() {
    this.#clear();
    const socket = this.#socket;
    this.#socket = null;
    this.#awaited = null;
    for (const each of this.#requests.splice(0)) each.reject(new ChatError('offline', 'the connection was lost'));
    this.#entrance = null;
    return socket;
  }

  #lose(reason) {
    const wasOnline = this.state === 'online';
    if (this.#doubtful !== null && !this.#proof?.source) this.#proof = { kind: 'jwt', value: this.#doubtful };
    this.#doubtful = null;
    this.#leave();
    if (now() - this.#openedAt >= STEADY) this.#attempt = 0;
    const refusal = this.#refusal;
    const retrying = this.#track !== null && (refusal === null || this.#isPassing);
    this.#confirm((each) => each.to !== null);
    for (const each of this.#said) each.earlier = true;
    if (wasOnline || !retrying) this.#put({ type: 'disconnected', reason: reason || '', retrying });
    if (!retrying) {
      this.#end(refusal ?? new ChatError('unreachable', reason || 'the server cannot be reached'));
      return;
    }
    // At once with a fresh token, but not when tokens end again and again within moments.
    const atOnce = refusal?.code === EXPIRED && this.#attempt === 0;
    const seconds = atOnce ? 0 : this.#options.backoff(this.#attempt);
    this.#attempt += 1;
    this.state = 'waiting';
    this.#put({ type: 'waiting', seconds });
    this.#timer = setTimeout(() => this.#open(), seconds * 1000);
  }

  #end(error) {
    this.state = 'ended';
    this.#confirm(() => true);
    this.#opened.reject(error);
    this.#reader?.();
  }

  // Sending

  #send(object) {
    this.#socket.send(JSON.stringify(object, (_, value) => (typeof value === 'string' ? whole(value) : value)));
  }

  #promise(take) {
    return unwatched(new Promise((resolve, reject) => take({ resolve, reject })));
  }

  #next() {
    this.#place += 1;
    return this.#place;
  }

  #ask(kind, request, more) {
    let asked = null;
    const promise = this.#promise((given) => {
      if (this.state !== 'online') throw new ChatError('offline', 'there is no connection');
      asked = { kind, place: this.#next(), ...more, ...given };
      this.#requests.push(asked);
      this.#send(request);
    });
    if (asked) asked.settled = promise.then(() => {}, () => {});
    return promise;
  }

  #moderate(action, about) {
    return this.#ask('moderated', { [action]: about }, { action });
  }

  #post(given, to) {
    // As it comes back.
    const text = whole(given);
    const message = to === null ? { message: text } : { message: text, to };
    return this.#promise(({ resolve, reject }) => {
      if (this.state !== 'online') throw new ChatError('offline', 'there is no connection');
      const size = new TextEncoder().encode(JSON.stringify(message)).length;
      if (size > PAYLOAD_LIMIT) throw new ChatError('too_long', `a message has at most ${PAYLOAD_LIMIT} bytes`);
      this.#said.push({ text, to, place: this.#next(), resolve, reject, earlier: false });
      this.#send(message);
    });
  }

  /** Reject the messages that did not come back and fit `lost`. */
  #confirm(lost) {
    const [gone, rest] = [this.#said.filter(lost), this.#said.filter((each) => !lost(each))];
    this.#said = rest;
    for (const each of gone) each.reject(new ChatError('unconfirmed', 'the connection was lost: maybe not said'));
  }

  // Receiving

  #put(event) {
    this.#events.push(event);
    this.#reader?.();
  }

  #receive(data) {
    this.#heardAt = now();
    this.#pingedAt = 0;
    this.#doubtful = null;
    const content = readable(data);
    if (content === null) {
      this.#put({ type: 'refused', code: 'not_json', text: 'the server sent what this client cannot read', times: 1 });
    } else if (typeof content.message === 'string') {
      this.#take(content);
    } else if (content.error) {
      this.#refused({ type: 'refused', ...content.error, times: content.error.times ?? 1 });
    } else if (content.welcome) {
      this.#welcome(content.welcome);
    } else if (content.joined || content.left) {
      const event = { type: content.joined ? 'joined' : 'left', ...(content.joined || content.left) };
      const own = event.count === 1 && event.names[0] === this.name;
      if (!own) this.#put(event);
    } else if (content.moderated) {
      const { action, target, count } = content.moderated;
      this.#settle('moderated', (each) => each.action === action)?.resolve({ action, target, count });
    } else {
      for (const kind of ['who', 'rooms', 'history']) {
        if (content[kind]) this.#settle(kind)?.resolve(content[kind]);
      }
    }
  }

  #message({ message: text, from, room, seq, at, to }) {
    const event = { type: 'message', text, mine: from !== undefined && from === this.name };
    for (const [key, value] of Object.entries({ from, room, seq, at, to })) {
      if (value !== undefined && value !== null) event[key] = value;
    }
    return event;
  }

  #take(content) {
    const event = this.#message(content);
    if (event.seq === undefined) {
      // Before the welcome the connection is a plain client's: the same messages come again with numbers.
      if (this.state !== 'online') return;
    } else if (this.#track && event.room === this.room) {
      const { fresh, gap } = this.#track.take(event.seq);
      this.#putGap(gap);
      if (!fresh) return;
    }
    this.#put(event);
    if (event.mine) this.#cameBack(event);
    this.#replayed();
  }

  #cameBack(event) {
    const isPrivate = event.to !== undefined;
    const isKind = (each) => (each.to !== null) === isPrivate;
    // The server sends again only what was said before this connection. A private message has no number.
    const isHere = event.room === this.room;
    const inTime = (each) => (each.earlier
      ? isHere && event.seq <= this.#welcomedAt : !isHere || event.seq > this.#joinedAt);
    const at = this.#said.findIndex((each) => each.text === event.text && isKind(each) && inTime(each));
    if (at < 0) return;
    const [said] = this.#said.splice(at, 1);
    said.resolve(event);
    // Those said before have come back by now, unless they were lost with the log.
    this.#confirm((each) => each.shaken && !each.earlier && isKind(each) && each.place < said.place);
  }

  /** Once all is there that was said before the welcome, what has not come back will not come. */
  #replayed() {
    if (this.#replayUntil !== null && this.#track.after >= this.#replayUntil) {
      this.#replayUntil = null;
      this.#confirm((each) => each.earlier);
    }
  }

  #replayUntil = null;
  // The last number of the room at the last welcome, and the last one that this connection's own messages cannot have.
  #welcomedAt = 0;
  #joinedAt = 0;

  #welcome(welcome) {
    // With several hosts a member is entered again after a loss of their log: this answers no request. It may answer
    // the join that a connection begins with: another host has entered the member already.
    const isUnasked = welcome.again === true && this.#entrance === null;
    const request = this.#isMoved || isUnasked ? null : this.#settle('welcome');
    this.#isMoved = false;
    const returns = this.#track !== null && request !== null && request === this.#entrance;
    // A renewal goes on in the room that it was sent in; the operator may have closed that one meanwhile.
    const renews = Boolean(request?.track) && request.track === this.#track;
    const goesOn = isUnasked && isSameName(welcome.room, this.room);
    const again = returns || renews || goesOn;
    this.#entrance = null;
    this.#isRenewed = false;
    let gap = null;
    // A renewal that was sent before a loss of the log names a number of before it: nothing is missing since.
    if (again && !(request?.shaken && welcome.epoch === this.#track.epoch)) gap = this.#track.resume(welcome);
    else if (!again) this.#track = new Track(welcome.epoch, welcome.seq);
    const { name, room, token, seq, members } = welcome;
    const [role, expires] = [welcome.role ?? 'member', welcome.expires ?? null];
    Object.assign(this, { name, room, token, role, expires, state: 'online' });
    this.#put({ type: 'welcome', name, room, seq, members, role, expires, again });
    this.#putGap(gap);
    if (goesOn) {
      this.#shake(welcome);
    } else if (!renews) {
      // A renewal changes nothing about messages: the connection is the same.
      this.#joinedAt = this.#welcomedAt = seq;
      this.#replayUntil = again ? seq : null;
      if (again) this.#replayed();
      else this.#confirm((each) => each.earlier);
    }
    request?.resolve(welcome);
    this.#opened.resolve(this);
  }

  /** Expect what was said on this connection and has not come back among what follows an unasked welcome, if at all. */
  #shake({ seq, lost }) {
    for (const each of [...this.#said, ...this.#requests]) each.shaken = true;
    this.#welcomedAt = seq;
    if (lost) this.#joinedAt = -1;
    if (this.#replayUntil !== null) this.#replayUntil = seq;
    // With other numbers it is not known whether anything follows before the next message comes.
    if (!lost) this.#replayed();
  }

  #putGap(gap) {
    if (gap) this.#put({ type: 'lost', room: this.room, first: gap[0], last: gap[1] });
  }

  /** Take the oldest request of a kind that fits; null when the answer was not asked for. */
  #settle(kind, fits = () => true) {
    const at = this.#requests.findIndex((each) => each.kind === kind && fits(each));
    return at < 0 ? null : this.#requests.splice(at, 1)[0];
  }

  /** Find what the server has rejected, one after the other; the rest is an event. */
  #refused(event) {
    if (event.code === 'room_closed') this.#isMoved = true;
    let left = event.times;
    const error = new ChatError(event.code, event.text, event.proofs ?? []);
    while (left > 0 && this.#refusal === null && this.#rejects(error)) left -= 1;
    if (left > 0 && this.#refusal === null) this.#put({ ...event, times: left });
  }

  #rejects(error) {
    const said = !WRONG_MESSAGE.has(error.code) ? -1 : this.#said.findIndex((each) => !each.earlier
      && (error.code !== 'no_such_name' || each.to !== null));
    const asked = FINAL.has(error.code) && !this.#entrance
      ? -1 : this.#requests.findIndex((each) => this.#mayMean(error, each));
    const isSaid = OF_EITHER.has(error.code) && said >= 0 && this.#said[said].place < this.#requests[asked]?.place;
    const at = isSaid ? -1 : asked;
    if (at >= 0) {
      const [request] = this.#requests.splice(at, 1);
      if (request === this.#entrance) this.#reject(error);
      if (error.code === EXPIRED) this.#doubtful = request.jwt ?? null;
      request.reject(error);
      return true;
    }
    if (FINAL.has(error.code) || error.code === EXPIRED) {
      this.#reject(error);
      return true;
    }
    if (said < 0) return false;
    this.#said.splice(said, 1)[0].reject(error);
    return true;
  }

  #mayMean({ code }, request) {
    // Before the welcome nothing else is sent.
    if (request === this.#entrance) return true;
    const isRenewal = request.track !== undefined;
    if (request.kind === 'welcome') return WRONG_JOIN.has(code) || (isRenewal && WRONG_PROOF.has(code));
    return WRONG_QUESTION.has(code) || NOT_ANSWERED.has(code) || (request.kind === 'moderated' && NOT_MODERATED.has(code));
  }

  /** Give up this connection; whether another one follows depends on the error. */
  #reject(error) {
    const { code, text, proofs } = error;
    const hasFresh = code === EXPIRED && Boolean(this.#proof?.source) && !this.#isRenewed;
    const retrying = this.#track !== null && (PASSING.has(code) || hasFresh);
    if (hasFresh) this.#isRenewed = true;
    this.#refusal = error;
    this.#isPassing = retrying;
    if (this.#track) this.#put({ type: 'rejected', code, text, retrying, ...(proofs.length ? { proofs } : {}) });
    this.#drop(text);
  }
}

const isText = (value) => typeof value === 'string';
// JSON's 1e999 is Infinity.
const isNumber = (value) => Number.isFinite(value);
const maybe = (holds) => (value) => value === undefined || value === null || holds(value);
const listOf = (holds) => (value) => Array.isArray(value) && value.every(holds);
const shaped = (parts) => (value) => value !== null && typeof value === 'object'
  && Object.entries(parts).every(([key, holds]) => holds(value[key]));
const isGap = (value) => listOf(maybe(isNumber))(value) && value.length === 2 && value[0] !== null;

// The form of what a server sends, as far as this client relies on it. Other keys may hold anything.
const isMessage = shaped({
  message: isText, from: maybe(isText), to: maybe(isText), room: maybe(isText), seq: maybe(isNumber), at: maybe(isNumber),
});
const isNotice = shaped({ names: listOf(isText), count: isNumber });
const FORMS = {
  error: shaped({ code: isText, text: isText, times: maybe(isNumber), proofs: maybe(listOf(isText)) }),
  welcome: shaped({
    name: isText, room: isText, seq: isNumber, epoch: isText, members: isNumber, token: isText, lost: maybe(isGap),
    role: maybe(isText), expires: maybe(isNumber),
  }),
  joined: isNotice,
  left: isNotice,
  moderated: shaped({ action: isText, target: isText, count: isNumber }),
  who: shaped({ room: isText, names: listOf(isText), members: isNumber, next: maybe(isText) }),
  rooms: shaped({ rooms: listOf(shaped({ room: isText, members: isNumber })), count: isNumber, next: maybe(isText) }),
  history: shaped({ room: isText, messages: listOf(isMessage), next: maybe(isNumber) }),
};

/** Return the object that a frame holds, null where it is none or has not the form of its kind. */
function readable(data) {
  let content;
  try {
    content = JSON.parse(data);
  } catch {
    return null;
  }
  if (content === null || typeof content !== 'object') return null;
  if (isText(content.message)) return isMessage(content) ? content : null;
  return Object.keys(FORMS).every((kind) => !content[kind] || FORMS[kind](content[kind])) ? content : null;
}

/** Return the one proof among the options as {kind, value} or {kind, source}, null without one. */
function proofOf(options) {
  const kinds = PROOFS.filter((kind) => options[kind] !== undefined && options[kind] !== null);
  if (kinds.length > 1) throw new TypeError(`one proof is enough: ${kinds.join(' or ')}`);
  if (kinds.length === 0) return null;
  const [kind] = kinds;
  const value = options[kind];
  if (kind === 'jwt' && typeof value === 'function') return { kind, source: value };
  if (typeof value !== 'string') throw new TypeError(`the option ${kind} is a string`);
  return { kind, value };
}

/** Tell whether two spellings are one name: the first member that enters a room decides its spelling. */
function isSameName(one, other) {
  const key = (name) => name.normalize('NFKC').toLowerCase();
  return key(one) === key(other);
}

/** Return a promise that nobody has to look at: an error that nobody looks at must not end a program. */
function unwatched(promise) {
  promise.catch(() => {});
  return promise;
}

function checkedToken(jwt) {
  if (typeof jwt !== 'string') throw new TypeError('a token is a string');
  return jwt;
}

// JSON has no NaN and no Infinity: what is sent instead would mean for good.
function checkedSeconds(seconds) {
  if (seconds === undefined || (typeof seconds === 'number' && seconds >= 1 && seconds <= LONGEST_SANCTION)) return seconds;
  throw new RangeError(`seconds must be 1 to ${LONGEST_SANCTION}, or left out: for good`);
}

/** Replace each half of a surrogate pair: it is no text, and no UTF-8 can hold it. */
function whole(text) {
  return text.replace(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g, '\uFFFD');
}

function now() {
  return Date.now() / 1000;
}
