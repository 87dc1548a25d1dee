/**
 * How clients see the connections of a VM that has been taken over: with other
 * sequence numbers and timestamps than the VM itself. Its host translates, and
 * its next secondary must be able to.
 */

import { ShadowFlow, ShadowFlowState, ShadowKey, type ShadowObjects } from './skel/shadow.skel.js';
import type { TranslatedFlow, Translations } from '../protocol/messages.js';

/** More cannot be handed on: the others break at the next takeover, if they still need help. They were all busy in the moment of the last one. */
export const mostTranslatedFlows = 4096;

type Flows = ShadowObjects['maps']['shadow_flows'];

export const noTranslations: Translations = { tsOffset: 0, flows: [] };

/**
 * Those of `generation`, first of all those with other numbers. The others may be of clients that know
 * more than the VM has said again. Also those that have ended, as long as they are remembered: what the
 * VM said last may have been lost, and once it is set back it says that again.
 */
export function readTranslations(map: Flows, tsOffset: number, generation: number): Translations {
  const translated: TranslatedFlow[] = [];
  const others: TranslatedFlow[] = [];
  for (const { count, keys, values } of map.raw.batches()) {
    const view = new DataView(values.buffer, values.byteOffset, values.byteLength);
    for (let i = 0; i < count; i++) {
      const flow = ShadowFlow.read(view, i * ShadowFlow.size);
      const settled = flow.state === ShadowFlowState.SHADOW_KNOWN || flow.state === ShadowFlowState.SHADOW_SILENT;
      if (!settled || flow.generation !== generation) continue;
      const key = Buffer.from(keys.subarray(i * ShadowKey.size, (i + 1) * ShadowKey.size)).toString('hex');
      (flow.seq_delta === 0 ? others : translated).push({ key, seqDelta: flow.seq_delta, tsDelta: flow.ts_delta });
    }
  }
  return { tsOffset, flows: [...translated, ...others].slice(0, mostTranslatedFlows) };
}

/**
 * What was handed on becomes flows that the VM has not spoken in yet.
 * @param behindMs what this VM's clock is behind that of the one before
 */
export function writeTranslations(map: Flows, { flows }: Translations, behindMs: number, generation: number, nowNs: bigint): void {
  const value = new Uint8Array(ShadowFlow.size);
  for (const { key, seqDelta, tsDelta } of flows) {
    ShadowFlow.write(new DataView(value.buffer), 0, ShadowFlow.create({
      state: ShadowFlowState.SHADOW_SILENT, seq_delta: seqDelta, handed_delta: seqDelta,
      ts_delta: (tsDelta + behindMs) >>> 0, generation, used_ns: nowNs,
    }));
    map.raw.update(Buffer.from(key, 'hex'), value);
  }
}
