// Who is streaming now, and who ended my stream?

import { badge, bytes, count, duration, empty, h, number, setText, table, when } from './dom.js';
import { follow, get, onceAtATime, remove } from './api.js';
import { confirm } from './dialog.js';

const rowsAtOnce = 100; // new rows in one go, so that a thousand do not stop the page
const normalEnds = ['closed', 'shutdown'];

export function show(page) {
	const summary = h('p', { role: 'status' });
	const live = h('div');
	const ended = h('div');
	page.append(h('h1', {}, 'Streams'), h('h2', {}, 'Live'), summary, live, h('h2', {}, 'Ended'), ended);

	const rows = new Map(); // by id
	const body = h('tbody', { role: 'rowgroup' });
	const shown = table('Live streams, the oldest first', ['Since', 'From', 'User', 'Path', 'Upstream', { title: 'From the caller', class: 'number' }, { title: 'From the backend', class: 'number' }, 'Action'], [], { class: 'live', role: 'table' });
	shown.querySelector('tbody').replaceWith(body);
	// Its rows are no table to the browser, see the style; to who listens to the page they are.
	shown.querySelector('thead').setAttribute('role', 'rowgroup');
	shown.querySelector('thead tr').setAttribute('role', 'row');
	for (const name of shown.querySelectorAll('th')) name.setAttribute('role', 'columnheader');
	const none = empty('No stream is live.', 'A stream comes up here when Deepgram opens a callback WebSocket.');
	live.append(shown, none);

	let lastIds = null;
	const drawEnded = onceAtATime(() => loadEnded(ended));
	let waiting = 0;
	let readOnly = true;
	let end = () => {};
	let left = false;
	const draw = (streams) => {
		setText(summary, streams.length > 0 ? `${count(streams.length, 'stream')}.` : '');
		shown.hidden = streams.length === 0;
		none.hidden = streams.length > 0;
		const ids = new Set(streams.map((stream) => stream.id));
		for (const [id, row] of rows) {
			if (ids.has(id)) continue;
			row.node.remove();
			rows.delete(id);
		}
		cancelAnimationFrame(waiting);
		update(streams, 0);
		// What is not live any more is among the ended.
		if (!lastIds || [...lastIds].some((id) => !ids.has(id))) drawEnded();
		lastIds = ids;
	};
	// Whether streams may be ended here has to be known before the first row is drawn.
	get('overview').then((overview) => { readOnly = overview.read_only; }, () => { /* follow says so */ })
		.then(() => { if (!left) end = follow('streams', draw); });

	function update(streams, from) {
		let made = 0;
		for (let index = from; index < streams.length; index++) {
			const stream = streams[index];
			let row = rows.get(stream.id);
			if (!row) {
				if (made++ === rowsAtOnce) {
					waiting = requestAnimationFrame(() => update(streams, index));
					return;
				}
				row = liveRow(stream, readOnly);
				rows.set(stream.id, row);
				body.append(row.node);
			}
			row.update(stream);
		}
	}

	return () => {
		left = true;
		cancelAnimationFrame(waiting);
		end();
	};
}

const traffic = (messages, size) => `${count(messages, 'message')}, ${bytes(size)}`;

function liveRow(stream, readOnly) {
	const cell = (kind, ...content) => h('td', { role: 'cell', class: kind }, ...content);
	const fromCaller = cell('number');
	const fromBackend = cell('number');
	const kill = {
		title: 'End this stream?', action: 'End it', danger: true,
		text: ['Both sides are told that the gateway goes away (1001). Deepgram then ends the whole live transcription: it cannot be taken up again.'],
		act: async () => {
			await remove(`streams/${encodeURIComponent(stream.id)}`);
			return 'It was told to end.';
		},
	};
	const node = h('tr', { role: 'row' },
		cell(null, when(stream.started_at)), cell('address', stream.client_ip), cell(null, stream.user || '–'),
		cell('long', h('span', {}, stream.path)), cell('address', stream.upstream), fromCaller, fromBackend,
		cell(null, readOnly ? '–' : h('button', { type: 'button', class: 'danger', onclick: () => confirm(kill) }, 'End …')));
	return {
		node,
		update(now) {
			setText(fromCaller, traffic(now.messages_from_caller, now.bytes_from_caller));
			setText(fromBackend, traffic(now.messages_from_backend, now.bytes_from_backend));
		},
	};
}

async function loadEnded(place) {
	let streams;
	try {
		streams = await get('streams', { state: 'ended' });
	} catch (error) {
		place.replaceChildren(h('p', { class: 'error' }, error.message));
		return;
	}
	if (streams.length === 0) {
		place.replaceChildren(empty('None since the gateway was started.'));
		return;
	}
	place.replaceChildren(table('Ended streams, the latest first', ['Ended', 'Why', 'By', 'Code', 'Lasted', 'From', 'User', 'Path', 'Upstream', 'Messages'],
		streams.map((stream) => h('tr', {},
			h('td', {}, when(stream.ended_at)),
			h('td', {}, badge(normalEnds.includes(stream.reason) ? 'good' : 'bad', stream.reason), stream.error ? h('small', {}, stream.error) : null),
			h('td', {}, stream.ended_by),
			h('td', {}, stream.close_code ? `${stream.close_code} ${stream.close_text ?? ''}` : '–'),
			h('td', {}, duration(stream.duration)),
			h('td', { class: 'address' }, stream.client_ip), h('td', {}, stream.user || '–'),
			h('td', { class: 'long' }, h('span', {}, stream.path)), h('td', { class: 'address' }, stream.upstream),
			h('td', { class: 'number' }, `${number(stream.messages_from_caller)} / ${number(stream.messages_from_backend)}`)))));
}
