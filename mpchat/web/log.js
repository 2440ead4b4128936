/**
 * Log: the list of messages. Only a window of what there is stands in the page, so that a long chat scrolls like a
 * short one.
 *
 * At most MOST_ROWS rows are in the document, as one range of the entries. Scrolling to either end of the range adds
 * rows there and drops them at the other end. (`content-visibility: auto` would keep 10 000 rows with all their
 * nodes: it saves their painting, not their memory, and their guessed heights make the scroll bar jump.)
 * Entries are drawn once a frame, however many come. Knows nothing of chats: `row` makes an element of an entry.
 */

const MOST_ROWS = 200;
const STEP = 30;
// Entries that are kept; older ones are dropped while the reader is at the end, and asked for again.
const MOST_ENTRIES = 20_000;
// Pixels from an end of the range at which rows are added, and pixels from the end that count as the end.
const NEAR = 800;
const AT_END = 40;

export class Log {
  /** Whether the reader is at the end, and follows new entries. */
  following = true;

  #scroller;
  #list;
  #row;
  #older;
  #moved;
  #entries = [];
  // The range of entries that are in the document.
  #begin = 0;
  #end = 0;
  // How many entries there were at the last drawing: those that came since are not below the reader yet.
  #known = 0;
  #asked = false;

  /**
   * `row(entry, previous)` makes a list item; `older()` is called when entries before the first one are wanted;
   * `moved()` after scrolling and drawing.
   */
  constructor(scroller, list, { row, older, moved }) {
    this.#scroller = scroller;
    this.#list = list;
    this.#row = row;
    this.#older = older;
    this.#moved = moved;
    scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    // A click makes a row longer: the reader stays there instead of following the end.
    list.addEventListener('click', () => this.#scrolled());
    // A keyboard that opens, a window that is turned: the end stays in view.
    new ResizeObserver(() => { if (this.following) this.#bottom(); }).observe(scroller);
    new ResizeObserver(() => { if (this.following) this.#bottom(); }).observe(list);
  }

  /** The oldest and the newest entry; undefined when there is none. */
  get first() {
    return this.#entries[0];
  }

  get last() {
    return this.#entries.at(-1);
  }

  /** The oldest entry that `fits`. */
  find(fits) {
    return this.#entries.find(fits);
  }

  /** Forget all entries but those that `stay`; returns how many these are. */
  clear(stay = () => false) {
    this.#entries = this.#entries.filter(stay);
    this.#begin = this.#end = this.#known = 0;
    this.#list.replaceChildren();
    this.following = true;
    if (this.#entries.length) this.#ask();
    return this.#entries.length;
  }

  append(entry) {
    this.#entries.push(entry);
    this.#ask();
  }

  /** Draw the newest entry again: it has changed. */
  amendLast() {
    if (this.#end === this.#entries.length && this.#end > this.#begin) {
      this.#list.lastElementChild.replaceWith(this.#make(this.#end - 1));
    }
  }

  /** Put entries before the first one, in ascending order. */
  prepend(entries) {
    this.#entries.unshift(...entries);
    this.#begin += entries.length;
    this.#end += entries.length;
    this.#known += entries.length;
    this.#scrolled();
  }

  /** Draw the oldest entry again: what stands before it has changed. */
  amendFirst() {
    if (this.#begin === 0 && this.#end > 0) this.#list.firstElementChild.replaceWith(this.#make(0));
  }

  toEnd() {
    this.following = true;
    this.#draw();
  }

  #ask() {
    if (this.#asked) return;
    this.#asked = true;
    // A hidden page has no frames, and a page may be hidden before the next one.
    const timer = setTimeout(() => draw(), 200);
    const frame = requestAnimationFrame(() => draw());
    const draw = () => {
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      this.#asked = false;
      this.#draw();
    };
  }

  #make(at) {
    return this.#row(this.#entries[at], this.#entries[at - 1]);
  }

  #rows(begin, end) {
    const rows = document.createDocumentFragment();
    for (let at = begin; at < end; at += 1) rows.append(this.#make(at));
    return rows;
  }

  #dropOlder() {
    while (this.#end - this.#begin > MOST_ROWS) {
      this.#list.firstElementChild.remove();
      this.#begin += 1;
    }
  }

  #dropNewer() {
    while (this.#end - this.#begin > MOST_ROWS) {
      this.#list.lastElementChild.remove();
      this.#end -= 1;
    }
  }

  #draw() {
    // A reader far up in a room in which very much is said: memory has a bound.
    if (this.#entries.length > 2 * MOST_ENTRIES) this.following = true;
    const count = this.#entries.length;
    if (this.following) {
      if (count - this.#end >= MOST_ROWS) {
        this.#list.replaceChildren();
        this.#begin = this.#end = count - MOST_ROWS;
      }
      this.#list.append(this.#rows(this.#end, count));
      this.#end = count;
      this.#dropOlder();
      const surplus = Math.min(count - MOST_ENTRIES, this.#begin);
      if (surplus > 0) {
        this.#entries.splice(0, surplus);
        this.#begin -= surplus;
        this.#end -= surplus;
      }
      this.#known = this.#end;
      this.#bottom();
    } else {
      const end = Math.min(count, this.#begin + MOST_ROWS);
      this.#list.append(this.#rows(this.#end, end));
      this.#end = Math.max(end, this.#end);
      this.#known = count;
    }
    // A tall window has place for more than there is, and nothing to scroll.
    const isShort = this.#list.offsetHeight < this.#scroller.clientHeight;
    if (this.#begin === 0 && (isShort || (!this.following && this.#scroller.scrollTop < NEAR))) this.#older();
    this.#moved();
  }

  #bottom() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  get #left() {
    return this.#scroller.scrollHeight - this.#scroller.scrollTop - this.#scroller.clientHeight;
  }

  #scrolled() {
    // First of all: rows that are added to follow the end move the reader there.
    this.following = this.#isAtEnd;
    if (this.#scroller.scrollTop < NEAR) {
      if (this.#begin > 0) this.#showOlder();
      else if (this.#known === this.#entries.length) this.#older();
    }
    if (this.#end < this.#known && this.#left < NEAR) this.#showNewer();
    this.following = this.#isAtEnd;
    this.#moved();
  }

  get #isAtEnd() {
    return this.#end === this.#known && this.#left < AT_END;
  }

  #showOlder() {
    const begin = Math.max(0, this.#begin - STEP);
    const anchor = this.#list.children[1] ?? this.#list.firstElementChild;
    this.#keeping(anchor, () => {
      // The oldest row may look different below another one.
      if (this.#end > this.#begin && anchor !== this.#list.firstElementChild) {
        this.#list.firstElementChild.replaceWith(this.#make(this.#begin));
      }
      this.#list.prepend(this.#rows(begin, this.#begin));
      this.#begin = begin;
      if (!this.following) this.#dropNewer();
    });
    if (this.following) this.#bottom();
  }

  #showNewer() {
    const end = Math.min(this.#known, this.#end + STEP);
    this.#keeping(this.#list.lastElementChild, () => {
      this.#list.append(this.#rows(this.#end, end));
      this.#end = end;
      this.#dropOlder();
    });
  }

  /** Change the rows so that `anchor` stays where it is on the screen. */
  #keeping(anchor, change) {
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (anchor) this.#scroller.scrollTop += anchor.getBoundingClientRect().top - before;
  }
}
