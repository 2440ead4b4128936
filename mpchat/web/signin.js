/**
 * Sign-in: the field of the form at the entrance for a password, the secret of a class, or a token.
 *
 * It is hidden until the server asks for a proof. What is written there is in no storage and is forgotten once the
 * member is in; the browser's password manager may offer to remember a password.
 */

import { kept } from './kept.js';
import { WORDS } from './words.js';

// Errors that are about the proof, or about the lack of one.
const ABOUT_PROOF = new Set(['auth_required', 'bad_credentials', 'expired', 'try_later', 'not_allowed']);
// Every server that asks for a proof takes this one.
const ALWAYS = 'password';

const $ = (id) => document.getElementById(id);

export class SignIn {
  // The kinds that the server takes, as far as it has told.
  #kinds = [];
  #kind = ALWAYS;

  constructor() {
    for (const radio of this.#radios) {
      radio.addEventListener('change', () => {
        this.#choose(radio.value);
        $('proof').value = '';
      });
    }
  }

  /** Tell whether an error means that another proof is needed. */
  static isMeantBy({ code }) {
    return ABOUT_PROOF.has(code);
  }

  /** The proof that is written there, as an option of the client; empty without one. */
  get proof() {
    const text = $('proof').value;
    return this.#isShown && text ? { [this.#kind]: text } : {};
  }

  /** Whether the proof that is written there names the member itself. */
  get namesItself() {
    return 'jwt' in this.proof;
  }

  /** Show what the server asks for with `error`; return whether the error is about the proof. */
  refused(error) {
    if (!SignIn.isMeantBy(error)) return false;
    const told = this.#radios.map((radio) => radio.value).filter((kind) => error.proofs?.includes(kind));
    const before = this.proof;
    if (told.length) this.#kinds = told;
    else if (!this.#kinds.length) this.#kinds = [ALWAYS];
    let kind = this.#isShown ? this.#kind : kept.kind.get();
    // The secret does not do for this name: it is a registered one.
    if (error.code === 'auth_required' && 'secret' in before) kind = ALWAYS;
    if (!this.#kinds.includes(kind)) [kind] = this.#kinds;
    if (!(kind in before)) $('proof').value = '';
    $('sign-in').hidden = false;
    for (const radio of this.#radios) radio.parentElement.hidden = !this.#kinds.includes(radio.value);
    $('kinds').hidden = this.#kinds.length === 1;
    this.#choose(kind);
    return true;
  }

  /** Forget what is written there: it was good. */
  taken() {
    if (Object.keys(this.proof).length) kept.kind.set(this.#kind);
    $('proof').value = '';
  }

  get #isShown() {
    return !$('sign-in').hidden;
  }

  get #radios() {
    return [...$('kinds').querySelectorAll('input')];
  }

  #choose(kind) {
    this.#kind = kind;
    for (const radio of this.#radios) radio.checked = radio.value === kind;
    $('proof-label').textContent = WORDS[kind];
    // A password manager is to remember passwords alone.
    $('proof').autocomplete = kind === ALWAYS ? 'current-password' : 'off';
    $('name-hint').textContent = kind === 'jwt' ? WORDS.nameHintToken : WORDS.nameHint;
    $('name').required = kind !== 'jwt';
  }
}
