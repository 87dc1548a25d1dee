import type { AgentStatus } from '../agent/agent.js';
import type { ServiceStats } from '../dataplane/services.js';

/** An agent's status for people: a few aligned lines. */
export function statusText(status: AgentStatus): string {
  const { output, checkpoints, peer, vm } = status;
  const rows: [string, string][] = [
    ['host', `${status.host} (${status.role}), agent ${status.pid}`],
    ['state', `${status.phase}${status.protected ? '' : `: ${status.reason}`}`],
    ['VM', vm.pid === null ? 'not running here' : `${vm.name}, ${vm.accel}, QEMU ${vm.qemu}, process ${vm.pid}${status.active ? '' : ', not speaking'}`],
    ['peer', peer === null ? 'not connected' : `${peer.host}, heard ${peer.silentMs.toFixed(0)} ms ago${peer.rttUs === null ? '' : `, round trip ${(peer.rttUs / 1000).toFixed(1)} ms`}`],
    ['generation', `${status.generation}`],
    ['commits', `${checkpoints.commits}${checkpoints.pauseMsP50 === null ? '' : `, pause p50 ${checkpoints.pauseMsP50.toFixed(1)} ms, p99 ${checkpoints.pauseMsP99?.toFixed(1)} ms`}`],
    ['held', `${output.heldPackets} packets, ${bytes(output.heldBytes)}${output.oldestMs > 0 ? `, oldest ${output.oldestMs.toFixed(1)} ms` : ''}`],
    ['output', `${output.releasedPackets} released${causesText(output.releasedBy)}, ${output.passedPackets} passed, ${output.droppedPackets} dropped`],
  ];
  for (const service of output.services) rows.push([`port ${service.port}`, serviceText(service)]);
  if (status.inputLog && status.role === 'primary' && status.protected) {
    rows.push(['inputs', `${output.inputSeq} mirrored, ${output.inputSeq - output.loggedSeq} not yet in the other host's log`]);
  }
  if (status.inputLog && status.role === 'secondary') {
    const { log } = status.inputLog;
    rows.push(['input log', `${log.loggedPackets} packets, ${bytes(log.loggedBytes)}${log.gaps > 0 ? `, ${log.gaps} gaps so far` : ''}`]);
  }
  const { vcpus } = status;
  if (vcpus.active) rows.push(['vCPUs', `${vcpus.active.length} of ${vcpus.of} active: ${vcpus.reason}`]);
  if (status.refusedConnections > 0) rows.push(['refused', `${status.refusedConnections} connections to the peer port`]);
  return rows.map(([name, text]) => `${name.padEnd(11)} ${text}`).join('\n');
}

export function serviceText(service: ServiceStats): string {
  const { order, unlogged, doubt, standing, off } = service.heldPackets;
  const early = service.prereleasedPackets + service.controlPackets;
  const held = order + unlogged + doubt + standing + off;
  const share = early + held === 0 ? '' : ` (${Math.round(100 * early / (early + held))} %)`;
  const why = Object.entries({ 'a write in doubt': doubt, 'not logged yet': unlogged, 'behind held ones': order, 'not to be followed': standing, 'pre-release off': off })
    .filter(([, count]) => count > 0).map(([name, count]) => `${count} ${name}`);
  return `${service.protocol}${service.preRelease ? '' : ', pre-release off'}: ${early} early${share}, ${held} held${why.length > 0 ? `: ${why.join(', ')}` : ''}`;
}

/** Told where it was not always a commit. */
function causesText({ commit, logged, match }: AgentStatus['output']['releasedBy']): string {
  return logged + match === 0 ? '' : ` (${commit} by commits, ${logged} by the input log, ${match} by matches)`;
}

export function bytes(count: number): string {
  if (count < 1024) return `${count} B`;
  if (count < 1024 * 1024) return `${(count / 1024).toFixed(1)} KiB`;
  return `${(count / 1024 / 1024).toFixed(1)} MiB`;
}
