// A callback's body as people read it: a transcript as text with its speakers, any JSON folded,
// audio to be played, everything else as bytes to save.

import { bytes, count, h } from './dom.js';
const unfolded = 2; // levels of JSON that are open at first
const manyEntries = 200; // entries of one object or list that are shown at once

/** Returns the nodes that show a body. */
export function showBody(message, buffer) {
	const type = (message.content_type ?? '').split(';')[0].trim().toLowerCase();
	if (type.startsWith('audio/')) return [player(type, buffer)];
	let value;
	try {
		value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(buffer));
	} catch {
		return [h('p', {}, `${bytes(buffer.byteLength)} that are no JSON. Save them as a file to look at them.`)];
	}
	const paragraphs = transcript(value);
	const json = h('details', { open: paragraphs.length === 0 }, h('summary', {}, 'JSON'), tree(value, 0));
	if (paragraphs.length === 0) return [json];
	return [h('div', { class: 'transcript' }, paragraphs.map(paragraph)), json];
}

/** Plays what was fetched: the gateway gives bodies a type that no browser plays or runs. */
function player(type, buffer) {
	const address = URL.createObjectURL(new Blob([buffer], { type }));
	addEventListener('hashchange', () => URL.revokeObjectURL(address), { once: true });
	return h('audio', { controls: true, preload: 'metadata', src: address });
}

function paragraph({ speaker, start, text }) {
	const who = [speaker, start === undefined ? null : clock(start)].filter(Boolean).join(', ');
	return h('p', {}, who ? h('span', { class: 'speaker' }, who) : null, text);
}

/** Seconds into the recording, as 1:02:03. */
function clock(seconds) {
	const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
	if (parts[0] === 0) parts.shift();
	return parts.map((part, index) => index === 0 ? String(part) : String(part).padStart(2, '0')).join(':');
}

const list = (value) => Array.isArray(value) ? value : [];
const text = (value) => typeof value === 'string' ? value.trim() : '';

/** The paragraphs of any of the vendor's results that has text, in the best form that it has. */
function transcript(value) {
	const results = value?.results;
	const live = text(value?.channel?.alternatives?.[0]?.transcript);
	if (live) return [{ start: value.start, text: live }];
	const channels = list(results?.channels);
	const spoken = channels.flatMap((channel, index) => {
		const found = spokenOn(channel, channels.length === 1 ? results : null);
		return channels.length === 1 ? found : found.map((each) => ({ ...each, speaker: [`Channel ${index + 1}`, each.speaker].filter(Boolean).join(', ') }));
	});
	const summary = text(results?.summary?.text) || text(results?.summary?.short);
	return [...(summary ? [{ speaker: 'Summary', text: summary }] : []), ...spoken].filter((each) => each.text);
}

/** What was said on one channel: by paragraphs, else by utterances, else as one piece. */
function spokenOn(channel, results) {
	const alternative = channel?.alternatives?.[0];
	const paragraphs = list(alternative?.paragraphs?.paragraphs);
	if (paragraphs.length > 0) {
		return paragraphs.map((each) => ({ speaker: speakerOf(each), start: each?.start, text: list(each?.sentences).map((sentence) => text(sentence?.text)).join(' ') }));
	}
	const turns = [];
	for (const utterance of list(results?.utterances)) {
		const speaker = speakerOf(utterance);
		const last = turns.at(-1);
		if (last && last.speaker === speaker) last.text += ` ${text(utterance?.transcript)}`;
		else turns.push({ speaker, start: utterance?.start, text: text(utterance?.transcript) });
	}
	return turns.length > 0 ? turns : [{ text: text(alternative?.transcript) }];
}

const speakerOf = (part) => Number.isInteger(part?.speaker) ? `Speaker ${part.speaker + 1}` : undefined;

/** JSON, one level at a time: what is folded is made when it is opened. */
function tree(value, depth) {
	if (value === null || typeof value !== 'object') return h('span', { class: `json ${typeof value}` }, JSON.stringify(value));
	const entries = Array.isArray(value) ? value.map((each, index) => [String(index), each]) : Object.entries(value);
	const items = h('ul', { class: 'json' });
	const add = (from) => {
		items.append(...entries.slice(from, from + manyEntries).map((entry) => item(entry, depth)));
		const left = entries.length - from - manyEntries;
		if (left <= 0) return;
		const more = h('button', { type: 'button', onclick: () => { more.parentElement.remove(); add(from + manyEntries); } }, `${left} more`);
		items.append(h('li', {}, more));
	};
	add(0);
	return items;
}

function item([name, value], depth) {
	if (value === null || typeof value !== 'object') return h('li', {}, h('span', { class: 'key' }, `${name}: `), tree(value, depth));
	const size = Array.isArray(value) ? value.length : Object.keys(value).length;
	if (size === 0) return h('li', {}, h('span', { class: 'key' }, `${name}: `), Array.isArray(value) ? '[]' : '{}');
	const folded = h('details', { open: depth + 1 < unfolded && size <= 20 }, h('summary', {}, h('span', { class: 'key' }, name), ` ${Array.isArray(value) ? `list of ${size}` : count(size, 'field')}`));
	const fill = () => { if (folded.open && folded.childElementCount === 1) folded.append(tree(value, depth + 1)); };
	folded.addEventListener('toggle', fill);
	fill();
	return h('li', {}, folded);
}
