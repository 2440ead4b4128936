/** Side: the lists of people and rooms beside the messages; on a phone a drawer. */

import { visible } from './lines.js';
import { OPERATOR } from './mpchat.js';
import { ask } from './question.js';
import { disc, make } from './rows.js';
import { WORDS } from './words.js';

// Rows of a list; the rest is a number.
const MOST_ROWS = 300;
// Pages of 100 names that are asked for.
const MOST_PAGES = 3;
// Seconds between two looks at the other rooms, while they can be seen.
const LOOK_AT_ROOMS = 10;
// Milliseconds that changes of the list wait for more of them.
const GATHER = 300;

// What an operator may do to a member of the list.
const DEEDS = ['mute', 'kick', 'ban'];

const $ = (id) => document.getElementById(id);
const narrow = matchMedia('(max-width: 47rem)');

export class Side {
  #chat = null;
  #names = new Set();
  // A map for each list of names that is awaited: the names that have come (true) or gone (false) meanwhile.
  #awaited = new Set();
  #members = 0;
  #rooms = [];
  #roomCount = 0;
  #timer = null;
  #stale = false;
  #tell;
  #enter;
  #moderate;
  // The name whose deeds are shown: those of an operator.
  #unfolded = null;
  #opener = null;

  /**
   * `tell(name)` begins a private message, `enter(room)` goes to a room, `moderate(action, name)` is an operator's
   * request.
   */
  constructor({ tell, enter, moderate }) {
    this.#tell = tell;
    this.#enter = enter;
    this.#moderate = moderate;
    $('open-side').addEventListener('click', () => this.open());
    $('close-side').addEventListener('click', () => this.close());
    $('shade').addEventListener('click', () => this.close());
    document.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || $('question').open) return;
      if ($('people').contains(document.activeElement) && this.#unfolded !== null) this.#fold();
      else if (this.isOpen) this.close();
    });
    narrow.addEventListener('change', () => this.close());
    $('go').addEventListener('submit', (event) => {
      event.preventDefault();
      const room = $('other-room').value.trim();
      if (!room) return;
      $('other-room').value = '';
      this.#choose(() => this.#enter(room));
    });
    setInterval(() => this.#lookAtRooms(), LOOK_AT_ROOMS * 1000);
    document.addEventListener('visibilitychange', () => this.#lookAtRooms());
  }

  get isOpen() {
    return $('side').classList.contains('open');
  }

  open() {
    this.#opener = document.activeElement;
    $('side').classList.add('open');
    $('shade').hidden = false;
    $('open-side').setAttribute('aria-expanded', 'true');
    this.#setBehind(true);
    $('close-side').focus();
    this.#lookAtRooms();
  }

  close() {
    if (!this.isOpen) return;
    $('side').classList.remove('open');
    $('shade').hidden = true;
    $('open-side').setAttribute('aria-expanded', 'false');
    this.#setBehind(false);
    this.#opener?.focus();
  }

  /** Keep the keyboard from all that lies under the shade. The connection's state is still read aloud. */
  #setBehind(inert) {
    for (const id of ['open-side', 'trouble', 'middle', 'composer']) $(id).inert = inert;
  }

  /** Show the room that the chat has entered. */
  entered(chat, members) {
    this.#chat = chat;
    this.#names = new Set([chat.name]);
    // Lists from another room, or from before the connection was lost, are of no use now.
    this.#awaited.clear();
    this.#members = members;
    $('my-name').textContent = visible(chat.name);
    $('my-disc').replaceChildren(disc(chat.name));
    this.#askForNames();
    this.#lookAtRooms();
    this.#changed();
  }

  joined(event) {
    for (const name of event.names) {
      this.#names.add(name);
      for (const changes of this.#awaited) changes.set(name, true);
    }
    this.#counted(event);
  }

  left(event) {
    for (const name of event.names) {
      this.#names.delete(name);
      for (const changes of this.#awaited) changes.set(name, false);
    }
    this.#counted(event);
  }

  #counted(event) {
    this.#members = event.members;
    // A notice has eight names at most.
    if (event.count > event.names.length) this.#stale = true;
    this.#changed();
  }

  #changed() {
    if (this.#timer !== null) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.#stale) this.#askForNames();
      this.#stale = false;
      this.#draw();
    }, GATHER);
  }

  async #askForNames() {
    const chat = this.#chat;
    const room = chat.room;
    const names = new Set([chat.name]);
    const changes = new Map();
    this.#awaited.add(changes);
    let next;
    try {
      for (let page = 0; page < MOST_PAGES && next !== null; page += 1) {
        const who = await chat.who(next);
        if (who.room !== room || !this.#awaited.has(changes)) return;
        for (const name of who.names) names.add(name);
        this.#members = who.members;
        next = who.next ?? null;
      }
    } catch {
      return; // The connection was lost, or a token does not name the room: the next welcome asks again.
    } finally {
      this.#awaited.delete(changes);
    }
    // A page does not know the changes that have come since.
    for (const [name, here] of changes) {
      if (here) names.add(name);
      else names.delete(name);
    }
    this.#names = names;
    this.#changed();
  }

  async #lookAtRooms() {
    const canBeSeen = !document.hidden && (!narrow.matches || this.isOpen);
    if (!canBeSeen || this.#chat?.state !== 'online') return;
    try {
      const found = await this.#chat.rooms();
      this.#rooms = found.rooms;
      this.#roomCount = found.count;
      this.#changed();
    } catch {
      // As above.
    }
  }

  #draw() {
    const count = String(this.#members);
    $('people-count').textContent = $('open-side-count').textContent = count;
    $('here').textContent = WORDS.here(this.#members);
    const own = this.#chat.name;
    const names = [...this.#names].filter((name) => name !== own).sort((a, b) => a.localeCompare(b));
    const shown = [own, ...names].slice(0, MOST_ROWS);
    if (!shown.includes(this.#unfolded)) this.#unfolded = null;
    this.#replace($('people'), shown.map((name) => this.#person(name, name === own)), this.#members - shown.length);

    const rooms = this.#rooms.filter((each) => each.room !== this.#chat.room);
    rooms.unshift({ room: this.#chat.room, members: this.#members });
    $('rooms-count').textContent = String(Math.max(this.#roomCount, rooms.length));
    this.#replace($('rooms'), rooms.map((each, at) => this.#room(each, at === 0)), this.#roomCount - rooms.length);
  }

  #replace(list, rows, more) {
    if (more > 0) rows.push(make('li', 'rest', WORDS.more(more)));
    const { key: focused, home } = list.contains(document.activeElement) ? document.activeElement.dataset : {};
    // Rows that say the same stay: a click on one of them may have begun.
    const before = new Map([...list.children].map((row) => [row.outerHTML, row]));
    const after = rows.map((row) => before.get(row.outerHTML) ?? row);
    const stays = new Set(after);
    for (const row of before.values()) if (!stays.has(row)) row.remove();
    after.forEach((row, at) => {
      if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    });
    if (focused !== undefined && !list.contains(document.activeElement)) {
      const find = (key) => [...list.querySelectorAll('button')].find((each) => each.dataset.key === key);
      (find(focused) ?? find(home) ?? $('text')).focus();
    }
  }

  #person(name, own) {
    const button = make('button', '', disc(name), make('bdi', 'label', visible(name)));
    button.type = 'button';
    button.dataset.key = name;
    if (own) {
      button.append(make('span', 'aside', this.#chat.role === OPERATOR ? WORDS.youOperator : WORDS.you));
      button.disabled = true;
    } else {
      button.title = WORDS.tell(visible(name));
      button.addEventListener('click', () => this.#choose(() => this.#tell(name)));
    }
    if (own || this.#chat.role !== OPERATOR) return make('li', '', button);
    const more = make('button', 'more', '⋯');
    more.type = 'button';
    // No name has a space: these keys are no names.
    more.dataset.key = `more ${name}`;
    more.title = WORDS.moderate(visible(name));
    more.setAttribute('aria-label', more.title);
    more.setAttribute('aria-expanded', String(this.#unfolded === name));
    more.addEventListener('click', () => {
      this.#unfolded = this.#unfolded === name ? null : name;
      this.#draw();
    });
    const row = make('li', 'person', button, more);
    if (this.#unfolded === name) row.append(this.#deeds(name));
    return row;
  }

  #deeds(name) {
    const deeds = make('div', 'deeds', ...DEEDS.map((action) => {
      const button = make('button', action === 'ban' ? 'danger' : '', WORDS.deeds[action]);
      button.type = 'button';
      Object.assign(button.dataset, { key: `${action} ${name}`, home: `more ${name}` });
      button.addEventListener('click', () => this.#act(action, name));
      return button;
    }));
    deeds.setAttribute('role', 'group');
    deeds.setAttribute('aria-label', WORDS.moderate(visible(name)));
    return deeds;
  }

  /** Show the deeds of nobody. The focus goes back to the button that has shown them. */
  #fold() {
    this.#unfolded = null;
    this.#draw();
  }

  async #act(action, name) {
    if (action === 'ban') {
      const shown = visible(name);
      const isWanted = await ask({ title: WORDS.banTitle(shown), text: WORDS.banText(shown), yes: WORDS.deeds.ban });
      // The list may have been drawn anew under the question.
      if (document.activeElement === document.body) $('text').focus();
      if (!isWanted) return;
    }
    this.#fold();
    // On a phone the answer stands under the drawer.
    this.close();
    this.#moderate(action, name);
  }

  #room({ room, members }, current) {
    const people = make('span', 'aside', String(members));
    people.setAttribute('aria-label', WORDS.here(members));
    const button = make('button', '', make('bdi', 'label room', visible(room)), people);
    button.type = 'button';
    button.dataset.key = room;
    if (current) button.setAttribute('aria-current', 'true');
    button.addEventListener('click', () => this.#choose(() => this.#enter(room)));
    return make('li', '', button);
  }

  #choose(act) {
    this.close();
    act();
  }
}
