import { BpfProgram, probe } from 'libbpf-napi';

/** Who runs first where several programs share a hook: tcx goes by the order of attaching, clsact by number. */
export const order = { gate: 1, shadow: 2 } as const;

/**
 * Attaches a program to stay with the device when this process dies, in place of
 * those of the same name that an earlier agent left there. The new one is there
 * before the old ones go, so that no packet passes unseen.
 *
 * Kernels before 6.6 have no tcx: there it becomes a clsact filter, which is
 * replaced in place. The verdicts mean the same in both.
 */
export function attachInPlace(program: BpfProgram, ifname: string, direction: 'ingress' | 'egress', priority: number): void {
  const hook = { ifname, direction };
  if (probe.tcx() === 'no') return program.attachClsactDetached({ ...hook, priority });
  const earlier = BpfProgram.queryTcx(hook).filter(({ name }) => name === program.name);
  program.attachTcxDetached(hook);
  for (const { progId } of earlier) BpfProgram.detachTcx({ ...hook, program: progId });
}
