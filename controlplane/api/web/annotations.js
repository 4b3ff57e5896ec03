// Tags and hold of a recording: shown as they are, changed by whoever looks at them.

import { ask, day, element, timeOfDay } from './format.js';

export class AnnotationEditor {
  #id;
  #annotations;
  #list = element('ul', { className: 'tags', 'aria-label': 'Tags' });
  #hold = element('div', { className: 'hold' });
  #message = element('p', { className: 'notice', role: 'alert', hidden: true });
  #key = element('input', { type: 'text', maxLength: 128, size: 10, placeholder: 'key', 'aria-label': 'Key of a new tag', autocomplete: 'off', required: true });
  #value = element('input', { type: 'text', maxLength: 4096, size: 14, placeholder: 'value', 'aria-label': 'Value of a new tag', autocomplete: 'off' });
  place;

  constructor(recording) {
    this.#id = recording.id;
    const add = element('form', { className: 'add-tag' }, this.#key, this.#value, element('button', { type: 'submit' }, 'Add tag'));
    add.addEventListener('submit', async (event) => {
      event.preventDefault();
      const key = this.#key.value.trim();
      if (key && await this.#change({ tags: { [key]: this.#value.value } })) {
        this.#key.value = this.#value.value = '';
        this.#key.focus();
      }
    });
    this.place = element('section', { className: 'annotations' }, element('h3', {}, 'Tags'), this.#list, add, this.#hold, this.#message);
    this.show(recording.annotations);
  }

  get id() { return this.#id; }

  get annotations() { return this.#annotations; }

  show(annotations) {
    this.#annotations = annotations;
    const tags = Object.entries(annotations.tags);
    this.#list.replaceChildren(...tags.map(([key, value]) => this.#tag(key, value)));
    this.#list.hidden = tags.length === 0;
    this.#hold.replaceChildren(annotations.hold ? this.#held(annotations.hold) : this.#holdForm());
  }

  #tag(key, value) {
    const remove = element('button', { type: 'button', title: `Remove ${key}`, 'aria-label': `Remove the tag ${key}` }, '✕');
    remove.addEventListener('click', () => this.#change({ tags: { [key]: null } }));
    return element('li', { className: 'tag' }, element('span', { className: 'key' }, key), value ? element('span', {}, value) : null, remove);
  }

  #held(hold) {
    const lift = element('button', { type: 'button' }, 'Lift the hold');
    lift.addEventListener('click', () => this.#change({ hold: null }));
    return element('p', { className: 'held' }, element('strong', {}, 'On hold: '), hold.reason,
      element('span', { className: 'muted' }, ` – ${hold.by}, ${day(hold.at)} `, timeOfDay(hold.at), ' '), lift);
  }

  #holdForm() {
    const reason = element('input', { type: 'text', maxLength: 1000, placeholder: 'why it must not be erased', 'aria-label': 'Reason of the hold', required: true });
    const form = element('form', { className: 'add-tag' }, reason, element('button', { type: 'submit' }, 'Hold'));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      if (reason.value.trim()) this.#change({ hold: { reason: reason.value.trim(), by: 'page' } });
    });
    return form;
  }

  /** True when the change is durable. */
  async #change(patch) {
    this.place.setAttribute('aria-busy', 'true');
    this.#message.hidden = true;
    try {
      this.show(await ask(`/api/v1/recordings/${this.#id}/annotations`, undefined, patch));
      return true;
    } catch (error) {
      this.#message.textContent = error.message;
      this.#message.hidden = false;
      return false;
    } finally {
      this.place.removeAttribute('aria-busy');
    }
  }
}
