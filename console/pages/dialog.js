// Asking before something is done, and saying what became of it.

import { h } from './dom.js';

const dialog = document.getElementById('dialog');

/**
 * Says what an action will do and does it when that is confirmed. act is given a function that shows
 * progress; what it returns is the text that says what was done.
 */
export function confirm({ title, text, action, danger = false, act }) {
	return new Promise((resolve) => {
		const opener = document.activeElement;
		const status = h('p', { role: 'status' });
		const go = h('button', { type: 'button', class: danger ? 'danger' : 'primary' }, action);
		const cancel = h('button', { type: 'button' }, 'Cancel');
		let done = false;

		go.addEventListener('click', async () => {
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
		});
		cancel.addEventListener('click', () => dialog.close());
		dialog.addEventListener('close', function closed() {
			if (dialog.open) return; // the event of a question before comes late, as browsers may have it
			dialog.removeEventListener('close', closed);
			opener?.focus?.();
			resolve(done);
		});

		dialog.replaceChildren(
			h('h2', { id: 'dialog-title' }, title),
			...text.map((line) => h('p', {}, line)), status,
			h('div', { class: 'buttons' }, cancel, go));
		dialog.showModal();
		cancel.focus();
	});
}
