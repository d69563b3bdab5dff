// Is it up? What is waiting, and why? What needs somebody stands first.

import { badge, bytes, count, details, duration, empty, h, number, since, svg, table, when } from './dom.js';
import { follow, post } from './api.js';

const longWait = 5 * 60; // seconds after which a callback that waits is worth a word
const nearlyFull = 0.9;
const mostRetrying = 1000; // the gateway counts no more of a route

export function show(page) {
	const parts = { needs: h('section'), routes: h('section'), hour: h('section'), rest: h('div', { class: 'columns' }) };
	page.append(h('h1', {}, 'Overview'), parts.needs, parts.routes, parts.hour, parts.rest);
	return follow('overview', (overview) => {
		const focused = document.activeElement?.id;
		parts.needs.replaceChildren(...needs(overview));
		parts.routes.replaceChildren(...routes(overview));
		parts.hour.replaceChildren(...hour(overview.minutes));
		parts.rest.replaceChildren(streams(overview), refusals(overview), ...inboxes(overview));
		if (focused) document.getElementById(focused)?.focus(); // a button that was drawn anew
	});
}

const callbacksOf = (route, state) => `#/callbacks?${new URLSearchParams({ path: route.path, route: route.route, state })}`;

/** Everything that somebody has to do something about, in words. */
function needs(overview) {
	const lines = [];
	const add = (kind, ...text) => lines.push(h('li', { class: kind }, ...text));
	for (const inbox of overview.inboxes) {
		if (inbox.error) {
			add('bad', h('strong', {}, 'The inbox does not answer: '), `${inbox.path} (${inbox.error}). What it has shows again when it does.`);
		}
		if (inbox.refusing) {
			add('bad', h('strong', {}, 'New callbacks are refused'), ` by the inbox ${inbox.path} `, since(inbox.refusing_since), `: ${inbox.remedy || inbox.refusing}`);
		} else if (inbox.max_bytes && inbox.disk_bytes > nearlyFull * inbox.max_bytes) {
			add('warn', h('strong', {}, 'Nearly full: '), `the inbox ${inbox.path} takes up ${bytes(inbox.disk_bytes)} of ${bytes(inbox.max_bytes)}.`);
		}
	}
	for (const route of overview.routes) {
		const name = h('strong', {}, route.route);
		if (route.down) {
			add('bad', h('strong', {}, 'Service down: '), `${route.route} has not answered `, since(route.down_since),
				route.last_error ? ` (${route.last_error})` : '', '. Its callbacks are kept and tried again by themselves.');
		}
		if (route.paused) add('warn', name, ' is paused: callbacks are accepted and wait until it is resumed.');
		if (!route.configured && route.pending > 0) {
			add('warn', name, ` has ${count(route.pending, 'callback')} that nobody delivers: no configuration names this route any more.`);
		}
		if (route.dead > 0) {
			add('warn', h('a', { href: callbacksOf(route, 'dead') }, count(route.dead, 'dead letter')), ` of ${route.route}: look at one to see why it was given up, then send them again or drop them.`);
		}
		if (!route.down && !route.paused && route.oldest_pending && ageOf(route.oldest_pending) > longWait) {
			add('warn', `The oldest callback of ${route.route} has been waiting `, since(route.oldest_pending), '.');
		}
	}
	if (overview.streams.ended_abnormally > 0) {
		add('warn', h('a', { href: '#/streams' }, count(overview.streams.ended_abnormally, 'stream')), ' of the last hour broke off instead of being closed: each was a live transcription that ended early.');
	}
	if (lines.length === 0) return [h('p', { class: 'good' }, 'Nothing needs you.')];
	return [h('h2', {}, 'Needs somebody'), h('ul', { class: 'needs' }, lines)];
}

const ageOf = (timestamp) => (Date.now() - Date.parse(timestamp)) / 1000;

function routes(overview) {
	const title = h('h2', {}, 'Routes');
	if (overview.routes.length === 0) {
		return [title, empty('No route has an inbox.', 'With the subdirective spool, callbacks are safe in an inbox before they are answered, and are shown here.')];
	}
	const several = overview.inboxes.length > 1;
	const rows = overview.routes.map((route, index) => h('tr', {},
		h('th', { scope: 'row' }, route.route, several ? h('small', {}, route.path) : null),
		h('td', {}, condition(route)),
		h('td', { class: 'number' }, number(route.accepted_per_minute)),
		h('td', { class: 'number' }, number(route.delivered_per_minute)),
		h('td', { class: 'number' },
			h('a', { href: callbacksOf(route, 'pending') }, number(route.pending)),
			route.pending > 0 ? h('small', {}, `${bytes(route.pending_bytes)}, ${number(route.in_flight)} being delivered`) : null),
		h('td', { class: 'number' }, number(route.retrying), route.retrying >= mostRetrying ? ' or more' : ''),
		h('td', {}, route.oldest_pending ? when(route.oldest_pending) : '–'),
		h('td', { class: 'number' }, h('a', { href: callbacksOf(route, 'dead'), class: route.dead > 0 ? 'attention' : null }, number(route.dead))),
		h('td', { class: 'number' }, h('a', { href: callbacksOf(route, 'delivered') }, number(route.delivered))),
		overview.read_only ? null : h('td', {}, pauseButton(route, index))));
	const columns = ['Route', 'Service', { title: 'Accepted/min', class: 'number' }, { title: 'Delivered/min', class: 'number' }, { title: 'Waiting', class: 'number' },
		{ title: 'Retrying', class: 'number' }, 'Oldest waiting', { title: 'Dead letters', class: 'number' }, { title: 'Kept', class: 'number' }];
	return [title, table('Routes', overview.read_only ? columns : [...columns, 'Action'], rows)];
}

function condition(route) {
	if (route.paused) return badge('warn', 'paused');
	if (!route.configured) return badge('warn', 'not configured');
	if (!route.down) return badge('good', 'up');
	return [badge('bad', 'down'), h('small', {}, route.next_probe ? ['next try ', when(route.next_probe)] : 'being tried now')];
}

function pauseButton(route, index) {
	const action = route.paused ? 'Resume' : 'Pause';
	const text = route.paused
		? [`Deliver the callbacks of ${route.route} again: ${count(route.pending, 'callback')} ${route.pending === 1 ? 'waits' : 'wait'}.`]
		: [`Deliver nothing of ${route.route} any more, until somebody resumes it. Callbacks are accepted as before and wait; this holds over restarts.`];
	return h('button', {
		type: 'button', id: `pause-${index}`, 'aria-label': `${action} ${route.route}`,
		onclick: async () => (await import('./dialog.js')).confirm({
			title: `${action} ${route.route}?`, text, action,
			act: async () => {
				await post(`spool/routes/${encodeURIComponent(route.route)}/${action.toLowerCase()}`, { path: route.path });
				return route.paused ? 'Resumed.' : 'Paused.';
			},
		}),
	}, action);
}

/** The last hour, a bar a minute. */
function hour(minutes) {
	const rows = [['Accepted', 'accepted'], ['Delivered', 'delivered'], ['Refused', 'refused']];
	return [h('h2', {}, 'The last hour'), h('div', { class: 'hour' }, rows.map(([title, name]) => {
		const values = minutes[name];
		const sum = values.reduce((total, value) => total + value, 0);
		const highest = Math.max(...values, 0);
		return h('figure', {},
			h('figcaption', {}, h('strong', {}, number(sum)), ` ${title.toLowerCase()}`, h('small', {}, `at most ${number(highest)} a minute`)),
			bars(name, values, Math.max(highest, 1), `${title}: ${number(sum)} in the last hour, at most ${number(highest)} in a minute`));
	}))];
}

function bars(name, values, highest, label) {
	const height = 40;
	return svg('svg', { viewBox: `0 0 ${values.length * 4} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label, class: name },
		...values.map((value, index) => {
			const tall = value > 0 ? Math.max(value / highest * height, 1) : 0;
			return svg('rect', { x: index * 4, y: height - tall, width: 3, height: tall });
		}));
}

function streams(overview) {
	return h('section', {}, h('h2', {}, 'Streams'), details([
		['Live', h('a', { href: '#/streams' }, number(overview.streams.live))],
		['Opened in the last hour', number(overview.streams.opened)],
		['Broken off in the last hour', number(overview.streams.ended_abnormally)],
	]));
}

function refusals(overview) {
	const reasons = Object.entries(overview.refusals).sort(([, a], [, b]) => b - a);
	return h('section', {}, h('h2', {}, 'Refused in the last hour'),
		reasons.length === 0 ? h('p', {}, 'Nothing.') : details(reasons.map(([reason, n]) => [reason, h('a', { href: '#/refusals' }, number(n))])));
}

function inboxes(overview) {
	return overview.inboxes.map((inbox) => h('section', {}, h('h2', {}, 'Inbox'), details([
		['Where', inbox.path],
		['Takes up', inbox.max_bytes ? `${bytes(inbox.disk_bytes)} of ${bytes(inbox.max_bytes)}` : bytes(inbox.disk_bytes)],
	]), gateways(inbox.gateways ?? [])));
}

function gateways(list) {
	if (list.length === 0) return null;
	return table('Gateways that share this inbox', ['Gateway', 'Version', 'Up for', 'Last seen', { title: 'Delivering', class: 'number' }, { title: 'Streams', class: 'number' }],
		list.map((gateway) => h('tr', {},
			h('th', { scope: 'row' }, gateway.name, gateway.self ? h('small', {}, 'this one') : null),
			h('td', {}, gateway.version),
			h('td', {}, duration(ageOf(gateway.since))),
			h('td', {}, when(gateway.last_seen)),
			h('td', { class: 'number' }, number(gateway.delivering)),
			h('td', { class: 'number' }, number(gateway.live_streams)))));
}
