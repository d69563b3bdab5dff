// What every page is made with: elements, and numbers and times as people read them.
//
// Nothing here or anywhere else in the console takes markup: what came from a stranger gets into
// the page as the text of a node or as the value of an attribute that this code names.

/**
 * Makes an element. Properties beginning with "on" are listeners, the others attributes; false, null
 * and undefined leave one out. Children are nodes or text.
 */
export function h(tag, properties, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(properties ?? {})) {
		if (value === false || value === null || value === undefined) continue;
		if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
		else element.setAttribute(name, value === true ? '' : value);
	}
	element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
	return element;
}

/** Makes an element of a drawing. */
export function svg(tag, properties, ...children) {
	const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
	for (const [name, value] of Object.entries(properties ?? {})) element.setAttribute(name, value);
	element.append(...children);
	return element;
}

/** Writes text into a node, if it is another than before: what did not change is not drawn again. */
export function setText(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

const wholeNumbers = new Intl.NumberFormat();
const decimals = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

export const number = (n) => wholeNumbers.format(n ?? 0);

/** "1 callback", "2,000 callbacks". */
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
	const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
	let unit = 0;
	for (n = n ?? 0; n >= 1024 && unit < units.length - 1; unit++) n /= 1024;
	return `${unit === 0 ? wholeNumbers.format(n) : decimals.format(n)} ${units[unit]}`;
}

/** A length of time in its two largest units: "3 h 20 min". */
export function duration(seconds) {
	seconds = Math.max(seconds, 0);
	if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
	if (seconds < 10) return `${decimals.format(seconds)} s`;
	const whole = Math.round(seconds);
	const units = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
	const first = units.findIndex(([size]) => whole >= size);
	const [size, name] = units[first];
	const rest = first + 1 < units.length ? Math.floor((whole % size) / units[first + 1][0]) : 0;
	return `${Math.floor(whole / size)} ${name}${rest > 0 ? ` ${rest} ${units[first + 1][1]}` : ''}`;
}

const exactTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' });

/** A time as "3 min ago" or "in 10 s", exact on hover and for those who copy it. */
export const when = (timestamp) => timeOf(timestamp, 'ago');

/** How long something has been so: "for 3 min". */
export const since = (timestamp) => timeOf(timestamp, 'for');

function timeOf(timestamp, manner) {
	const node = h('time', { datetime: timestamp, title: exactTime.format(new Date(timestamp)), 'data-manner': manner });
	tellAge(node);
	return node;
}

function tellAge(node) {
	const seconds = (Date.now() - Date.parse(node.dateTime)) / 1000;
	const length = duration(Math.abs(seconds) < 1 ? 1 : Math.trunc(Math.abs(seconds)));
	if (node.dataset.manner === 'for') setText(node, `for ${length}`);
	else setText(node, seconds >= 0 ? `${length} ago` : `in ${length}`);
}

/** Times grow old while one looks at them. */
export function tellAges() {
	for (const node of document.querySelectorAll('time[data-manner]')) tellAge(node);
}

/** A word in a coloured frame. The word says it; the colour only helps to find it. */
export const badge = (kind, text) => h('span', { class: `badge ${kind}` }, text);

/** What stands where there is nothing to show, with what one may do about it. */
export const empty = (title, advice) => h('div', { class: 'empty' }, h('p', {}, h('strong', {}, title)), advice ? h('p', {}, advice) : null);

/** A table with a caption for those who cannot see where it is, scrolling by itself where it is too wide. */
export function table(caption, columns, rows, properties) {
	return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
		h('table', properties,
			h('caption', { class: 'hidden' }, caption),
			h('thead', {}, h('tr', {}, columns.map((column) => h('th', { scope: 'col', class: column.class }, column.title ?? column)))),
			h('tbody', {}, rows)));
}

/** Names and values. */
export function details(entries) {
	return h('dl', {}, entries.filter(([, value]) => value !== null && value !== undefined && value !== '')
		.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}
