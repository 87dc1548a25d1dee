/** A recording of vCPUs as a picture: one SVG that any browser shows, with nothing else needed. */

import type { VcpuRecording, VcpuSample } from './vcpu-recording.js';

const labelWidth = 90;
const plotWidth = 1000;
const laneHeight = 44;
const laneGap = 10;
const top = 64;
/** More decisions than this are drawn, but not written out. */
const listedDecisions = 24;
const lineHeight = 16;

const colours = { run: '#2e8b57', wait: '#e07b00', idle: '#e9ecef', others: '#6b7fa8', othersWait: '#c9a0a0', decision: '#b00020' } as const;

/** Lanes from top to bottom: each vCPU, then the host's other work. */
export function timelineSvg(recording: VcpuRecording, title: string): string {
  const { samples, vcpus, decisions } = recording;
  const fromNs = samples[0]?.window.fromNs ?? 0;
  const toNs = Math.max(fromNs + 1, samples.at(-1)?.window.toNs ?? 1);
  const x = (ns: number): number => labelWidth + Math.min(1, Math.max(0, (ns - fromNs) / (toNs - fromNs))) * plotWidth;
  const laneTop = (lane: number): number => top + lane * (laneHeight + laneGap);
  const bottom = laneTop(vcpus + 1);
  const listed = decisions.slice(0, listedDecisions);
  const height = bottom + 40 + (listed.length + (decisions.length > listed.length ? 1 : 0)) * lineHeight;
  const parts: string[] = [];

  for (let vcpu = 0; vcpu < vcpus; vcpu++) {
    parts.push(laneLabel(`vCPU ${vcpu}`, laneTop(vcpu)));
    for (const { window, active } of samples) {
      const seen = window.vcpus.find((one) => one.vcpu === vcpu);
      if (!seen) continue;
      const parked = active !== null && active.length > 0 && !active.includes(vcpu);
      const paused = active?.length === 0;
      const state = parked ? ', parked' : paused ? ', paused after commits' : '';
      const text = `vCPU ${vcpu}, ${seconds(window.fromNs - fromNs)}: runs ${percent(seen.run)}, waits ${percent(seen.wait)}${state}`;
      parts.push(column(x(window.fromNs), x(window.toNs), laneTop(vcpu), [[seen.run, colours.run], [seen.wait, colours.wait]], text));
    }
    for (const [from, to, kind] of stretches(samples, vcpu)) {
      parts.push(`<rect x="${n(x(from))}" y="${laneTop(vcpu)}" width="${n(x(to) - x(from))}" height="${laneHeight}" fill="url(#${kind})" pointer-events="none"/>`);
    }
  }

  const most = Math.max(1, ...samples.map(({ window: { others } }) => others.run + others.wait));
  parts.push(laneLabel('other work', laneTop(vcpus)), `<text x="${labelWidth - 8}" y="${laneTop(vcpus) + 10}" text-anchor="end" font-size="9" fill="#555">${most.toFixed(1)} tasks</text>`);
  for (const { window } of samples) {
    const { run, wait } = window.others;
    const text = `other work of the host, ${seconds(window.fromNs - fromNs)}: ${run.toFixed(1)} run, ${wait.toFixed(1)} wait`;
    parts.push(column(x(window.fromNs), x(window.toNs), laneTop(vcpus), [[run / most, colours.others], [wait / most, colours.othersWait]], text));
  }

  decisions.forEach((decision, i) => {
    const at = n(x(decision.atMs * 1e6));
    const text = `${i + 1}. ${decision.from} -> ${decision.to}: ${decision.reason}`;
    parts.push(`<g><title>${escaped(text)}</title><line x1="${at}" x2="${at}" y1="${top - 3}" y2="${bottom}" stroke="${colours.decision}" stroke-dasharray="4 3"/>`
      + `<text x="${at}" y="${top - 6}" text-anchor="middle" fill="${colours.decision}">${i + 1}</text></g>`);
  });
  listed.forEach((decision, i) => {
    const text = `${i + 1}. ${seconds(decision.atMs * 1e6 - fromNs)}: ${decision.from} -> ${decision.to} active (${decision.active.join(', ') || 'none'}): ${decision.reason}`;
    parts.push(`<text x="${labelWidth}" y="${bottom + 34 + i * lineHeight}">${escaped(text)}</text>`);
  });
  if (decisions.length > listed.length) {
    parts.push(`<text x="${labelWidth}" y="${bottom + 34 + listed.length * lineHeight}">and ${decisions.length - listed.length} more</text>`);
  }

  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${labelWidth + plotWidth + 20} ${height}" width="${labelWidth + plotWidth + 20}" height="${height}" font-family="sans-serif" font-size="12">
<title>${escaped(title)}</title>
<defs>
<pattern id="parked" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line y2="7" stroke="#555" stroke-width="1.6" opacity="0.45"/></pattern>
<pattern id="paused" width="8" height="8" patternUnits="userSpaceOnUse"><circle cx="4" cy="4" r="1" fill="#555" opacity="0.4"/></pattern>
</defs>
<rect width="100%" height="100%" fill="white"/>
<text x="${labelWidth}" y="20" font-size="15">${escaped(title)}</text>
${legend()}
${parts.join('\n')}
${axis(bottom, (toNs - fromNs) / 1e9)}
</svg>
`;
}

/** Spans in which a vCPU was parked, or its VM paused. */
function stretches(samples: readonly VcpuSample[], vcpu: number): [fromNs: number, toNs: number, kind: 'parked' | 'paused'][] {
  const found: [number, number, 'parked' | 'paused'][] = [];
  for (const { window, active } of samples) {
    if (active === null || active.includes(vcpu)) continue;
    const kind = active.length === 0 ? 'paused' : 'parked';
    const last = found.at(-1);
    if (last && last[1] === window.fromNs && last[2] === kind) last[1] = window.toNs;
    else found.push([window.fromNs, window.toNs, kind]);
  }
  return found;
}

/** A window of one lane: shares from the bottom up, the rest idle. */
function column(left: number, right: number, laneTop: number, shares: readonly (readonly [share: number, colour: string])[], text: string): string {
  const width = n(Math.max(0.5, right - left));
  let bottom = laneTop + laneHeight;
  const boxes = shares.map(([share, colour]) => {
    const height = Math.min(bottom - laneTop, share * laneHeight);
    bottom -= height;
    return height < 0.05 ? '' : `<rect x="${n(left)}" y="${n(bottom)}" width="${width}" height="${n(height)}" fill="${colour}"/>`;
  });
  return `<g shape-rendering="crispEdges"><title>${escaped(text)}</title><rect x="${n(left)}" y="${laneTop}" width="${width}" height="${laneHeight}" fill="${colours.idle}"/>${boxes.join('')}</g>`;
}

function laneLabel(text: string, laneTop: number): string {
  return `<text x="${labelWidth - 8}" y="${laneTop + laneHeight / 2 + 4}" text-anchor="end">${escaped(text)}</text>`;
}

function legend(): string {
  const entries: [string, string][] = [
    ['running', colours.run], ['waiting for a CPU', colours.wait], ['idle', colours.idle],
    ['parked', 'url(#parked)'], ['paused', 'url(#paused)'], ['other work runs', colours.others], ['other work waits', colours.othersWait],
  ];
  return entries.map(([name, fill], i) => {
    const x = labelWidth + i * 135;
    return `<rect x="${x}" y="28" width="12" height="12" fill="${fill}" stroke="#999" stroke-width="0.5"/><text x="${x + 17}" y="38">${name}</text>`;
  }).join('');
}

/** Seconds along the bottom, at most some ten marks. */
function axis(bottom: number, lengthSeconds: number): string {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 3600].find((one) => lengthSeconds / one <= 12) ?? lengthSeconds;
  const marks: string[] = [];
  for (let at = 0; at <= lengthSeconds; at += step) {
    const x = n(labelWidth + (at / lengthSeconds) * plotWidth);
    marks.push(`<text x="${x}" y="${bottom + 12}" text-anchor="middle" fill="#555">${Number(at.toFixed(1))} s</text>`);
  }
  return marks.join('');
}

function seconds(ns: number): string {
  return `${(ns / 1e9).toFixed(2)} s`;
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

function n(value: number): string {
  return value.toFixed(2);
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
