import { BpfProgram } from 'libbpf-napi';

/**
 * Attaches a program to stay with the device when this process dies, in place of
 * those of the same name that an earlier agent left there. The new one is there
 * before the old ones go, so that no packet passes unseen.
 */
export function attachInPlace(program: BpfProgram, ifname: string, direction: 'ingress' | 'egress'): void {
  const hook = { ifname, direction };
  const earlier = BpfProgram.queryTcx(hook).filter(({ name }) => name === program.name);
  program.attachTcxDetached(hook);
  for (const { progId } of earlier) BpfProgram.detachTcx({ ...hook, program: progId });
}
