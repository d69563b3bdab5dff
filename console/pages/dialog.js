// Asking before something is done, and saying what became of it.

import { h } from './dom.js';

let questions = 0;

/**
 * Says what an action will do and does it when that is confirmed. act is given a function that shows
 * progress; what it returns is the text that says what was done. Returns whether it was done, after
 * the dialog was closed and act has ended: to close the dialog does not stop it.
 */
export function confirm({ title, text, action, danger = false, act }) {
	return new Promise((resolve) => {
		const opener = document.activeElement;
		const name = `question-${++questions}`;
		const status = h('p', { role: 'status' });
		const go = h('button', { type: 'button', class: danger ? 'danger' : 'primary' }, action);
		const cancel = h('button', { type: 'button' }, 'Cancel');
		let done = false;
		let ended = Promise.resolve();

		const run = async () => {
			go.disabled = true;
			status.className = '';
			status.textContent = 'Working …';
			try {
				status.textContent = await act((progress) => { status.textContent = progress; });
				done = true;
				go.remove();
			} catch (error) {
				status.className = 'error';
				status.textContent = error.message;
				go.disabled = false;
			}
			cancel.textContent = 'Close';
			cancel.focus();
		};
		go.addEventListener('click', () => { ended = run(); });
		cancel.addEventListener('click', () => dialog.close());

		// A dialog of its own for each question: browsers tell that one was closed a moment later, when
		// the next may be open already.
		const dialog = h('dialog', { 'aria-labelledby': name },
			h('h2', { id: name }, title),
			text.map((line) => h('p', {}, line)), status,
			h('div', { class: 'buttons' }, cancel, go));
		dialog.addEventListener('close', () => {
			dialog.remove();
			(opener.isConnected ? opener : document.getElementById(opener.id))?.focus(); // it may have been drawn anew
			ended.then(() => resolve(done));
		});
		document.body.append(dialog);
		dialog.showModal();
		cancel.focus();
	});
}
